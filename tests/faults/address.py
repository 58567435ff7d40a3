"""The address of an API, where somebody else is found from time to time: real sockets, real TLS."""

import contextlib
import datetime as dt
import ssl
from collections.abc import Iterator
from pathlib import Path

import trustme

from sluice.testing import IngestServer
from tests.harness.front import Front


class Address:
    """`https://NAME:port/api`: the API, and what may be found there in its place.

    The troubles of the connection are those of `front`.
    """

    def __init__(self, folder: Path, name: str = "localhost") -> None:
        authority = trustme.CA()
        self.bundle = folder / "ca.pem"
        authority.cert_pem.write_to_path(self.bundle)
        yesterday = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
        self.server = IngestServer(tls=_context(authority.issue_cert(name)))
        self._impostors = {
            "expired": IngestServer(tls=_context(authority.issue_cert(name, not_after=yesterday))),
            "of another host": IngestServer(tls=_context(authority.issue_cert("elsewhere.test"))),
            "of an unknown authority": IngestServer(tls=_context(trustme.CA().issue_cert(name))),
            "no TLS": IngestServer(),
        }
        self.front = Front(self.server.port)
        self.url = f"https://{name}:{self.front.port}/api"

    def close(self) -> None:
        for one in (self.front, self.server, *self._impostors.values()):
            one.close()

    @contextlib.contextmanager
    def impostor(self, kind: str) -> Iterator[None]:
        """Somebody whom nobody may trust answers."""
        impostor = self._impostors[kind]
        before = impostor.connections
        with self.front.refused():
            self.front.target = impostor.port
        yield
        assert impostor.connections > before, "it was spoken to"
        with self.front.refused():
            self.front.target = self.server.port
        assert impostor.requests == [], "and told nothing"


def _context(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context
