"""What leaves an exception's text or traceback: all but the task's arguments, and secrets.

Celery builds some messages out of a task's arguments, and so do Python and libraries
(``int('4111...')`` names the 4111).  Rule 5 says that no argument leaves the process, so
an error text is searched for the arguments of the very task that failed
(:mod:`sluice.arguments`), and then for what looks like a secret (:mod:`sluice.redact`).
This runs in the worker's MAIN process and only when a task fails.  Pure, and bounded.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import groupby
from operator import itemgetter
from typing import Final

from sluice.arguments import NO_ARGUMENTS, WITHHELD, Arguments
from sluice.events import (
    ERROR_LIMIT,
    EXTENSION_LIMIT,
    STACKTRACE_LIMIT,
    UNKNOWN_FIELDS_LIMIT,
    Scalar,
    cut,
    cut_front,
)
from sluice.redact import redact, without_private_keys

#: Characters beyond a limit that are looked at: a secret may begin there and end within it.
_MARGIN: Final = 4096
#: Characters of one text that are looked at at all.
_LONGEST_TEXT: Final = 1 << 20
#: Where the next link in a chain of exceptions begins.
_NEXT_LINK: Final = re.compile(r"\n\n(?:During handling|The above exc)")
#: From `sqlalchemy.exc.StatementError`.
_PARAMETERS: Final = "[parameters: "
_BEHIND_PARAMETERS: Final = re.compile(rf"\n\(Background on this error|{_NEXT_LINK.pattern}")
#: A frame.  A "file" in angle brackets is text that was compiled, and one without the name of
#: a function is a SyntaxError's: what stands under them can be an argument.
_FRAME: Final = re.compile(r'  File "[^<].*", line \d+, in ')
_FRAME_BEGINS: Final = '  File "'
#: What comes before the first frame.
_HEADER: Final = "Traceback (most recent call last):"
#: Fields of an event that carry a task's data under whatever name Celery knows it.
_DATA_FIELDS: Final = frozenset(
    "args argsrepr kwargs kwargsrepr result retval return_value body payload headers"
    " properties stamps chord callbacks errbacks meta data".split()
)


def _without_retry_arguments(text: str) -> str:
    """Cut "Can't retry NAME[ID] args:(...) kwargs:{...}" behind the id.

    From `celery.app.task.Task.retry`.  The arguments, which may have lines of their own, go
    on to the end of the text, or of this link in a chain of exceptions.
    """
    kept: list[str] = []
    begin = 0
    while (at := text.find("] args:", begin)) >= 0:
        line = max(begin, text.rfind("\n", begin, at))
        if text.find("Can't retry ", line, at) >= 0:
            kept.append(text[begin : at + 1])
            link = _NEXT_LINK.search(text, at)
            begin = link.start() if link else len(text)
        else:
            kept.append(text[begin : at + 7])
            begin = at + 7
    kept.append(text[begin:])
    return "".join(kept)


def _without_parameters(text: str) -> str:
    """Cut what SQLAlchemy says of a statement's parameters: a result, when it cannot be stored.

    "[parameters: ...]" is one line, unless a value prints several; "(Background on this error"
    comes next (sqlalchemy/exc.py, `StatementError`).
    """
    kept: list[str] = []
    begin = 0
    ends = deque(found.start() for found in _BEHIND_PARAMETERS.finditer(text))
    while (at := text.find(_PARAMETERS, begin)) >= 0:
        at += len(_PARAMETERS)
        kept += text[begin:at], "...]"
        while ends and ends[0] < at:
            ends.popleft()
        line = text.find("\n", at)
        begin = ends[0] if ends else line if line >= 0 else len(text)
    kept.append(text[begin:])
    return "".join(kept)


def error_text(text: str, arguments: Arguments = NO_ARGUMENTS) -> str:
    """An exception's message, fit to be sent."""
    if len(text) > _LONGEST_TEXT:
        return WITHHELD
    text = arguments.remove_from(_without_parameters(_without_retry_arguments(text)))
    return _storable(cut(redact(_encodable(text[: ERROR_LIMIT + _MARGIN])), ERROR_LIMIT))


def _storable(text: str) -> str:
    """`text` without the character 0, which the databases of many an API refuse."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def _encodable(text: str) -> str:
    """`text` without halves of characters, which a file's name or cut JSON can have in it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()
    return text


def stacktrace(text: str, arguments: Arguments = NO_ARGUMENTS) -> str:
    """A traceback, fit to be sent: its end, without arguments in the messages.

    Of the lines that show a file and its source only what looks like a secret is taken:
    they hold code, not values, and a path must stay readable even where an argument is a
    word of it.
    """
    if len(text) > _LONGEST_TEXT:
        return WITHHELD
    parts: list[str] = []
    text = _encodable(_without_parameters(_without_retry_arguments(text)))
    values = arguments.within(text)
    strange = values.lines_like(_FRAME_BEGINS)
    trusted = True
    for in_frame, lines in groupby(_frames_marked(text, strange), key=itemgetter(0)):
        part = "\n".join(line for _, line in lines)
        parts.append(part if in_frame and trusted else values.remove_from(part))
        # What passes for a frame behind a message can be of an argument that is not known.
        trusted = trusted and (values.is_complete or in_frame or part == _HEADER)
    # Only its end is looked through for secrets, from the beginning of a line if one is near.
    # A private key has many lines, of which the first alone says what it is.
    text = without_private_keys("\n".join(parts))
    begin = max(0, len(text) - STACKTRACE_LIMIT - _MARGIN)
    if begin:
        text = text[max(begin, text.find("\n", begin, begin + _MARGIN) + 1) :]
    parts = [
        redact("\n".join(line for _, line in lines), code=in_frame)
        for in_frame, lines in groupby(_frames_marked(text, strange), key=itemgetter(0))
    ]
    return _storable(cut_front("\n".join(parts), STACKTRACE_LIMIT))


def _frames_marked(text: str, strange: set[str]) -> Iterator[tuple[bool, str]]:
    """The lines of a traceback, and of each whether it shows a file or its source.

    A `strange` one does not: it stands in an argument, which can be a traceback itself.
    """
    in_frame = False
    for line in text.split("\n"):
        if _FRAME.match(line):
            in_frame = line not in strange
        else:
            in_frame = in_frame and line.startswith("    ")
        yield in_frame, line


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
