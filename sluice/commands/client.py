"""Reading from a collector over HTTP, and what it means where that does not succeed."""

from __future__ import annotations

import os
from typing import Any, Final
from urllib.parse import urlsplit

import requests

from sluice._version import __version__
from sluice.commands.address import TOKEN_VARIABLE, Address
from sluice.commands.ending import NoAnswer, NotReached
from sluice.commands.terminal import first_line
from sluice.config import is_this_machine
from sluice.http import describe

#: Seconds to connect, and between two parts of an answer.
_TIMEOUT: Final = (5.0, 30.0)
Query = dict[str, str | int | list[str] | None]


class Collector:
    """The read API of one collector.

    A proxy is not asked for what is on this machine, and no redirect is followed: the token
    stays with who was named.
    """

    def __init__(self, address: Address) -> None:
        self._api = address.api
        #: Where its page is.
        self.page: Final = address.api.removesuffix("/api")
        self._session = requests.Session()
        self._session.trust_env = False
        host = urlsplit(address.api).hostname or ""
        if not is_this_machine(host):
            self._session.proxies = requests.utils.get_environ_proxies(address.api)
        self._session.verify = (
            os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True
        )
        self._session.headers["User-Agent"] = f"sluice-cli/{__version__}"
        if address.token is not None:
            self._session.headers["Authorization"] = f"Bearer {address.token}"

    def get(self, path: str, query: Query | None = None) -> dict[str, Any]:
        """The answer to ``GET {api}/{path}``, an object of JSON.

        Raises :class:`NotReached` where nothing answers (or 429, or 500 and above), and
        :class:`NoAnswer` where the answer is none of a collector's.
        """
        try:
            response = self._session.get(
                f"{self._api}/{path}", params=query, timeout=_TIMEOUT, allow_redirects=False
            )
        except (requests.RequestException, OSError, ValueError) as error:
            raise NotReached(
                f"No collector answers at {self.page}: {describe(error)}."
                " Start one with `sluice dev`, or name another with --url."
            ) from None
        if response.status_code != 200:
            raise self._refusal(response)
        answer = _object(response)
        if answer is None:
            raise NoAnswer(
                f"What answers at {self.page} is no collector of Sluice's."
                " Name one with --url, or start one with `sluice dev`."
            )
        return answer

    def _refusal(self, response: requests.Response) -> NoAnswer:
        status = response.status_code
        if status == 401:
            return NoAnswer(
                f"The collector at {self.page} asks for a token, or for another one."
                f" Give it with {TOKEN_VARIABLE} or --token; `sluice dev` prints it in its URL.",
                status,
            )
        error = (_object(response) or {}).get("error")
        told = first_line(str(error.get("message", ""))) if isinstance(error, dict) else ""
        happened = f"{self.page} answered {status}"
        if told:
            happened += f" ({told.rstrip('.')})"
        kind = NotReached if status >= 500 or status == 429 else NoAnswer
        return kind(f"{happened}. Is this the URL of a collector's page?", status)


def _object(response: requests.Response) -> dict[str, Any] | None:
    try:
        answer = response.json()
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None
