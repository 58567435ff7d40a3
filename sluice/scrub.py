"""What leaves an exception's text or traceback: everything but the task's arguments.

Celery builds some messages out of a task's arguments, and so do Python and libraries
(``int('4111...')`` names the 4111).  Rule 5 says that no argument leaves the process, so
an error text is searched for the arguments of the very task that failed.  This runs in
the worker's MAIN process and only when a task fails.  Pure, and bounded: so many values
of an argument tree, so many characters of a text.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Final

from sluice.events import (
    ERROR_LIMIT,
    EXTENSION_LIMIT,
    STACKTRACE_LIMIT,
    UNKNOWN_FIELDS_LIMIT,
    Scalar,
    cut,
    cut_front,
)

REPLACEMENT: Final = "[argument]"
#: Shorter values are words like "eu" or "12": they name nothing, and are everywhere.
_SHORTEST: Final = 4
#: Values taken from one call's arguments, and nodes looked at to find them.
_MOST_VALUES: Final = 100
_MOST_NODES: Final = 1_000
#: Characters of a text that are looked at: twice what may be sent, so that a cut at the
#: edge of a value cannot let half of it through.
_ERROR_READ: Final = 2 * ERROR_LIMIT
_STACKTRACE_READ: Final = 2 * STACKTRACE_LIMIT

# "Can't retry NAME[ID] args:(...) kwargs:{...}", from celery.app.task.Task.retry, up to
# the end of the text or of this link in a chain of exceptions.
_RETRY_ARGUMENTS: Final = re.compile(
    r"(Can't retry [^\n]{0,2000}?\]) args:.*?(?=\n\n(?:During handling|The above exc)|\Z)",
    re.DOTALL,
)
#: Fields of an event that carry a task's data under whatever name Celery knows it.
_DATA_FIELDS: Final = frozenset(
    "args argsrepr kwargs kwargsrepr result retval return_value body payload headers"
    " properties stamps chord callbacks errbacks meta data".split()
)


class Arguments:
    """The values of one call that must not be seen in a text about it."""

    def __init__(self, args: object, kwargs: object, *reprs: str | None) -> None:
        found: set[str] = set(_leaves((args, kwargs)))
        found.update(text for text in reprs if text and len(text) >= _SHORTEST)
        # The longest first: a short value may be part of a long one.
        self._values = sorted(found, key=len, reverse=True)

    def remove_from(self, text: str) -> str:
        """`text` with every one of these values replaced by a mark."""
        for value in self._values:
            if value in text:
                text = text.replace(value, REPLACEMENT)
        return text


def _leaves(root: object) -> Iterable[str]:
    """The strings and long numbers in a tree of arguments, as they would be printed."""
    nodes: deque[object] = deque([root])
    seen = values = 0
    while nodes and seen < _MOST_NODES and values < _MOST_VALUES:
        node = nodes.popleft()
        seen += 1
        if isinstance(node, Mapping):
            nodes.extend(node.values())
        elif isinstance(node, (list, tuple, set, frozenset)):
            nodes.extend(node)
        elif isinstance(node, bytes):
            nodes.append(node.decode("utf-8", "replace"))
        elif not isinstance(node, bool) and isinstance(node, (str, int, float)):
            text = str(node)
            if len(text) >= _SHORTEST:
                values += 1
                yield text
                escaped = repr(text)[1:-1]
                if escaped != text:
                    yield escaped


NO_ARGUMENTS: Final = Arguments((), {})


def error_text(text: str, arguments: Arguments = NO_ARGUMENTS) -> str:
    """An exception's message, fit to be sent."""
    text = _RETRY_ARGUMENTS.sub(r"\1", text[:_ERROR_READ])
    return cut(arguments.remove_from(text), ERROR_LIMIT)


def stacktrace(text: str, arguments: Arguments = NO_ARGUMENTS) -> str:
    """A traceback, fit to be sent: its end, without arguments in the messages.

    The lines that show a file and its source are left as they are: they hold code, not
    values, and a path must stay readable even where an argument is a word of it.
    """
    text = _RETRY_ARGUMENTS.sub(r"\1", text[-_STACKTRACE_READ:])
    lines: list[str] = []
    message: list[str] = []
    in_frame = False
    for line in text.split("\n"):
        in_frame = line.startswith('  File "') or (in_frame and line.startswith("    "))
        if not in_frame:
            message.append(line)
            continue
        if message:
            lines.append(arguments.remove_from("\n".join(message)))
            message = []
        lines.append(line)
    if message:
        lines.append(arguments.remove_from("\n".join(message)))
    return cut_front("\n".join(lines), STACKTRACE_LIMIT)


def unknown_fields(
    fields: Mapping[str, object], known: frozenset[str], arguments: Arguments = NO_ARGUMENTS
) -> dict[str, Scalar]:
    """Fields of a future Celery: scalars only, capped, scrubbed, never a task's data."""
    taken: dict[str, Scalar] = {}
    for key, value in fields.items():
        if key in known or key in _DATA_FIELDS or len(taken) >= UNKNOWN_FIELDS_LIMIT:
            continue
        if value is None or isinstance(value, (bool, int, float)):
            taken[cut(key, EXTENSION_LIMIT)] = value
        elif isinstance(value, str):
            taken[cut(key, EXTENSION_LIMIT)] = cut(error_text(value, arguments), EXTENSION_LIMIT)
    return taken
