"""The command ``sluice``, also ``python -m sluice``.

What a subcommand needs is imported when it runs: ``sluice version`` imports no Celery.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sluice._version import __version__
from sluice.commands import dev, doctor, tail, tasks

if TYPE_CHECKING:
    from collections.abc import Sequence

_POOLS = ("prefork", "gevent", "eventlet", "threads", "solo")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand and return the exit code.  `argv` defaults to the process's own."""
    arguments = _parser().parse_args(argv)
    code: int = arguments.run(arguments)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sluice", description="Task and worker events of Celery, delivered."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser(
        "demo",
        help="watch real workers deliver every event to a local endpoint",
        description=(
            "Starts a real broker and one real Celery worker per pool, sends them a mix of "
            "tasks, and shows what arrives at a local ingest endpoint. The exit code is 0 if "
            "the timeline of every task is complete."
        ),
    )
    demo.add_argument(
        "--pools",
        type=_pools,
        default=_POOLS[:3],
        metavar="POOL,...",
        help=f"of {', '.join(_POOLS)} (default: {','.join(_POOLS[:3])})",
    )
    demo.add_argument(
        "--tasks",
        type=_positive,
        default=60,
        metavar="N",
        help="tasks to send to each pool (default: 60)",
    )
    demo.add_argument(
        "--timeout",
        type=_positive,
        default=60,
        metavar="SECONDS",
        help="give up this long after the first task (default: 60)",
    )
    demo.add_argument("--verbose", action="store_true", help="show what the workers log")
    demo.add_argument("--keep-logs", type=Path, metavar="DIR", help="keep what they log in DIR")
    demo.add_argument(
        "--stay", action="store_true", help="let the page stay when all is done, until Ctrl-C"
    )
    demo.set_defaults(run=_demo)

    for command in (dev, tasks, tail, doctor):
        command.add_parser(commands.add_parser)

    version = commands.add_parser("version", help="print the version of this package")
    version.set_defaults(run=_version)
    return parser


def _pools(text: str) -> tuple[str, ...]:
    pools = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in pools if name not in _POOLS]
    if unknown or not pools:
        wrong = f"unknown pool {unknown[0]!r}" if unknown else "no pool"
        raise argparse.ArgumentTypeError(f"{wrong}; there are {', '.join(_POOLS)}")
    return pools


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above zero")
    return int(text)


def _demo(arguments: argparse.Namespace) -> int:
    from sluice.demo.run import Options, run

    return run(
        Options(
            pools=arguments.pools,
            tasks=arguments.tasks,
            timeout=arguments.timeout,
            verbose=arguments.verbose,
            logs=arguments.keep_logs,
            stay=arguments.stay,
        )
    )


def _version(_: argparse.Namespace) -> int:
    print(__version__)
    return 0
