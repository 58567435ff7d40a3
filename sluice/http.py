"""One batch -> one outcome.  Knows status codes and the network, not rings or events.

One `requests` session on the sender's thread, kept alive; `tenacity` repeats what can
succeed later.  Redirects are not followed, so that the key never travels to another host;
proxies and CA bundles come from the environment, once, when the session is made.
"""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum, auto
from math import inf
from typing import Any, Final, NamedTuple

from sluice._version import __version__
from sluice.config import Settings
from sluice.connection import Sockets, adapter
from sluice.native import Native

#: Seconds.  Between tries: full jitter under an exponential bound, capped.
FIRST_BACKOFF: Final = 0.5
LONGEST_BACKOFF: Final = 30.0
#: A server that says "come back tomorrow" is asked once an hour.
LONGEST_RETRY_AFTER: Final = 3600.0
#: How often a refused key, or an address that is not the API's, is tried again.
PROBE_INTERVAL: Final = 300.0
#: What `requests` says where there is no such CA bundle; the rest of its text is the path.
_NO_BUNDLE: Final = "CA certificate bundle, invalid path"
#: Bytes of an answer that are read, so that the connection can be used again.
_ANSWER_READ: Final = 64 * 1024


#: Loggers of urllib3 and what it uses that say something of a request.
_TALKATIVE: Final = (
    *("urllib3.connection", "urllib3.connectionpool", "urllib3.poolmanager", "urllib3.response"),
    *("urllib3.util.retry", "urllib3.util.ssl_", "urllib3.contrib.socks"),
)


class _Silence:
    """A filter for the loggers of the libraries, which are the application's, too.

    What they say on the sender's thread is not logged: a handler can take its time there, hold
    a lock at a fork, or send a task, and so the next event.
    """

    def __init__(self, thread: int) -> None:
        self._thread = thread
        self._pid = os.getpid()

    def filter(self, record: Any) -> bool:
        """Whether somebody else's request is told of; a forked child's threads have any number."""
        return bool(record.thread != self._thread) or os.getpid() != self._pid


class Verdict(Enum):
    """What the sender should do with a batch."""

    DELIVERED = auto()
    #: The network, the server or its limits are in the way: the same batch, later.
    LATER = auto()
    #: 401 or 403: nothing will be taken until someone changes the key.
    UNAUTHORIZED = auto()
    #: A redirect, a 404, another 4xx: this is not the ingest API.
    MISDIRECTED = auto()
    #: 413: half of it may pass.
    TOO_LARGE = auto()
    #: 400, 409 or 422: at least one event in it is bad.
    REJECTED = auto()


#: Verdicts for which the same batch is sent again.
TRY_AGAIN: Final = frozenset((Verdict.LATER, Verdict.UNAUTHORIZED, Verdict.MISDIRECTED))


@dataclass(frozen=True)
class Outcome:
    """What became of one batch."""

    verdict: Verdict
    #: For people; never holds a URL, a key or anything that the server wrote.
    reason: str = ""
    #: Seconds that the server asked to wait.
    retry_after: float | None = None
    #: A 500: the server is in trouble, or has it with something in this batch.
    doubtful: bool = False


class Patience(NamedTuple):
    """Answers of 500 in a row, over so many seconds, after which a body is not tried again."""

    tries: int
    seconds: float


def judge(status: int, retry_after: str | None = None) -> Outcome:
    """What a status code means for the batch."""
    reason = f"the API answered {status}"
    if 200 <= status < 300:
        return Outcome(Verdict.DELIVERED, reason)
    if status in (401, 403):
        return Outcome(Verdict.UNAUTHORIZED, reason)
    if status == 413:
        return Outcome(Verdict.TOO_LARGE, reason)
    if status in (400, 409, 422):
        return Outcome(Verdict.REJECTED, reason)
    if status >= 500 or status in (408, 425, 429):
        wait = seconds_to_wait(retry_after)
        return Outcome(Verdict.LATER, reason, wait, doubtful=status == 500 and wait is None)
    if 300 <= status < 400:
        reason += " (a redirect, which is not followed: the key would go along)"
    return Outcome(Verdict.MISDIRECTED, reason)


def seconds_to_wait(retry_after: str | None, now: datetime | None = None) -> float | None:
    """The seconds of a ``Retry-After`` header, or None where it says nothing usable.

    Takes seconds and HTTP dates; what is negative or past is None, a day is an hour.
    """
    if not retry_after:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            date = parsedate_to_datetime(retry_after)
        except (ValueError, OverflowError):
            return None
        if date.tzinfo is None:
            date = date.replace(tzinfo=UTC)
        seconds = (date - (now or datetime.now(UTC))).total_seconds()
    return min(seconds, LONGEST_RETRY_AFTER) if seconds > 0 else None


class Deliverer:
    """Posts bodies to the ingest API until something decides their fate.

    `pause` waits between tries: called with seconds, it may return sooner.  `time_left`
    gives the seconds until delivery must end, infinity until then.  `on_trouble` hears of
    every try that did not succeed.
    """

    def __init__(
        self,
        settings: Settings,
        native: Native,
        *,
        pause: Callable[[float], None],
        time_left: Callable[[], float],
        on_trouble: Callable[[Outcome], None],
    ) -> None:
        self._url = settings.api_url + "/ingest"
        self._connect_timeout, self._read_timeout = settings.request_timeout
        self._time_left = time_left
        self._on_trouble = on_trouble
        #: Requests made so far.
        self.requests = 0
        self._patience = Patience(1, inf)
        #: Answers of 500 in a row to the present body, and when the first one came.
        self._stumbles, self._stumbled_at = 0, 0.0
        #: For a child that is forked beside the sender.
        self.sockets: Final = Sockets()
        self._session = _session(native.requests, self._url, settings)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, adapter(native.requests, self.sockets))
        self._silence = _Silence(native.threading.get_ident())
        self._loggers = [native.logging.getLogger(name) for name in _TALKATIVE]
        for logger in self._loggers:
            logger.addFilter(self._silence)
        self._failures = (native.requests.RequestException, OSError, ValueError)
        tenacity = native.tenacity
        self._jitter = tenacity.wait_random_exponential(
            multiplier=FIRST_BACKOFF, max=LONGEST_BACKOFF
        )
        self._retrying = tenacity.Retrying(
            retry=tenacity.retry_if_result(lambda outcome: outcome.verdict in TRY_AGAIN),
            wait=self._seconds_until_next_try,
            stop=lambda state: self._has_lost_patience(state) or time_left() <= 0,
            sleep=pause,
            retry_error_callback=lambda state: state.outcome.result(),
        )

    def deliver(self, body: bytes, patience: Patience) -> Outcome:
        """Post `body` until it is taken, refused for good, or time or patience are at an end."""
        self._patience, self._stumbles = patience, 0
        outcome: Outcome = self._retrying(self._post, body)
        return outcome

    def _has_lost_patience(self, state: Any) -> bool:
        outcome: Outcome = state.outcome.result()
        if not outcome.doubtful:  # the server's trouble, or the network's: not this body's
            self._stumbles = 0
            return False
        now = time.monotonic()
        if not self._stumbles:
            self._stumbled_at = now
        self._stumbles += 1
        tries, seconds = self._patience
        return self._stumbles >= tries and now - self._stumbled_at >= seconds

    def close(self) -> None:
        """Close the session's connections, and leave the libraries' loggers as they were."""
        self._session.close()
        for logger in self._loggers:
            logger.removeFilter(self._silence)

    def _seconds_until_next_try(self, state: Any) -> float:
        outcome: Outcome = state.outcome.result()
        jitter: float = self._jitter(state)
        if outcome.verdict is not Verdict.LATER:
            return PROBE_INTERVAL + jitter
        if outcome.retry_after is not None:
            return outcome.retry_after + min(1.0, jitter)
        return jitter

    def _post(self, body: bytes) -> Outcome:
        left = max(0.05, self._time_left())
        timeout = min(self._connect_timeout, left), min(self._read_timeout, left)
        self.requests += 1
        self.sockets.disown()
        try:
            with self._session.post(
                self._url, data=body, timeout=timeout, allow_redirects=False, stream=True
            ) as response:
                outcome = judge(response.status_code, response.headers.get("Retry-After"))
                _use_up(response)
        except self._failures as error:
            outcome = Outcome(Verdict.LATER, describe(error))
        if outcome.verdict is not Verdict.DELIVERED:
            self._on_trouble(outcome)
        return outcome


def _use_up(response: Any) -> None:
    """Read a short answer to its end, for keep-alive.  What it says is of no use to us."""
    try:
        response.raw.read(_ANSWER_READ, decode_content=False)
    except Exception:  # noqa: BLE001, S110  the status line has said it all
        pass


def _session(requests: Any, url: str, settings: Settings) -> Any:
    """A session that asks the environment once, and never a ``.netrc`` for credentials."""
    session = requests.Session()
    session.trust_env = False
    # Of a redirect that is not followed, `requests` reads the body whole, and decodes it.
    session.get_redirect_target = lambda _: None
    # A balancer that names a new cookie in every answer would have them all sent back.
    keep_none = requests.compat.cookielib.DefaultCookiePolicy(allowed_domains=[])
    session.cookies.set_policy(keep_none)
    if settings.proxied:
        session.proxies = requests.utils.get_environ_proxies(url)
    session.verify = (
        os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True
    )
    session.headers = requests.structures.CaseInsensitiveDict(
        {
            "Authorization": f"Bearer {settings.api_key.reveal()}",
            "Content-Type": "application/json",
            "User-Agent": f"sluice-python/{__version__}",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
        }
    )
    return session


def describe(error: BaseException) -> str:
    """A failed try in a few words, from types and error numbers alone.

    Texts of the libraries are not used: they repeat URLs, and a proxy's has a password.
    """
    if type(error) is OSError and _NO_BUNDLE in "".join(
        a for a in error.args if isinstance(a, str)
    ):
        return "the file that REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE names was not found"
    kind = type(error).__name__
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"the API's certificate was not accepted: {cause.verify_message}"
        # Libraries derive from OSError too, and their first two arguments are texts.
        if isinstance(cause, OSError) and isinstance(cause.errno, int) and cause.strerror:
            kind = f"{type(cause).__name__}: {cause.strerror}"
    return f"the API was not reached ({kind})"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """`error` and what it was made from, as `requests` and `urllib3` nest them; at most 20."""
    waiting: list[BaseException] = [error]
    seen: set[int] = set()
    while waiting and len(seen) < 20:
        cause = waiting.pop()
        if id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        nested = (cause.__cause__, cause.__context__, getattr(cause, "reason", None), *cause.args)
        waiting.extend(item for item in nested if isinstance(item, BaseException))
