"""What looks like a secret in an error's text, whoever put it there: passwords, keys, cards.

The arguments of a task are known and found by their values (:mod:`sluice.arguments`); secrets
are known by how they look.  Each pattern is written so that a text of a hostile length
costs time in proportion to it: what a pattern scans it either consumes, or cannot be made
to scan again from every character (quantifiers are possessive, and runs begin at a
boundary).  ``tests/test_redact.py`` measures that.

A traceback is tens of thousands of characters, in which almost nothing can begin a secret,
and trying a pattern at each of them holds up the loop of a green pool.  So a pattern begins
with what `re` searches for by itself (what must stand before it is looked at after that), or
it comes with the beginnings of all its matches, which are found first.  Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final

REPLACEMENT: Final = "[secret]"

#: Parts of names that stand for a secret, whatever comes before and behind.
_NAMES: Final = (
    "pass(?:word|wd|phrase|code)|secret|token|credential|authorization"
    "|(?:api|access|account|auth|encryption|license|master|private|secret|signing|ssh)[ _-]?key"
    "|session[_-]?id|phpsessid"
)
#: These only as a word of their own: "author", "shipping" and "compass" are none.
_WORDS: Final = (
    "(?<![a-z])(?:auth|pass|pwd|pin|otp|cvv2?|cvc2?|ssn|dsn|sig|signature|[cx]srf|sid|cookies?)"
)
#: A value: what is in quotes, also escaped ones, up to the end of the line; or up to a space.
_IN_QUOTES: Final = r"""
    [bruf]{0,2} (?:
        " (?: [^"\\\n] | \\. )*+ "?
      | ' (?: [^'\\\n] | \\. )*+ '?
      | (?P<quote> \\{1,7} ["'] ) (?: (?! (?P=quote) ) [^\n] )*+ (?P=quote)?
    )
"""
_BARE: Final = r"""
    (?: (?: bearer | basic | digest | token ) [ ]{1,4} )? [^\s,;&()\[\]{}"'<>\\]++
"""
#: A list, a mapping, or what a class is called with: to the next bracket of any kind.
_IN_BRACKETS: Final = r"""
    [\[({] (?! [\])}] )
    (?: " (?: [^"\\\n] | \\. )*+ "? | ' (?: [^'\\\n] | \\. )*+ '?
      | [^\[\](){}"'\n] | \n [ ]{0,64}+ (?= ["'\])}] ) )*+
    [\])}]?
"""
_FLAGS: Final = re.IGNORECASE | re.VERBOSE

_NAME: Final = rf"""
    (?P<name> (?: (?: {_NAMES} ) [\w-]{{0,64}}+ | {_WORDS} (?! [a-z] ) [\w-]{{0,64}}+ )
        (?: \\{{0,7}} ["'] )? (?: \[ [\w-]{{0,32}}+ \] )? \]? )
    (?P<between> \s{{0,8}} (?: => | [=:] | %3[ad] ) \s{{0,8}}
        | (?<= ["'] ) \s{{0,8}} , \s{{0,8}} (?= [bruf]{{0,2}} ["'] ) )
    (?! (?: None | null | True | False ) \b )
"""
_PAIR: Final = re.compile(
    rf"{_NAME} (?: {_IN_QUOTES} | {_BARE} (?: {_IN_BRACKETS} )? | {_IN_BRACKETS} )", _FLAGS
)
#: In a line of source, what is not in quotes is the name of a thing and not the thing.
_PAIR_IN_CODE: Final = re.compile(rf"{_NAME} {_IN_QUOTES}", _FLAGS)
#: --password hunter2
_OPTION: Final = re.compile(
    rf"(?P<name> -- (?<! [\w-] -- ) [\w-]{{0,32}}? (?: {_NAMES} ) [\w-]{{0,32}}+ \s{{1,4}} )"
    r" [^\s-] \S*+",
    _FLAGS,
)
#: What a header holds has forms of its own, with quotes, commas and spaces: the whole line.
_HEADER: Final = re.compile(
    r"""(?P<name> (?: cookie ["']? | authorization ) \s{0,8} : \s{0,8}+ ) (?! ["'\\] ) [^\n]++""",
    _FLAGS,
)
#: <password>hunter2</password>
_TAG: Final = re.compile(
    rf"(?P<name> < [\w:.-]{{0,32}}? (?: {_NAMES} | {_WORDS} (?! [a-z] ) ) [\w:.-]{{0,32}}+ > )"
    r" (?! \s ) [^<\n]++",
    _FLAGS,
)
#: scheme://user:password@host, or with the password alone.  It may hold an @ and, where what
#: is before it is no port, a slash: that is a mistake, which is why an error shows it.
_URL: Final = re.compile(
    r"""
    (?P<name> :// (?<= [a-z0-9] :// ) [^\s/:@"'\[]*+ : )
    (?! \d{1,5} [/?] )
    (?: [^\s/@"']++ (?: @ [^\s/@"']*+ (?= @ ) )*+ (?= @ )
      | [^\s@"']{1,128}+ (?= @ ) )
    """,
    _FLAGS,
)
_BEARER: Final = re.compile(r"(?P<name> \b (?: bearer | basic ) [ ]{1,4} ) [\w.~+/=-]{8,}+", _FLAGS)
_JWT: Final = re.compile(
    r"eyJ (?<! [\w-] eyJ ) [\w-]{5,}+ \. [\w-]{5,}+ (?: \. [\w-]*+ ){0,4}", re.VERBOSE
)
_PEM: Final = re.compile(
    r"""
    -----?[ ]?BEGIN[ ][A-Z0-9 ]{0,40}PRIVATE[ ]KEY(?:[ ]BLOCK)?[ ]?-{4,5}
    (?: (?! ----[ ]?END | -----END ) [\s\S] )*+
    (?: -{4,5}[ ]?END [A-Z0-9 ]{0,60} -{4,5} )?
    """,
    re.VERBOSE,
)
#: What providers begin their keys with.
_KEY: Final = re.compile(
    r"""
    (?<![\w-]) (?:
        (?: [spr]k_(?:live|test) | whsec | gh[oprsu] | github_pat ) _ [\w-]{12,}+
      | sk- (?= [A-Za-z-]{0,64} \d ) [\w-]{16,}+
      | (?: xox[abeprs] | xapp | glpat | pypi ) - [\w-]{12,}+
      | (?: AKIA | ASIA | AIza ) [\w-]{12,}+
      | npm_ [A-Za-z0-9]{36}
      | (?: SG | hvs | ya29 ) \. [\w.-]{20,}+
    )
    """,
    re.VERBOSE,
)
#: The ranges that cards are issued in; a time in milliseconds begins with 1.
_ISSUED: Final = "(?: [3-6] | 2[2-7] )"
_CARD: Final = re.compile(
    r"""
    [2-6] (?<! [\d.] [2-6] ) (?: (?<! 2 ) | (?<= 2 ) [2-7] )
    (?: [ \xa0-]? \d ){12,17} (?! \d )
    """,
    re.VERBOSE,
)
_FIRST_DIGITS: Final = re.compile(_ISSUED, re.VERBOSE)
_DIGITS: Final = re.compile(r"\d+")
_SHORTEST_CARD: Final = 13
#: Groups of digits before and behind a card's that may be others: an amount, when it ends.
_NEIGHBOURS: Final = ((1, 0), (0, 1), (1, 1), (0, 2))


#: With what every match begins, in lower case.
_PAIRS_BEGIN: Final = tuple(
    "pass secret token credential auth api access account encryption license master private"
    " sig ssh session phpsessid pwd pin otp cvv cvc ssn dsn csrf xsrf sid cookie".split()
)
#: The letters besides ASCII's that `re` takes for one of ASCII's when case is ignored: a
#: dotted I and a dotless i, a long s, the sign of the kelvin.  No other has a lower case of
#: another length than its own.
_FOLDS: Final = {0x130: "i", 0x131: "i", 0x17F: "s", 0x212A: "k"}
_HEADERS_BEGIN: Final = ("cookie", "authorization")
_BEARERS_BEGIN: Final = ("bearer ", "basic ")
_KEYS_BEGIN: Final = tuple(
    "sk_ pk_ rk_ whsec_ gho_ ghp_ ghr_ ghs_ ghu_ github_pat_ sk- xox xapp- glpat- pypi- akia asia"
    " aiza npm_ sg. hvs. ya29.".split()
)


def without_private_keys(text: str) -> str:
    """`text` without private keys: what looks at a part of a text only may see a part of one."""
    return _PEM.sub(REPLACEMENT, text)


def redact(text: str, *, code: bool = False) -> str:
    """`text` with everything that looks like a secret replaced by a mark.

    `code`: it is a line of a program, in which ``password = other`` holds no password.
    """
    text = without_private_keys(text)
    text = _URL.sub(_keep_name, text)
    text = _sub(_HEADER, _HEADERS_BEGIN, _keep_name, text)
    text = _TAG.sub(_keep_name, text)
    text = _sub(_PAIR_IN_CODE if code else _PAIR, _PAIRS_BEGIN, _keep_name, text)
    text = _OPTION.sub(_keep_name, text)
    text = _sub(_BEARER, _BEARERS_BEGIN, _keep_name, text)
    text = _JWT.sub(REPLACEMENT, text)
    text = _sub(_KEY, _KEYS_BEGIN, _nothing_kept, text)
    return _CARD.sub(_without_card, text)


def _sub(
    pattern: re.Pattern[str],
    beginnings: Iterable[str],
    replace: Callable[[re.Match[str]], str],
    text: str,
) -> str:
    """What ``pattern.sub(replace, text)`` is, where every match begins with one of `beginnings`."""
    lowered = text.lower() if text.isascii() else text.translate(_FOLDS).lower()
    if len(lowered) != len(text):  # a letter that a later Unicode has: places would not fit
        return pattern.sub(replace, text)
    kept: list[str] = []
    end = 0
    for place in _places(lowered, beginnings):
        if place >= end and (found := pattern.match(text, place)):
            kept += text[end:place], replace(found)
            end = found.end()
    kept.append(text[end:])
    return "".join(kept)


def _places(text: str, beginnings: Iterable[str]) -> list[int]:
    """Where any of these begins, in order."""
    places: set[int] = set()
    for beginning in beginnings:
        place = text.find(beginning)
        while place >= 0:
            places.add(place)
            place = text.find(beginning, place + 1)
    return sorted(places)


def _nothing_kept(_: re.Match[str]) -> str:
    return REPLACEMENT


def _keep_name(found: re.Match[str]) -> str:
    groups = found.groupdict()
    return f"{groups['name']}{groups.get('between') or ''}{REPLACEMENT}"


def _without_card(found: re.Match[str]) -> str:
    """What is left of digits that are a card's, or a card's and those of its neighbours."""
    text = found[0]
    if _luhn(text):
        return REPLACEMENT
    groups = list(_DIGITS.finditer(text))
    for before, behind in _NEIGHBOURS:
        if before + behind < len(groups):
            begin, end = groups[before].start(), groups[-1 - behind].end()
            if _FIRST_DIGITS.match(text, begin) and _luhn(text[begin:end]):
                return f"{text[:begin]}{REPLACEMENT}{text[end:]}"
    return text


def _luhn(number: str) -> bool:
    """Whether there are enough digits, and the last is the check digit of the others.

    ISO/IEC 7812.
    """
    digits = [int(digit) for digit in number if digit.isdigit()]
    if len(digits) < _SHORTEST_CARD:
        return False
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0
