"""What looks like a secret in an error's text, whoever put it there: passwords, keys, cards.

The arguments of a task are known and found by their values (:mod:`sluice.scrub`); secrets
are known by how they look.  Each pattern is written so that a text of a hostile length
costs time in proportion to it: what a pattern scans it either consumes, or cannot be made
to scan again from every character (quantifiers are possessive, and runs begin at a
boundary).  ``tests/test_redact.py`` measures that.  Pure.
"""

from __future__ import annotations

import re
from typing import Final

REPLACEMENT: Final = "[secret]"

#: Parts of names that stand for a secret, whatever comes before and behind.
_NAMES: Final = (
    "pass(?:word|wd|phrase|code)|secret|token|credential|authorization"
    "|(?:api|access|private|secret|signing|encryption)[_-]?key"
)
#: These only as a word of their own: "author", "shipping" and "compass" are none.
_WORDS: Final = "(?<![a-z])(?:auth|pass|pwd|pin|cvv2?|cvc2?|ssn|dsn|signature|session[_-]?id)"
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
_FLAGS: Final = re.IGNORECASE | re.VERBOSE

_NAME: Final = rf"""
    (?P<name> (?: (?: {_NAMES} ) [\w-]{{0,64}}+ | {_WORDS} (?! [a-z] ) [\w-]{{0,64}}+ )
        (?: \\{{0,7}} ["'] )? )
    (?P<between> \s{{0,8}} (?: => | [=:] ) \s{{0,8}}
        | (?<= ["'] ) \s{{0,8}} , \s{{0,8}} (?= [bruf]{{0,2}} ["'] ) )
    (?! (?: None | null | True | False ) \b )
"""
_PAIR: Final = re.compile(rf"{_NAME} (?: {_IN_QUOTES} | {_BARE} )", _FLAGS)
#: In a line of source, what is not in quotes is the name of a thing and not the thing.
_PAIR_IN_CODE: Final = re.compile(rf"{_NAME} {_IN_QUOTES}", _FLAGS)
#: --password hunter2
_OPTION: Final = re.compile(
    rf"(?P<name> (?<! [\w-] ) -- [\w-]{{0,32}}? (?: {_NAMES} ) [\w-]{{0,32}}+ \s{{1,4}} )"
    r" [^\s-] \S*+",
    _FLAGS,
)
_COOKIE: Final = re.compile(r"""(?P<name> cookie ["']? \s{0,8} : \s{0,8} ) [^\n]++""", _FLAGS)
#: scheme://user:password@host, or with the password alone.
_URL: Final = re.compile(
    r"(?P<name> (?<= [a-z0-9] ) :// [^\s/:@\"']*+ : ) [^\s/@\"']++ (?= @ )", _FLAGS
)
_BEARER: Final = re.compile(r"(?P<name> \b (?: bearer | basic ) [ ]{1,4} ) [\w.~+/=-]{8,}+", _FLAGS)
_JWT: Final = re.compile(r"(?<![\w-]) eyJ [\w-]{5,}+ \. [\w-]{5,}+ (?: \. [\w-]*+ )?", re.VERBOSE)
_PEM: Final = re.compile(
    r"""
    -----BEGIN[ ][A-Z ]{0,40}PRIVATE[ ]KEY-----
    (?: (?! -----END ) [\s\S] )*+
    (?: -----END [A-Z ]{0,60} -----)?
    """,
    re.VERBOSE,
)
#: What providers begin their keys with.
_KEY: Final = re.compile(
    r"(?<![\w-]) (?: sk | pk | rk | ghp | gho | ghs | xox[abprs] | AKIA | ASIA | AIza | glpat )"
    r" (?: (?<= AKIA ) | (?<= ASIA ) | (?<= AIza ) | [_-] ) [\w-]{12,}+",
    re.VERBOSE,
)
#: The ranges that cards are issued in; a time in milliseconds begins with 1.
_CARD: Final = re.compile(
    r"(?<![\d.]) (?: [3-6] | 2[2-7] ) (?: [ -]? \d ){12,17} (?! \d )", re.VERBOSE
)


def redact(text: str, *, code: bool = False) -> str:
    """`text` with everything that looks like a secret replaced by a mark.

    `code`: it is a line of a program, in which ``password = other`` holds no password.
    """
    text = _PEM.sub(REPLACEMENT, text)
    text = _URL.sub(_keep_name, text)
    text = _COOKIE.sub(_keep_name, text)
    text = (_PAIR_IN_CODE if code else _PAIR).sub(_keep_name, text)
    text = _OPTION.sub(_keep_name, text)
    text = _BEARER.sub(_keep_name, text)
    text = _JWT.sub(REPLACEMENT, text)
    text = _KEY.sub(REPLACEMENT, text)
    return _CARD.sub(_without_card, text)


def _keep_name(found: re.Match[str]) -> str:
    groups = found.groupdict()
    return f"{groups['name']}{groups.get('between') or ''}{REPLACEMENT}"


def _without_card(found: re.Match[str]) -> str:
    digits = [int(digit) for digit in found[0] if digit.isdigit()]
    return REPLACEMENT if _luhn(digits) else found[0]


def _luhn(digits: list[int]) -> bool:
    """Whether the last digit is the check digit of the others (ISO/IEC 7812)."""
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0
