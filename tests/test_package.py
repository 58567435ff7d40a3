"""What the package promises to those who install it: its names, its types, its version."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import sluice
from sluice.config import Settings
from tests.doubles import run_python

ROOT = Path(sluice.__file__).parents[1]
DOCS = {name: inspect.getdoc(getattr(sluice, name)) for name in ("init", "flush", "shutdown")}


def test_the_public_names_are_these_and_no_others():
    assert sorted(sluice.__all__) == [
        *("SluiceConfigError", "Stats", "__version__", "flush", "init", "shutdown", "stats"),
    ]


def test_every_public_name_is_there():
    assert all(hasattr(sluice, name) for name in sluice.__all__)


def test_the_package_is_typed():
    assert (ROOT / "sluice" / "py.typed").read_bytes() == b""


def test_the_public_functions_have_the_documented_signatures():
    assert str(inspect.signature(sluice.flush)) == "(timeout: 'float | None' = None) -> 'bool'"
    assert str(inspect.signature(sluice.shutdown)) == "(timeout: 'float | None' = None) -> 'bool'"
    assert str(inspect.signature(sluice.stats)) == "() -> 'Stats'"


def test_every_parameter_of_init_is_a_keyword_that_may_be_left_out():
    for parameter in inspect.signature(sluice.init).parameters.values():
        assert parameter.kind is parameter.KEYWORD_ONLY
        assert parameter.default is None


def test_every_parameter_of_init_is_a_setting_and_is_documented():
    parameters = set(inspect.signature(sluice.init).parameters)
    settings = {field.name for field in dataclasses.fields(Settings)}
    assert parameters - {"enabled", "dev"} == settings - {"proxied"}, "which `dev` decides"
    assert re.findall(r"^\* `(\w+)`", DOCS["init"], re.MULTILINE) == list(
        inspect.signature(sluice.init).parameters
    )


def test_settings_and_counters_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        sluice.Stats().captured = 7
    assert Settings.__dataclass_params__.frozen


def test_dropped_is_the_sum_of_its_reasons():
    assert sluice.Stats(dropped_by={"overwritten": 2, "rejected": 3}).dropped == 5
    assert sluice.Stats().dropped == 0


def test_the_one_error_is_a_value_error():
    assert issubclass(sluice.SluiceConfigError, ValueError)


# --- the version ----------------------------------------------------------------------------------


def test_the_version_is_one_of_pep_440():
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?(\.dev\d+)?", sluice.__version__)


def test_the_version_is_written_down_once():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"]
    assert "version" in project["project"]["dynamic"]
    source = (ROOT / project["tool"]["hatch"]["version"]["path"]).read_text()
    assert f'__version__ = "{sluice.__version__}"' in source
    written = [
        path.name
        for path in (ROOT / "sluice").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value == sluice.__version__
    ]
    assert written == ["_version.py"]


def test_the_installed_version_is_the_one_of_the_source():
    try:
        installed = metadata.version("sluice-sdk")
    except metadata.PackageNotFoundError:
        pytest.skip("the tests run from a checkout that is not installed")
    assert installed == sluice.__version__


def test_the_supported_pythons_are_those_of_the_classifiers():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11"
    for minor in (11, 12, 13):
        assert f"Programming Language :: Python :: 3.{minor}" in project["classifiers"]


def test_a_process_that_never_sends_needs_four_distributions():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.match(r"[\w-]+", line)[0] for line in project["dependencies"]}
    assert names == {"celery", "requests", "tenacity", "msgspec"}


def test_the_extras_are_the_documented_ones():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"gevent", "eventlet", "dev"} <= set(project["optional-dependencies"])


def test_the_licence_is_apache_2():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()[:200]


def test_the_constraints_name_versions_and_no_host():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = [line for line in lines if line and not line.startswith("#")]
    assert len(pinned) > 20
    for line in pinned:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[^\s;/]+(\s*;.*)?", line), line
    assert "://" not in "".join(lines)


def test_star_imports_the_public_names():
    run_python("from sluice import *\ninit, flush, shutdown, stats, SluiceConfigError, Stats")
