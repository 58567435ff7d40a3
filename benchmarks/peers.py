"""Who is measured beside Sluice: what each needs, how its worker starts, what it tells.

Every variant runs the same app (``workload/app.py``) in an environment of its own
(:mod:`benchmarks.environments`), and delivers to a receiver of its own
(:mod:`benchmarks.receiver`).  What was found out about each is in ``PEERS.md``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

#: The folder that a worker is started in, and all of this repository that it can import.
WORKLOAD: Final = Path(__file__).parent / "workload"

#: How deliveries are seen: as HTTP requests, as Celery's events or as entries of a stream on the
#: broker, or not at all, because there are none.
Way = Literal["http", "celery events", "stream", "none"]

#: Variables that would decide for a worker what the harness has to decide.
_FOREIGN: Final = ("BENCH_", "CELERY_", "SLUICE_", "SENTRY_", "OTEL_", "CELERYRADAR_", "PYTHON")
_PROXIES: Final = frozenset(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"))


@dataclass(frozen=True)
class Peer:
    """One variant."""

    #: Its name on command lines and in files.
    name: str
    #: Its name in tables.
    title: str
    #: What pip installs beside Celery, with exact versions.
    requirements: tuple[str, ...] = ()
    #: Whether the checkout that is measured is installed too.
    checkout: bool = False
    #: The ``peer_<module>`` of the workload that sets it up; empty where nothing is set up.
    module: str = ""
    #: What its worker is started with beside the options of all workers.
    worker_args: tuple[str, ...] = ()
    #: Keywords for the tool's own set-up on top of those in its module.
    options: Mapping[str, Any] = field(default_factory=dict)
    way: Way = "none"
    #: What it says of tasks, by its design, in the words of :mod:`benchmarks.protocols`; a task
    #: that ends tells one of succeeded and failed.
    tells: tuple[str, ...] = ()

    def command(
        self, python: Path, pool: str, *, concurrency: int = 2, args: Sequence[str] = ()
    ) -> list[str]:
        """The command line of its worker, to be run in :data:`WORKLOAD`.

        `python` is that of its environment.  Without the small talk between workers, which
        would be told by some variants and cost all of them.
        """
        worker = [str(python), "-m", "celery", "-A", "app", "worker", "-P", pool]
        quiet = ["--without-mingle", "--without-gossip"]
        return [*worker, "-c", str(concurrency), *quiet, *self.worker_args, *args]

    def environment(
        self,
        broker_url: str,
        pool: str,
        *,
        url: str = "",
        conf: Mapping[str, Any] | None = None,
        extra: Mapping[str, str] | None = None,
    ) -> dict[str, str]:
        """The variables of its worker.

        `url` is the receiver's, `conf` holds Celery's settings on top of the app's own, `extra`
        has the last word.
        """
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(_FOREIGN) and name.upper() not in _PROXIES
        }
        given = {
            "BENCH_BROKER_URL": broker_url,
            "BENCH_POOL": pool,
            "BENCH_PEER": self.module,
            "BENCH_URL": url,
            "BENCH_CONF": json.dumps(dict(conf or {})),
            "BENCH_OPTIONS": json.dumps(dict(self.options)),
        }
        return {**kept, **given, **(extra or {})}


PEERS: Final = (
    Peer("nothing", "nothing"),
    Peer("nothing-again", "nothing, again (A/A)"),
    Peer(
        "sluice",
        "Sluice",
        checkout=True,
        module="sluice",
        way="http",
        tells=("sent", "received", "started", "succeeded", "failed"),
    ),
    Peer("floor", "three appends", checkout=True, module="floor"),
    Peer(
        "celery-events",
        "Celery's events (-E)",
        worker_args=("-E",),
        way="celery events",
        tells=("received", "started", "succeeded", "failed"),
    ),
    Peer(
        "sentry",
        "sentry-sdk",
        requirements=("sentry-sdk==2.75.0",),
        module="sentry",
        way="http",
        tells=("sent", "started", "succeeded", "failed"),
    ),
    Peer(
        "opentelemetry",
        "OpenTelemetry",
        requirements=(
            "opentelemetry-instrumentation-celery==0.66b2",
            "opentelemetry-sdk==1.45.2",
            "opentelemetry-exporter-otlp-proto-http==1.45.2",
        ),
        module="opentelemetry",
        way="http",
        tells=("sent", "started", "succeeded", "failed"),
    ),
    Peer(
        "stemtrace",
        "stemtrace",
        requirements=("stemtrace==0.4.5",),
        module="stemtrace",
        way="stream",
        tells=("sent", "started", "succeeded", "failed"),
    ),
    Peer(
        "celeryradar",
        "celeryradar-sdk",
        requirements=("celeryradar-sdk==0.2.2",),
        module="celeryradar",
        way="http",
        tells=("started", "succeeded", "failed"),
    ),
    Peer(
        "sluice-celery",
        "sluice-celery",
        requirements=("sluice-celery==0.1.0",),
        module="sluice_celery",
        way="http",
        tells=("received", "started", "succeeded", "failed"),
    ),
)


def named(name: str) -> Peer:
    """The variant of this name.  Raises :class:`ValueError` that lists those there are."""
    for peer in PEERS:
        if peer.name == name:
            return peer
    names = ", ".join(peer.name for peer in PEERS)
    raise ValueError(f"there is no variant {name!r}; there are {names}")
