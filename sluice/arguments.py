"""The arguments of one call, and their removal from a text, in whatever form they are in it.

Rule 5 says that no argument leaves the process.  They are known by their values: the leaves
of the argument tree, each as it may be printed (plain, by `repr`, in JSON, in a URL, in one
case, in parts that name something, cut off).  Pure, and bounded: so many leaves, and so
many characters that are compared.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Final
from urllib.parse import quote, quote_plus
from uuid import UUID

REPLACEMENT: Final = "[argument]"
#: Said instead of a text that cannot be searched for all arguments with bounded work.
WITHHELD: Final = "[withheld: too large to be searched for the task's arguments]"
#: One of these stands for an argument while others are searched for: one not in the text.
_STAND_INS: Final = tuple(map(chr, range(0xE000, 0xE040)))
#: Shorter values are words like "eu" or "12": they name nothing, and are everywhere.
_SHORTEST: Final = 4
#: Characters by which the beginning, or the end, of a long value is recognised.
_END: Final = 16
#: Nodes of an argument tree that are looked at.
_MOST_NODES: Final = 50_000
#: Values times characters that are searched.
_MOST_WORK: Final = 1 << 28
#: Forms of a value, of which there are up to twenty, and mostly these.
_FORMS: Final = 5
#: Characters that could be searched in the time that it takes to begin.
_WORK_OF_A_LOOK: Final = 64

#: Letters and digits by which a value is known to be in a text.
_FOUR: Final = re.compile(rf"[A-Za-z0-9]{{{_SHORTEST}}}")
#: They are the same in every form of a value; these stay one character as well.
_PLAIN_PART: Final = re.compile(r"[A-Za-z0-9._~-]*")
#: Characters that any other may become, in JSON or in a URL.
_LONGEST_ESCAPE: Final = 12
#: Fewer values than this are looked for in all their forms at once, and in a longer text than
#: this the fours are not looked up.
_FEW: Final = 200
_LONG: Final = 128 * 1024
_SEPARATOR: Final = re.compile(r"""[\s,;:|&=/"'()<>\[\]{}]""")
#: Of longer values no parts are looked for.
_LONGEST_OF_PARTS: Final = 256
#: Of a value such as "user:JOHN-7788:eu", the parts that name something: with a digit or an @.
_NAMING_PART: Final = re.compile(
    r"""(?<![^\s,;:|&=/"'()<>\[\]{}]) (?= [^\s,;:|&=/"'()<>\[\]{}]* [\d@] )
        [^\s,;:|&=/"'()<>\[\]{}]{6,}""",
    re.VERBOSE,
)
#: A text that may be JSON, and as much of it as is looked at.
_JSON_BEGINS: Final = frozenset("{[")
_LONGEST_JSON: Final = 64 * 1024

_PLAIN: Final = (int, float, complex, Decimal, UUID, date, time, timedelta)


class Arguments:
    """The values of one call that must not be seen in a text about it.

    The names of keyword arguments are not values.  `reprs` are what Celery has printed of
    both.
    """

    def __init__(self, args: object, kwargs: object, *reprs: str | None) -> None:
        values = kwargs.values() if isinstance(kwargs, Mapping) else ()
        self._leaves, self._complete = _leaves([args, *values])
        self._reprs = [text for text in reprs if text]

    def remove_from(self, text: str) -> str:
        """`text` with every one of these values replaced by a mark."""
        return self.within(text).remove_from(text)

    def within(self, text: str) -> Values:
        """Those of them that can be in `text`, for it and for parts of it.

        Of a call with very many values nearly all are not, which four characters of a value
        tell: to write each in all the ways in which it may be printed holds up an event loop.
        """
        leaves, seen = self._leaves, None
        if len(leaves) > _FEW and len(text) <= _LONG:
            lowered = text.lower()
            seen = {lowered[at : at + _SHORTEST] for at in range(len(lowered) - _SHORTEST + 1)}
        if not self._complete or (seen is None and len(text) * len(leaves) > _MOST_WORK):
            return Values(None)
        here = [
            leaf
            for leaf in leaves
            if seen is None or not isinstance(leaf, str) or _may_be_seen(leaf, seen)
        ]
        if len(here) * _FORMS * len(text) > _MOST_WORK:
            return Values(None)
        found: set[str] = set(self._reprs)
        for leaf in here:
            found.update(_printed(leaf))
        return Values(found)


def _may_be_seen(value: str, seen: set[str]) -> bool:
    """Whether a value, a part, or its beginning or end, can be in a text with these fours."""
    if len(value) <= 2 * _END and _PLAIN_PART.fullmatch(value):
        candidates = [value]  # of which no part is looked for, and which has one form
    else:
        candidates = [_beginning(value), _beginning(value[::-1])[::-1]]
    if len(value) <= _LONGEST_OF_PARTS and _SEPARATOR.search(value):
        candidates += _naming_parts(value)
    # Found before they are lowered: some letters become those of ASCII by that.
    return any(
        seen.issuperset([four.lower() for four in _FOUR.findall(each)]) for each in candidates
    )


def _beginning(value: str) -> str:
    """As much of a value as is certainly there where `_END` characters of one of its forms are."""
    plain = _PLAIN_PART.match(value, 0, _END)
    end = plain.end() if plain else 0
    if end < _END:
        end += max(0, (_END - end) // _LONGEST_ESCAPE)
    return value[:end]


def _naming_parts(value: str) -> list[str]:
    return [part for part in _NAMING_PART.findall(value) if _FOUR.search(part)]


class Values:
    """Texts that must not be seen in another; None: there are too many to look for."""

    def __init__(self, texts: set[str] | None) -> None:
        #: Whether they are all there is.
        self.is_complete: Final = texts is not None
        self._values = [text for text in texts or () if len(text) >= _SHORTEST]
        self._work = _MOST_WORK

    def lines_like(self, begin: str) -> set[str]:
        """Lines of theirs that begin so."""
        return {
            line
            for value in self._values
            if begin in value
            for line in value.split("\n")
            if line.startswith(begin)
        }

    def remove_from(self, text: str) -> str:
        """`text` with every one of these values replaced by a mark.

        After very much work, in many texts together, only that one is withheld.
        """
        self._work -= (len(text) + _WORK_OF_A_LOOK) * len(self._values)
        if not self.is_complete or self._work < 0:
            return WITHHELD
        found = next((mark for mark in _STAND_INS if mark not in text), None)
        if not self._values or found is None:
            return WITHHELD if self._values else text
        text = text.replace(REPLACEMENT, found)
        return _without(text, self._found(text), found).replace(found, REPLACEMENT)

    def _found(self, text: str) -> list[tuple[int, int]]:
        """Where values are in `text`, whole or cut off: from, to.

        All in the text as it was.  Taken out one after the other, a short one, or a form of
        one, would leave the rest of a long one that nobody knows by then.
        """
        spans: list[tuple[int, int]] = []
        backwards, size = text[::-1], len(text)
        for value in self._values:
            at = text.find(value)
            while at >= 0:
                spans.append((at, at + len(value)))
                at = text.find(value, at + len(value))
            # Python itself shows 200 characters of what `int()` did not like, libraries as many
            # as they please.
            if len(value) > 2 * _END:
                spans += _spans(text, value)
                spans += [(size - to, size - at) for at, to in _spans(backwards, value[::-1])]
        return spans


def _spans(text: str, value: str) -> Iterator[tuple[int, int]]:
    """Wherever `text` has the beginning of `value`, as far as the two agree."""
    at = text.find(value[:_END])
    while at >= 0:
        to = at + _common_length(text, at, value)
        yield at, to
        at = text.find(value[:_END], to)


def _without(text: str, spans: list[tuple[int, int]], mark: str) -> str:
    """`text` with a mark for each run of spans, which may lie over each other."""
    kept: list[str] = []
    position = 0
    for at, to in sorted(spans):
        if at >= position:
            kept += text[position:at], mark
        position = max(position, to)
    kept.append(text[position:])
    return "".join(kept)


def _common_length(text: str, at: int, value: str) -> int:
    """How many characters of `value`, at least `_END`, stand in `text` from `at` on.

    In steps that double and then halve, so that the cost is that of what is found.
    """
    most = min(len(value), len(text) - at)
    least, step = min(_END, most), _END
    while step:
        end = least + step
        if end <= most and text[at + least : at + end] == value[least:end]:
            least, step = end, 2 * step
        else:
            step //= 2
    return least


def _leaves(roots: list[object]) -> tuple[list[object], bool]:
    """The values in trees of arguments, and whether that is all."""
    nodes = deque(roots)
    found: list[object] = []
    for _ in range(_MOST_NODES):
        if not nodes:
            return found, True
        node = nodes.popleft()
        if isinstance(node, str):  # as most are
            found.append(node)
            if node[:1] in _JSON_BEGINS and len(node) <= _LONGEST_JSON:
                try:
                    nodes.append(json.loads(node))
                except (ValueError, RecursionError):
                    pass  # it only looks like JSON
        elif isinstance(node, Mapping):
            nodes.extend(node.keys())
            nodes.extend(node.values())
        elif isinstance(node, (list, tuple, set, frozenset)):
            nodes.extend(node)
        else:
            found.append(node)
    return found, not nodes


def _printed(value: object) -> Iterable[str]:
    """How a value looks in a message: of plain types only, others would run foreign code."""
    if isinstance(value, str):
        yield from _written(value)
        # As somebody would use it: without the space around it, in one case, and of what is
        # made of parts those that name something.
        bare = value.strip()
        others = {bare, bare.lower(), bare.upper()}
        if len(value) <= _LONGEST_OF_PARTS:
            others.update(_naming_parts(value))
        for other in others - {value}:
            yield from _written(other)
        return
    yield from _plainly_printed(value)


def _written(value: str) -> tuple[str, ...]:
    in_json = json.dumps(value)[1:-1]
    in_url = quote(value, safe="", errors="surrogatepass")
    in_form = quote_plus(value, errors="surrogatepass")
    return value, repr(value)[1:-1], in_json, in_url, in_form


def _plainly_printed(value: object) -> tuple[str, ...]:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace"), repr(value)[2:-1]
    if isinstance(value, bool) or not isinstance(value, _PLAIN):
        return ()
    more = value.hex if isinstance(value, UUID) else ""
    if isinstance(value, (date, time)):
        more = value.isoformat()
    try:
        return str(value), repr(value), more
    except ValueError:  # an int of thousands of digits, which nobody else can print either
        return ()


NO_ARGUMENTS: Final = Arguments((), {})
