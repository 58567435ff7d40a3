"""Celery apps inside the test's own process, to send tasks with and to wait for results."""

import contextlib
from collections.abc import Iterator

import kombu.pools
from celery import Celery


@contextlib.contextmanager
def client_app(broker_url: str, result_url: str | None = None) -> Iterator[Celery]:
    """An app that knows no task: send by name. All its connections are closed at the end."""
    app = Celery("client", broker=broker_url, backend=result_url, set_as_current=False)
    try:
        yield app
    finally:
        # Celery's own close() closes no connection, and an open one is a ResourceWarning: an error.
        # A result that nobody collected would connect again from its finaliser: cut that as well.
        app.backend.remove_pending_result = lambda result: result
        consumer = getattr(app.backend, "result_consumer", None)
        if consumer is not None and getattr(consumer, "_consumer", None):  # rpc
            consumer.stop()
        if consumer is not None and getattr(consumer, "_pubsub", None):  # redis
            consumer._pubsub.close()
        if "client" in vars(app.backend):  # redis
            app.backend.client.close()
        kombu.pools.reset()
        app.close()
