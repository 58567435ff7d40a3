"""Which collector a command reads from, and what it shows to be let in."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import parse_qs, urlsplit, urlunsplit

from sluice.config import DEV_API, SluiceConfigError, collector_api, development_api

TOKEN_VARIABLE: Final = "SLUICE_COLLECTOR_TOKEN"  # noqa: S105  its name


class Address(NamedTuple):
    """A collector's API, and the token for reading from it."""

    api: str
    token: str | None


def add_options(parser: argparse.ArgumentParser) -> None:
    """`--url` and `--token`."""
    parser.add_argument(
        "--url",
        metavar="URL",
        help="the collector's page (default: that of SLUICE_DEV, else http://127.0.0.1:5580)",
    )
    parser.add_argument(
        "--token",
        metavar="TOKEN",
        help=(
            "what the collector asks for where it is open to other machines; one in an argument"
            f" can be seen in lists of processes, one in {TOKEN_VARIABLE} cannot"
        ),
    )


def find(arguments: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> Address:
    """The address from the options and the environment.  Raises `SluiceConfigError`."""
    token = arguments.token or environ.get(TOKEN_VARIABLE, "").strip() or None
    if arguments.url is None:
        text = environ.get("SLUICE_DEV", "").strip()
        return Address(development_api({}, {"SLUICE_DEV": text}) or DEV_API, checked(token))
    url, in_url = _without_token(arguments.url)
    return Address(collector_api(url, "--url"), checked(token or in_url))


def checked(token: str | None) -> str | None:
    """A token that can stand in a header.  Raises `SluiceConfigError`, without repeating it."""
    if token is not None and not (token.isascii() and token.isprintable() and " " not in token):
        raise SluiceConfigError(
            f"--token or {TOKEN_VARIABLE} is no token",
            "Copy it again from the URL that `sluice dev` prints, whole",
        )
    return token


def _without_token(url: str) -> tuple[str, str | None]:
    """A URL as `sluice dev` prints it, and the token from it."""
    try:
        parts = urlsplit(url)
        found = parse_qs(parts.query).get("token")
    except ValueError:
        return url, None  # and it is refused as a URL
    return (urlunsplit(parts._replace(query="")), found[0]) if found else (url, None)
