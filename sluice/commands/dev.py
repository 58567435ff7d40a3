"""``sluice dev``: the options of the local collector."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sluice.commands import amounts
from sluice.commands.address import TOKEN_VARIABLE
from sluice.commands.ending import ends_well
from sluice.commands.terminal import complain

if TYPE_CHECKING:
    from sluice.collector.server import Options

KEY_VARIABLE: Final = "SLUICE_COLLECTOR_KEY"
DATABASE_VARIABLE: Final = "SLUICE_COLLECTOR_DATABASE_URL"
#: What the extra brings.
_NEEDED: Final = ("starlette", "uvicorn", "sqlalchemy")


def add_parser(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = add_parser(
        "dev",
        help="run the local collector and its page",
        description=(
            "Receives what the SDK sends with SLUICE_DEV=1 and shows it on a page. It listens on"
            " this machine only, and forgets all at its end, unless it is told otherwise."
        ),
        epilog=(
            "What is given as an argument can be seen by everybody in lists of processes: prefer"
            f" {KEY_VARIABLE}, {TOKEN_VARIABLE} and {DATABASE_VARIABLE} for secrets."
        ),
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="the address to listen on (default: %(default)s)")
    add("--port", type=int, default=5580, help="0: any free one (default: %(default)s)")
    add("--db", type=Path, metavar="FILE", help="keep everything in this file of SQLite's")
    add(
        "--database-url",
        metavar="URL",
        help=(
            "postgresql://...: several collectors share it; its password can be seen in lists of"
            f" processes, unless it is in {DATABASE_VARIABLE}"
        ),
    )
    add(
        "--max-tasks",
        type=amounts.count,
        default=200_000,
        metavar="N",
        help="the oldest go first (default: %(default)s)",
    )
    add(
        "--max-bytes",
        type=amounts.size,
        default=2**30,
        metavar="SIZE",
        help="of events, such as 500MB (default: 1GiB)",
    )
    add(
        "--max-age",
        type=amounts.duration,
        default=604_800.0,
        metavar="TIME",
        help="such as 24h (default: 7d)",
    )
    add(
        "--rate-limit",
        type=amounts.rate,
        default=0.0,
        metavar="EVENTS_PER_SECOND",
        help="answer 429 above it, to see what happens then; 0: none (default: 0)",
    )
    add(
        "--api-key",
        metavar="KEY",
        help=(
            "take events under this key only (default: any); can be seen in lists of processes,"
            f" unless it is in {KEY_VARIABLE}"
        ),
    )
    add(
        "--token",
        metavar="TOKEN",
        help=(
            "what readers must show (default: one is made where other machines can connect); can"
            f" be seen in lists of processes, unless it is in {TOKEN_VARIABLE}"
        ),
    )
    add(
        "--allowed-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name of this machine that browsers may use; may be repeated",
    )
    parser.set_defaults(run=ends_well(_run))


def _run(arguments: argparse.Namespace) -> int:
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        complain(
            f"The collector needs {', '.join(missing)}, which this Python does not have."
            ' Install it with: pip install "sluice-sdk[collector]"'
        )
        return 2
    from sluice.collector.server import BadOption, serve

    try:
        return serve(_options(arguments, os.environ))
    except BadOption as error:
        complain(str(error))
        return 2


def _options(arguments: argparse.Namespace, environ: Mapping[str, str]) -> Options:
    from sluice.collector.server import Options

    def secret(given: str | None, variable: str) -> str | None:
        return given if given is not None else environ.get(variable, "").strip() or None

    database_url = arguments.database_url
    if arguments.db is None:  # a file that is asked for comes before a variable
        database_url = secret(database_url, DATABASE_VARIABLE)
    return Options(
        host=arguments.host,
        port=arguments.port,
        db=arguments.db,
        database_url=database_url,
        max_tasks=arguments.max_tasks,
        max_bytes=arguments.max_bytes,
        max_age=arguments.max_age,
        rate_limit=arguments.rate_limit,
        api_key=secret(arguments.api_key, KEY_VARIABLE),
        token=secret(arguments.token, TOKEN_VARIABLE),
        allowed_hosts=tuple(arguments.allowed_host),
    )
