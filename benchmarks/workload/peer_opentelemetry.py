"""OpenTelemetry's Celery instrumentation, with the SDK's batch processor and OTLP over HTTP.

The documentation has the provider made in ``worker_process_init``, after the fork; Celery sends
that in prefork and in solo, so elsewhere it is made with the app.  What it does not say, and
somebody who counts finds out: a prefork child ends without Python's exit handlers, and takes up
to five seconds of spans along.  So the provider is shut down in ``worker_process_shutdown``.
"""

from __future__ import annotations

from typing import Any

import given
from celery import signals
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor


def set_up(app: Any) -> None:
    """Instrument the processes that run tasks."""
    if given.POOL in {"prefork", "solo"}:
        signals.worker_process_init.connect(_instrument, weak=False)
        signals.worker_process_shutdown.connect(_shut_down, weak=False)
    else:
        _instrument()


def _instrument(**_: Any) -> None:
    provider = TracerProvider(resource=Resource.create({"service.name": "bench"}))
    exporter = OTLPSpanExporter(endpoint=f"{given.URL}/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter, **given.OPTIONS))
    trace.set_tracer_provider(provider)
    CeleryInstrumentor().instrument()


def _shut_down(**_: Any) -> None:
    provider = trace.get_tracer_provider()
    if isinstance(provider, TracerProvider):
        provider.shutdown()
