"""Settings: parameter, then ``SLUICE_*`` variable, then default; and what goes wrong with them.

Every message about a setting is made here.  It says what was wrong, what is accepted and
how to fix it, and never repeats the API key.  These are more than 350 lines, because each
setting has its check and its message beside the others.
"""

from __future__ import annotations

import ipaddress
import math
import os
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from sluice.ring import SMALLEST_RING

DOCS: Final = "https://docs.sluice.sh"
#: Where ``sluice dev`` takes events, if it is not told otherwise.
DEV_API: Final = "http://127.0.0.1:5580/api"
#: What a development collector is sent in the place of a key, and of a connection.
_DEV_KEY: Final = "sk_dev"
_DEV_CONNECTION: Final = "00000000-0000-4000-8000-000000000000"
_KIB: Final = 1024
_MIB: Final = 1024 * _KIB

_KEY: Final = re.compile(r"sk_[A-Za-z0-9._~+/=-]{1,500}", re.ASCII)
_LIKE_A_KEY: Final = re.compile(r"(?<![A-Za-z0-9])sk_")
_TRUE: Final = frozenset(("1", "true", "yes", "on"))
_FALSE: Final = frozenset(("0", "false", "no", "off"))
_TOKEN: Final = re.compile(r"[?&#]token=")

_T = TypeVar("_T")


def message(happened: str, to_do: str) -> str:
    """A text for people: what happened, what to do, and where to read on."""
    return f"[sluice] {happened}. {to_do}.\n         See: {DOCS}"


class SluiceConfigError(ValueError):
    """A setting is missing or malformed.  The only error that Sluice raises, from `init()`."""

    def __init__(self, happened: str, to_do: str) -> None:
        super().__init__(message(happened, to_do))
        #: The two halves of the message, for a program that lays them out itself.
        self.happened: Final = happened
        self.to_do: Final = to_do


class Secret:
    """A text that shows itself to nobody who did not ask: not in a repr, log or traceback."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__


@dataclass(frozen=True)
class Settings:
    """What `init()` was told, checked.  Times are in seconds, sizes in bytes."""

    api_key: Secret
    connection_id: str
    #: The base URL, without a slash at its end; events go to ``{api_url}/ingest``.
    api_url: str = "https://sluice.sh/api"
    #: Raise `SluiceConfigError` for a bad setting; otherwise log it and stay off.
    strict: bool = True
    #: A tag such as "production", sent with every event.
    environment: str | None = None
    #: The longest time an event waits before it is sent.
    flush_interval: float = 1.0
    #: The size of a process's ring.
    buffer_bytes: int = 8 * _MIB
    #: The folder of the rings; None: ``/dev/shm/sluice-<uid>`` where there is one.
    spool_dir: str | None = None
    #: The longest time that Sluice may add to the end of a process.
    shutdown_timeout: float = 2.0
    #: How long to wait for a connection, and for the whole of an answer.
    request_timeout: tuple[float, float] = (5.0, 10.0)
    #: Turn Celery's own events on as well, for a consumer on the broker.
    celery_events: bool = False
    #: Send the traceback of a failed task.
    capture_tracebacks: bool = True
    #: The application's last word on every event, on the sender's thread.
    before_send: Callable[[dict[str, Any]], dict[str, Any] | None] | None = None
    #: Whether a proxy that the environment names is asked; none is for a collector on this machine.
    proxied: bool = True
    #: Log what Sluice detects and does, on the logger "sluice".
    debug: bool = False


def resolve(
    given: Mapping[str, object], environ: Mapping[str, str] = os.environ
) -> Settings | None:
    """The settings from `init()`'s parameters (None: not given) and the environment.

    None where Sluice is switched off (``enabled=False``, ``SLUICE_ENABLED=0``); then
    nothing else is looked at.  Raises :class:`SluiceConfigError`.
    """
    if not _setting(given, environ, "enabled", _flag, True):
        return None
    collector = development_api(given, environ)
    if collector is not None:  # and whatever key there is stays here
        connection = _setting(given, environ, "connection_id", _connection, _DEV_CONNECTION)
        ours = {"api_key": _DEV_KEY, "connection_id": connection, "api_url": collector}
        given = {**given, **ours}
    return Settings(
        api_key=_setting(given, environ, "api_key", _api_key, _missing_key),
        connection_id=_setting(given, environ, "connection_id", _connection, _missing_connection),
        api_url=_setting(given, environ, "api_url", _url, Settings.api_url),
        strict=_setting(given, environ, "strict", _flag, Settings.strict),
        environment=_setting(given, environ, "environment", _tag, None),
        flush_interval=_setting(
            given, environ, "flush_interval", _seconds(0.05, 60), Settings.flush_interval
        ),
        buffer_bytes=_setting(given, environ, "buffer_bytes", _buffer, Settings.buffer_bytes),
        spool_dir=_setting(given, environ, "spool_dir", _folder, None),
        shutdown_timeout=_setting(
            given, environ, "shutdown_timeout", _seconds(0, 60), Settings.shutdown_timeout
        ),
        request_timeout=_setting(
            given, environ, "request_timeout", _timeouts, Settings.request_timeout
        ),
        celery_events=_setting(given, environ, "celery_events", _flag, Settings.celery_events),
        capture_tracebacks=_setting(
            given, environ, "capture_tracebacks", _flag, Settings.capture_tracebacks
        ),
        before_send=_setting(given, environ, "before_send", _function, None),
        proxied=collector is None or not is_this_machine(urlsplit(collector).hostname or ""),
        debug=_setting(given, environ, "debug", _flag, Settings.debug),
    )


def development_api(
    given: Mapping[str, object], environ: Mapping[str, str] = os.environ
) -> str | None:
    """The base URL of the development collector that events go to; None: they go to the API.

    The parameter `dev` comes before the variable ``SLUICE_API_URL``, and the parameter
    `api_url` before the variable ``SLUICE_DEV``.  Two of a kind are two receivers: that is
    refused.  Raises :class:`SluiceConfigError`.
    """
    by_parameter, api_by_parameter = (given.get(name) is not None for name in ("dev", "api_url"))
    if api_by_parameter and not by_parameter:
        return None
    collector = _setting(given, environ, "dev", _collector, None)
    if collector is None:
        return None
    names = ("dev", "api_url") if by_parameter else (variable("dev"), variable("api_url"))
    if api_by_parameter if by_parameter else environ.get(names[1], "").strip():
        raise SluiceConfigError(
            f"{names[0]} and {names[1]} are both set, and events go to one place",
            f"Drop {names[1]} to send them to the development collector,"
            f" or {names[0]} to send them to the API",
        )
    return collector


def collector_api(value: str, name: str) -> str:
    """The base URL of a collector's API, from that or the URL of its page, called `name`.

    Raises :class:`SluiceConfigError`, also where there is a token in it.
    """
    if _TOKEN.search(value):
        raise SluiceConfigError(
            f"{name} has a token in it, which opens the collector's page and sends nothing",
            "Give the URL without '?token=...'; to send to a collector with a key of its own"
            " (sluice dev --api-key), use api_url, api_key and connection_id in the place of dev",
        )
    try:
        url = _url(re.split(r"[?#]", value, maxsplit=1)[0], name)
    except SluiceConfigError as error:
        to_do = "Accepted is the URL of a collector's page, such as http://127.0.0.1:5580"
        raise SluiceConfigError(error.happened, to_do) from None
    return url if url.endswith("/api") else f"{url}/api"


def is_this_machine(host: str) -> bool:
    """Whether a host is the loopback's, by its name or number alone."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_strict(given: Mapping[str, object], environ: Mapping[str, str] = os.environ) -> bool:
    """Whether a bad setting is raised.  A malformed `strict` counts as strict."""
    try:
        return _setting(given, environ, "strict", _flag, Settings.strict)
    except SluiceConfigError:
        return True


def variable(name: str) -> str:
    """The environment variable of a parameter."""
    return f"SLUICE_{name.upper()}"


def _setting(
    given: Mapping[str, object],
    environ: Mapping[str, str],
    name: str,
    check: Callable[[object, str], _T],
    default: _T | Callable[[], _T],
) -> _T:
    value = given.get(name)
    if value is not None:
        return check(value, name)
    text = environ.get(variable(name), "").strip()
    if text:
        return check(text, variable(name))
    return default() if callable(default) else default


def _missing_key() -> Secret:
    raise SluiceConfigError(
        "The API key is missing",
        "Pass api_key='sk_...' to sluice.init() or set SLUICE_API_KEY",
    )


def _missing_connection() -> str:
    raise SluiceConfigError(
        "The connection id is missing",
        "Pass connection_id='<UUID>' to sluice.init() or set SLUICE_CONNECTION_ID;"
        " the dashboard shows it beside the connection",
    )


def _api_key(value: object, name: str) -> Secret:
    if isinstance(value, Secret):
        value = value.reveal()
    if not isinstance(value, str) or not _KEY.fullmatch(value):
        raise SluiceConfigError(
            f"{name} is not an API key",
            "A key is a text that starts with 'sk_' and has no spaces;"
            " copy it again from the dashboard, whole",
        )
    return Secret(value)


def _connection(value: object, name: str) -> str:
    try:
        return str(value if isinstance(value, uuid.UUID) else uuid.UUID(str(value)))
    except ValueError:
        raise SluiceConfigError(
            f"{name} is {_shown(value)}, which is not a UUID",
            "It looks like 123e4567-e89b-12d3-a456-426614174000;"
            " copy it again from the dashboard, whole",
        ) from None


def _url(value: object, name: str) -> str:
    def refuse(reason: str) -> SluiceConfigError:
        return SluiceConfigError(
            f"{name} {reason}", "Accepted is a base URL such as https://sluice.sh/api"
        )

    if not isinstance(value, str):
        raise refuse(f"is a {type(value).__name__}, not a text")
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        raise refuse("cannot be read as a URL") from None
    if parts.username is not None or parts.password is not None:
        raise refuse("holds a user name or password, which would be sent in the clear to logs")
    if parts.scheme not in ("http", "https"):
        raise refuse(f"is {_shown(value)}, which does not start with http:// or https://")
    if not parts.hostname or any(c <= " " or c == "\x7f" for c in value):
        raise refuse(f"is {_shown(value)}, which names no host")
    if "?" in value or "#" in value:
        raise refuse("has a query or a fragment, and '/ingest' is put behind it")
    return value.rstrip("/")


def _collector(value: object, name: str) -> str | None:
    """None: no development collector."""
    if isinstance(value, str) and "://" in value:
        return collector_api(value, name)
    try:
        return DEV_API if _flag(value, name) else None
    except SluiceConfigError:
        raise SluiceConfigError(
            f"{name} is {_shown(value)}, which is neither a switch nor a URL",
            "Accepted are 1, true, yes, on for the collector of `sluice dev` on this machine,"
            " its URL such as http://127.0.0.1:5580, and 0, false, no, off",
        ) from None


def _flag(value: object, name: str) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).lower()
    if isinstance(value, (str, int)) and text in _TRUE | _FALSE:
        return text in _TRUE
    raise SluiceConfigError(
        f"{name} is {_shown(value)}, which is neither true nor false",
        "Accepted are True and False, and in the environment 1, true, yes, on, 0, false, no, off",
    )


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _seconds(least: float, most: float) -> Callable[[object, str], float]:
    def check(value: object, name: str) -> float:
        number = _number(value)
        if number is None or not least <= number <= most:
            raise SluiceConfigError(
                f"{name} is {_shown(value)}",
                f"Accepted is a number of seconds from {least:g} to {most:g}",
            )
        return number

    return check


def _timeouts(value: object, name: str) -> tuple[float, float]:
    parts: list[object] = [value]
    if isinstance(value, str):
        parts = list(value.split(","))
    elif isinstance(value, (tuple, list)):
        parts = list(value)
    numbers = [number for number in map(_number, parts) if number and 0.1 <= number <= 300]
    if len(numbers) != len(parts) or len(parts) not in (1, 2):
        raise SluiceConfigError(
            f"{name} is {_shown(value)}",
            "Accepted are seconds from 0.1 to 300: one number for both,"
            " or two for connecting and reading, (5, 10) or '5,10'",
        )
    return numbers[0], numbers[-1]


def _buffer(value: object, name: str) -> int:
    number = _number(value)
    if number is None or number != int(number) or not SMALLEST_RING <= number <= 1024 * _MIB:
        raise SluiceConfigError(
            f"{name} is {_shown(value)}",
            f"Accepted is a whole number of bytes from {SMALLEST_RING} to {1024 * _MIB}",
        )
    return int(number)


def _folder(value: object, name: str) -> str:
    path = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(path, str) or not Path(path).is_absolute() or "\0" in path:
        raise SluiceConfigError(
            f"{name} is {_shown(value)}",
            "Accepted is the absolute path of a folder; one on tmpfs never makes a task wait",
        )
    return path


def _tag(value: object, name: str) -> str:
    usable = isinstance(value, str) and value.isprintable() and len(value) <= 64
    if not isinstance(value, str) or not usable or _KEY.match(value):
        raise SluiceConfigError(
            f"{name} is {_shown(value)}",
            "Accepted is a printable text of up to 64 characters, such as 'production'",
        )
    return value


def _function(value: object, name: str) -> Callable[[dict[str, Any]], dict[str, Any] | None]:
    if not callable(value):
        raise SluiceConfigError(
            f"{name} is {_shown(value)}, which is no function",
            "Pass sluice.init() a function that takes an event, a dict, and returns it or None",
        )
    return value


def _shown(value: object) -> str:
    """A value in a message: short, and never one that may be a key in the wrong place."""
    text = repr(value)
    if _LIKE_A_KEY.search(text):
        return "a text that looks like an API key"
    return text if len(text) <= 80 else text[:79] + "…"
