"""How a subcommand ends: what goes wrong is one line for people, and an exit code.

=====  ========================================================================
0      done; also where the reader of a pipe has seen enough (``sluice tail | head``)
1      the collector cannot be reached, or does not do what it was asked
2      a setting or an option cannot be used
130    Ctrl-C
=====  ========================================================================
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Callable

from sluice.commands.terminal import complain, plain, survive_any_text
from sluice.config import SluiceConfigError

Command = Callable[[argparse.Namespace], int]

#: What a shell says of a program that was ended by Ctrl-C: 128 + SIGINT.
INTERRUPTED = 130


class NoAnswer(Exception):
    """The collector did not answer as it should; the text says what and what to do."""

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        #: That of the answer, where there was one.
        self.status = status


class NotReached(NoAnswer):
    """Nothing answers, or somebody in between does: it may be there again in a moment."""


def ends_well(command: Command) -> Command:
    """`command`, which ends without a traceback whatever the other side or the user does."""

    @functools.wraps(command)
    def run(arguments: argparse.Namespace) -> int:
        survive_any_text()
        try:
            code = command(arguments)
            sys.stdout.flush()  # a closed pipe shows here, and not when the interpreter ends
        except KeyboardInterrupt:
            return INTERRUPTED
        except BrokenPipeError:
            _write_to_nobody()
            return 0
        except SluiceConfigError as error:
            complain(f"{plain(error.happened)}. {plain(error.to_do)}.")
            return 2
        except NoAnswer as error:
            complain(plain(str(error)))
            return 1
        return code

    return run


def _write_to_nobody() -> None:
    """Let what is still in the buffer go somewhere, or the interpreter complains at its end."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())
    os.close(nothing)
