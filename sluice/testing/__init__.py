"""Test doubles for programs that use Sluice, and for Sluice's own tests.

:class:`IngestServer` is a local ingest endpoint that speaks the contract over real sockets
and misbehaves on request.  It keeps what it was sent, so a test can ask what arrived::

    with IngestServer() as server:
        sluice.init(api_url=server.url, api_key="sk_test", connection_id=str(uuid4()))
        ...
        assert server.wait_for(lambda s: len(s.events()) == 5, timeout=10)
        server.answer = Answer(503)           # from now on; a callable decides per request

:class:`FakeClock` is a clock that moves only when it is told to, or waited on.
"""

from sluice.testing.clock import FakeClock
from sluice.testing.http import Answer, Received, error_body, reject_if
from sluice.testing.ingest import IngestServer

__all__ = ["Answer", "FakeClock", "IngestServer", "Received", "error_body", "reject_if"]
