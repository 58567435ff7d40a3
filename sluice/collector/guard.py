"""Who may ask for what: an ASGI middleware before every route.

Guarantees
----------
* A page of somebody else's cannot use the browser of a user: the ``Host`` must be one of ours
  (a name that was made to point here is refused), no answer allows another origin, and what
  changes something is refused where ``Origin`` or ``Sec-Fetch-Site`` names another site.
* Where others than this machine can connect, a token is asked for, compared in constant time;
  ingest asks for a key instead.
* Every answer forbids inline script, framing and guessing of types.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import parse_qs, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sluice.collector.answers import refusal

_LOOPBACK: Final = frozenset(("localhost", "127.0.0.1", "::1"))
#: Not asked for a token: ingest has its key, and a load balancer has none.
_WITHOUT_TOKEN: Final = frozenset(("/api/ingest", "/api/health"))
_HOST: Final = re.compile(r"(?P<name>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?")
#: Behind a proxy the page may be https, and what is heard here is not.
_WEB: Final = ("http", "https")
_SAFE: Final = frozenset(("GET", "HEAD", "OPTIONS"))
_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
        " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_HOW_TO_ENTER: Final = (
    "This collector asks for a token. Open the URL that it printed when it started,"
    " the one with ?token= in it.\n"
)


class Guard:
    """See above.  `hosts`: the names by which it may be asked; None: any, where a token is."""

    def __init__(self, app: ASGIApp, *, hosts: Iterable[str] | None, token: str | None) -> None:
        self._app = app
        self._hosts = None if hosts is None else _LOOPBACK | {one.lower() for one in hosts}
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = self._refused(scope)

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await (answer or self._app)(scope, receive, guarded)

    def _refused(self, scope: Scope) -> Response | None:
        """The answer, where the request does not get through."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._is_ours(host):
            return refusal(
                403,
                "FORBIDDEN",
                f"The host {host[:200]!r} is none of this collector's."
                " Start it with --allowed-host NAME where that is a name of it.",
            )
        if not _is_same_site(scope["method"], scope["path"], headers, host):
            return refusal(403, "FORBIDDEN", "Pages of other sites may not use this collector.")
        if self._token is None or scope["path"] in _WITHOUT_TOKEN:
            return None
        return self._without_token(scope, headers, host)

    def _is_ours(self, host: str) -> bool:
        if self._hosts is None:
            return True
        found = _HOST.fullmatch(host)
        return found is not None and found["name"].strip("[]").lower() in self._hosts

    def _without_token(
        self, scope: Scope, headers: Mapping[str, str], host: str
    ) -> Response | None:
        """Let in who shows the token; who brings it in the URL gets a cookie for later."""
        cookie = f"sluice_{_port(host)}"
        if scope["path"] == "/":
            query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
            if self._is_token(query.pop("token", [""])[0]):
                rest = urlencode(query, doseq=True)
                answer = RedirectResponse("/" + (f"?{rest}" if rest else ""), 303)
                answer.set_cookie(cookie, self._token or "", httponly=True, samesite="lax")
                return answer
        shown = cookie_parser(headers.get("cookie", "")).get(cookie, "")
        kind, _, credentials = headers.get("authorization", "").partition(" ")
        if self._is_token(shown) or (kind.lower() == "bearer" and self._is_token(credentials)):
            return None
        if scope["path"] == "/":
            return PlainTextResponse(_HOW_TO_ENTER, 401)
        return refusal(401, "UNAUTHORIZED", "The token is missing or wrong.")

    def _is_token(self, shown: str) -> bool:
        return hmac.compare_digest(shown.encode(), (self._token or "").encode())


def _port(host: str) -> int:
    """The port that a browser asked: cookies do not tell ports apart, and two may run here."""
    found = _HOST.fullmatch(host)
    return int(found["port"] or 80) if found is not None else 80


def _is_same_site(method: str, path: str, headers: Mapping[str, str], host: str) -> bool:
    """Whether no page of another site asks for data, or for a change."""
    if not path.startswith("/api/"):
        return True
    origin = headers.get("origin")
    if origin is not None and origin.lower() not in (f"{one}://{host.lower()}" for one in _WEB):
        return False
    site = headers.get("sec-fetch-site", "none")
    # "same-site" is another port of this machine, or a neighbour under one domain.
    return site in ("none", "same-origin") or (method in _SAFE and path == "/api/health")
