"""The configuration: what is set, from where, and everything that is wrong with it.

`init()` stops at the first bad setting.  Here each is looked at alone, so that all are told,
and what is good can still be used to look further.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Mapping
from typing import Final, cast

from sluice.commands.address import TOKEN_VARIABLE
from sluice.commands.checks import Check
from sluice.commands.dev import DATABASE_VARIABLE, KEY_VARIABLE
from sluice.config import (
    Secret,
    Settings,
    SluiceConfigError,
    development_api,
    resolve,
    variable,
)

#: In the place of what is required, while something else is looked at.
_ANY: Final[Mapping[str, object]] = {
    "api_key": "sk_any",
    "connection_id": "00000000-0000-4000-8000-000000000000",
}
#: Without the one that `dev` decides.
_NAMES: Final = tuple(
    field.name for field in dataclasses.fields(Settings) if field.name != "proxied"
)
_SHOWN: Final = frozenset(("api_key", "connection_id", "api_url"))
_VARIABLES: Final = (
    *(variable(name) for name in ("enabled", "dev", *_NAMES)),
    *(KEY_VARIABLE, TOKEN_VARIABLE, DATABASE_VARIABLE),
)


@dataclasses.dataclass(frozen=True)
class Configuration:
    """What was found, and settings to look further with, as far as they are good."""

    checks: list[Check]
    settings: Settings
    #: Names of settings that are missing or malformed; `settings` has something else there.
    broken: frozenset[str]
    #: The development collector that events go to.
    collector: str | None

    @property
    def has_address(self) -> bool:
        """Whether it is known where events go."""
        return not self.broken & {"api_url", "dev"}

    @property
    def has_key(self) -> bool:
        """Whether there is all that a request needs."""
        return self.has_address and not self.broken & {"api_key", "connection_id"}


def look(given: Mapping[str, object] | None, environ: Mapping[str, str]) -> Configuration:
    """Look at what `init()` is given (None: that is not known) and at the environment."""
    found = _Found(given or {}, environ)
    checks = [*_switch(found)]
    broken: set[str] = set()
    collector: str | None = None
    try:
        collector = development_api(found.given, environ)
    except SluiceConfigError as error:
        broken.add("dev")
        checks.append(_failed("dev", error))
    if collector is not None:
        text = f"events go to {collector}, without a key ({found.source('dev')})"
        checks.append(Check("dev", "ok", text, is_setting=True))
    good: dict[str, object] = {}
    quiet = 0
    for name in _NAMES:
        if collector is not None and name in ("api_key", "api_url"):
            continue
        try:
            value = found.alone(name, required=collector is None and "dev" not in broken)
        except SluiceConfigError as error:
            broken.add(name)
            checks.append(_failed(name, error, is_known=given is not None))
            continue
        if value is not None:
            good[name] = value
        if found.source(name) == "default" and name not in _SHOWN:
            quiet += 1
        else:
            text = f"{_said(name, value)} ({found.source(name)})"
            checks.append(Check(name, "ok", text, is_setting=True))
    if quiet:
        checks.append(Check("others", "ok", f"{quiet} settings at their defaults", is_setting=True))
    checks += _unknown(environ)
    where = _ANY if collector is None else {"dev": collector}
    # Only what was found good is in it, and it is not switched off: there are settings.
    settings = cast("Settings", resolve({**where, **good}, {}))
    return Configuration(checks, settings, frozenset(broken), collector)


@dataclasses.dataclass(frozen=True)
class _Found:
    given: Mapping[str, object]
    environ: Mapping[str, str]

    def source(self, name: str) -> str:
        """Where a setting comes from."""
        if self.given.get(name) is not None:
            return f"parameter {name} of init()"
        if self.environ.get(variable(name), "").strip():
            return variable(name)
        return "default"

    def alone(self, name: str, *, required: bool) -> object:
        """The value of a setting, with nothing else looked at.  Raises `SluiceConfigError`."""
        given = {key: value for key, value in _ANY.items() if key != name or not required}
        environ: dict[str, str] = {}
        if self.given.get(name) is not None:
            given[name] = self.given[name]
        elif self.source(name) != "default":
            given.pop(name, None)
            environ = {variable(name): self.environ[variable(name)]}
        value: object = getattr(resolve(given, environ), name)
        return value


def _switch(found: _Found) -> Iterator[Check]:
    """Whether Sluice is switched off."""
    source = found.source("enabled")
    if source == "default":
        return
    given = {name: found.given[name] for name in ("enabled",) if name in found.given}
    environ = {name: text for name, text in found.environ.items() if name == variable("enabled")}
    try:
        if resolve({**_ANY, **given}, environ) is not None:
            yield Check("enabled", "ok", f"true ({source})", is_setting=True)
            return
    except SluiceConfigError as error:
        yield _failed("enabled", error)
        return
    yield Check(
        "enabled",
        "warning",
        f"Sluice is switched off by {source}: nothing is captured or sent",
        f"unset {variable('enabled')}"
        if source == variable("enabled")
        else "take enabled=... out of init()",
        is_setting=True,
    )


def _failed(name: str, error: SluiceConfigError, *, is_known: bool = True) -> Check:
    fix = error.to_do
    if not is_known and name in _ANY:
        fix += "; where your app passes it to init(), run `sluice doctor --app MODULE`"
    return Check(name, "failed", error.happened, fix, is_setting=True)


def _said(name: str, value: object) -> str:
    if isinstance(value, Secret):
        return f"set, {len(value.reveal())} characters"
    if name == "before_send" and value is not None:
        return "a function"
    return str(value)


def _unknown(environ: Mapping[str, str]) -> Iterator[Check]:
    """Variables that look like ours and that nothing reads."""
    for name in sorted(environ):
        if name.startswith("SLUICE_") and name not in _VARIABLES:
            near = difflib.get_close_matches(name, _VARIABLES, n=1, cutoff=0.8)
            fix = f"did you mean {near[0]}?" if near else "unset it, if it is nobody else's"
            yield Check(name, "warning", "is set, and Sluice has no such setting", fix)
