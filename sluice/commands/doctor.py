"""``sluice doctor``: what is set up, what works, and the line that mends what does not."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from sluice._version import __version__
from sluice.commands.address import TOKEN_VARIABLE, checked
from sluice.commands.ending import ends_well
from sluice.commands.terminal import plain, say
from sluice.demo.screen import Style

if TYPE_CHECKING:
    from sluice.commands.checks import Check

_COLOURS: Final = {"ok": 32, "warning": 33, "failed": 31}
_STATUS_WIDTH: Final = len("warning")
_NAME_WIDTH: Final = 16
_TEST_EVENT: Final = "test event"


def add_parser(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = add_parser(
        "doctor",
        help="examine the configuration, the way to the API, and what would hinder a worker",
        description=(
            "Looks at the configuration of this environment, the folder for events that wait, and"
            " the way to the API. A test event is sent to a collector; to another API only with"
            " --send. Run it where a worker runs, and as its user."
        ),
        epilog="The exit code is 0 if nothing failed, 1 if something did, 2 for a bad setting.",
    )
    parser.add_argument(
        "--app",
        "-A",
        metavar="MODULE",
        help="import this app as celery -A does: what it gives to init(), and which pool it has",
    )
    parser.add_argument("--send", action="store_true", help="send the test event to any API")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument(
        "--token",
        metavar="TOKEN",
        help=f"for reading from a collector; {TOKEN_VARIABLE} is not seen in lists of processes",
    )
    parser.set_defaults(run=ends_well(_run))


def _run(arguments: argparse.Namespace) -> int:
    found: list[Check] = []
    style = Style.of(sys.stdout)
    if not arguments.json:
        say(f"\n  sluice {__version__} doctor\n")
    for check in examine(arguments):
        found.append(check)
        if not arguments.json:
            for line in lines(check, style):
                say(line)
    failed = [check for check in found if check.status == "failed"]
    warnings = sum(check.status == "warning" for check in found)
    if arguments.json:
        say(json.dumps(_document(found), indent=2))
    else:
        say(f"\n  {len(found)} checks: {len(failed)} failed, {warnings} warnings\n")
    if any(check.is_setting for check in failed):
        return 2
    return 1 if failed else 0


def examine(arguments: argparse.Namespace) -> Iterator[Check]:
    """All checks, each as soon as it is done."""
    from sluice.commands.checks import Check, settings, spool, worker

    given: dict[str, object] | None = None
    app_checks: list[Check] = []
    if arguments.app is not None:
        app_checks, given = worker.look(arguments.app)
    configuration = settings.look(given, os.environ)
    yield from configuration.checks
    yield worker.detected()
    yield from app_checks
    yield spool.look(configuration.settings)
    if not configuration.has_address:
        yield Check("network", "warning", "not looked at: it is not known where events go")
        return
    from sluice.commands.checks import delivery, network

    is_dev = configuration.collector is not None
    for check in network.look(configuration.settings, is_dev=is_dev):
        yield check
        if check.status == "failed":
            return
    if not configuration.has_key:
        yield Check("key", "warning", "not tried: there is no whole configuration")
        return
    accepted = delivery.key(configuration.settings, is_dev=is_dev)
    yield accepted
    if accepted.status == "failed":
        return
    token = checked(arguments.token or os.environ.get(TOKEN_VARIABLE, "").strip() or None)
    collector = delivery.reader(configuration.settings, token, is_dev=is_dev)
    if collector is None and not arguments.send:
        text = (
            "not sent: this API is not known as a collector, and might keep it for good (--send"
            f" sends it; for a collector that asks for a token there is {TOKEN_VARIABLE})"
        )
        yield Check(_TEST_EVENT, "ok", text)
        return
    yield from delivery.event(configuration.settings, collector)


def lines(check: Check, style: Style) -> Iterator[str]:
    """One check for people, with the line that mends it."""
    status = style.paint(check.status.ljust(_STATUS_WIDTH), _COLOURS[check.status])
    yield style.text(f"  {status}  {plain(check.name):{_NAME_WIDTH}}  {plain(check.found)}")
    if check.fix is not None:
        blank = " " * (2 + _STATUS_WIDTH + 2 + _NAME_WIDTH + 2)
        yield style.text(f"{blank}→ {plain(check.fix)}")


def _document(checks: list[Check]) -> dict[str, object]:
    return {
        "version": __version__,
        "ok": all(check.status != "failed" for check in checks),
        "checks": [
            {"name": check.name, "status": check.status, "found": check.found, "fix": check.fix}
            for check in checks
        ],
    }
