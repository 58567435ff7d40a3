"""What reached the broker as Celery's own events, as Flower would see it."""

import contextlib
import threading
import uuid
from typing import Any, Self

from celery.events.receiver import EventReceiver

from tests.harness.clients import client_app
from tests.harness.waiting import wait_for

_MARKER = "tap-marker"


class CeleryEvents:
    """A context manager that gathers every event message on the broker into `events`.

    It is subscribed when the `with` block begins. Works on Redis and RabbitMQ alike.
    """

    def __init__(self, broker_url: str) -> None:
        self.events: list[dict[str, Any]] = []
        self._markers: set[str] = set()
        self._closing = contextlib.ExitStack()
        self._app = self._closing.enter_context(client_app(broker_url))
        self._receiver: EventReceiver | None = None
        self._thread = threading.Thread(target=self._run, name="celery events tap", daemon=True)

    def _run(self) -> None:
        with self._app.connection_for_read() as connection:
            receiver = EventReceiver(
                connection,
                handlers={"*": self.events.append, _MARKER: self._saw_marker},
                app=self._app,
                node_id=uuid.uuid4().hex,
            )
            self._receiver = receiver
            for _ in receiver.consume(limit=None, timeout=None, safety_interval=0.1, wakeup=False):
                pass

    def _saw_marker(self, event: dict[str, Any]) -> None:
        self._markers.add(event["marker"])

    def settle(self, timeout: float = 10.0) -> None:
        """Wait until everything that was published before this call is in `events`."""
        marker = uuid.uuid4().hex
        with self._app.events.default_dispatcher() as dispatcher:

            def came_back() -> bool:
                dispatcher.send(_MARKER, marker=marker)
                return marker in self._markers

            wait_for(came_back, timeout, "an event of our own to come back from the broker")

    def types(self, prefix: str = "") -> list[str]:
        """The types of the events so far, in order, of those that start with `prefix`."""
        return [e["type"] for e in list(self.events) if e["type"].startswith(prefix)]

    def __enter__(self) -> Self:
        self._thread.start()
        self.settle()
        return self

    def __exit__(self, *_: object) -> None:
        if self._receiver is not None:
            self._receiver.should_stop = True
        self._thread.join(5)
        self._closing.close()
