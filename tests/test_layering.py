"""Who may import whom, read from the source: data flows capture -> ring -> sender -> http."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "sluice"
MOST_LINES = 350
#: Words of a longer module's docstring, before those that say why it is.
EXCUSE = "more than 350 lines"
STRATEGIES = {"sluice.transports.gevent", "sluice.transports.eventlet", "sluice.transports.thread"}


class Module:
    """One source file: its dotted name, its syntax tree, and what it imports."""

    def __init__(self, path: Path) -> None:
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        self.is_package = parts[-1] == "__init__"
        self.name = ".".join(parts[:-1] if self.is_package else parts)
        self.source = path.read_text()
        self.tree = ast.parse(self.source)
        #: (module, name or None), wherever it is imported, but for type checkers only.
        self.imports = set(self._imported([self.tree]))

    def _imported(self, nodes: Iterable[ast.AST]):
        for node in nodes:
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
                yield from self._imported(node.orelse)
            elif isinstance(node, ast.Import):
                yield from ((alias.name, None) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield from ((self._absolute(node), alias.name) for alias in node.names)
            else:
                yield from self._imported(ast.iter_child_nodes(node))

    def _absolute(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        package = self.name.split(".") if self.is_package else self.name.split(".")[:-1]
        package = package[: len(package) - (node.level - 1)]
        return ".".join([*package, *([node.module] if node.module else [])])

    def uses(self, *names: str) -> set[str]:
        """What it imports of these modules, or below them."""
        found = {module if name is None else f"{module}.{name}" for module, name in self.imports}
        return {one for one in found if any(f"{one}.".startswith(f"{name}.") for name in names)}

    def edges(self) -> set[str]:
        """The modules of the package that it imports: `from sluice import x` is about `x`."""
        found = {
            f"{module}.{name}" if f"{module}.{name}" in MODULES else module
            for module, name in self.imports
        }
        return (found & set(MODULES)) - {self.name}


MODULES = {module.name: module for module in map(Module, sorted(PACKAGE.rglob("*.py")))}
every_module = pytest.mark.parametrize("module", MODULES.values(), ids=MODULES)


def below(*names: str) -> list[Module]:
    """The modules of these names, and those below them."""
    return [
        module
        for name, module in MODULES.items()
        if any(name == top or name.startswith(f"{top}.") for top in names)
    ]


def names_below(*names: str) -> set[str]:
    return {module.name for module in below(*names)}


def test_the_rules_are_about_modules_that_exist():
    assert {
        *("sluice.ring", "sluice.sender", "sluice.http", "sluice.spool", "sluice.client"),
        *("sluice.capture.worker", "sluice.capture.request", "sluice.capture.producer"),
        *("sluice.commands.dev", "sluice.commands.doctor", "sluice.collector.server"),
        *STRATEGIES,
    } <= set(MODULES)


# --- who knows whom -------------------------------------------------------------------------------


def test_capture_knows_neither_the_sender_nor_the_network():
    for module in below("sluice.capture", "sluice.recorder"):
        assert not module.uses("sluice.sender", "sluice.delivery", "sluice.http"), module.name
        assert not module.uses("sluice.transports", "sluice.client"), module.name
        assert not module.uses("requests", "urllib3", "tenacity"), module.name


def test_transports_know_neither_what_runs_on_them_nor_why():
    for module in below("sluice.transports"):
        assert module.edges() <= names_below("sluice.transports"), module.name


def test_the_sdk_knows_neither_the_collector_nor_the_commands():
    programs = names_below("sluice.collector", "sluice.commands", "sluice.demo", "sluice.cli")
    for name in set(MODULES) - programs - {"sluice.__main__"}:
        assert not MODULES[name].uses("sluice.collector", "sluice.commands"), name


def test_commands_read_and_do_not_capture():
    """They look at the SDK's parts, and at the collector by HTTP alone; ``dev`` starts it."""
    for module in below("sluice.commands"):
        assert not module.uses("sluice.capture", "sluice.recorder", "sluice.client"), module.name
        assert not module.uses("sluice.sender", "sluice.delivery", "sluice.ring"), module.name
        collector = module.uses("sluice.collector")
        assert not collector or module.name == "sluice.commands.dev", module.name


def test_the_collector_knows_the_wire_and_nothing_else_of_the_sdk():
    for module in below("sluice.collector"):
        known = names_below("sluice.collector") | {"sluice.events", "sluice._version"}
        assert module.edges() <= known, module.name
        assert not module.uses("celery", "kombu", "billiard", "requests"), module.name


def test_what_events_say_together_is_pure():
    """No clock, no database, no network: it can be tried with every order of events."""
    for name in ("story", "intake", "attendance", "rows", "spread", "tally"):
        module = MODULES[f"sluice.collector.{name}"]
        assert not module.uses("sqlalchemy", "starlette", "uvicorn", "time", "asyncio"), name


def test_who_reads_cannot_write():
    """Rows are changed in one place, so that counts and rows are never apart."""
    writers = {"change", "retention", "store", "writer", "application", "ingest", "database"}
    for module in below("sluice.collector"):
        if module.name.rpartition(".")[2] not in writers:
            changing = module.uses("sluice.collector.change", "sluice.collector.store")
            assert changing <= {"sluice.collector.store.Taken"}, module.name


def test_http_knows_no_rings():
    forbidden = ("ring", "spool", "sender", "capture", "batch", "relay", "recorder", "events")
    for name in ("sluice.http", "sluice.connection"):
        assert not MODULES[name].uses(*(f"sluice.{name}" for name in forbidden))


def test_the_sender_knows_neither_celery_nor_where_it_runs():
    for name in ("sender", "dispatch", "delivery", "relay", "batch"):
        module = MODULES[f"sluice.{name}"]
        assert not module.uses("celery", "kombu", "billiard", "sluice.capture", "sluice.transports")
        assert not module.uses("requests", "urllib3", "tenacity", "logging.handlers")


def test_the_ring_needs_the_standard_library_and_untracked_structs_and_nothing_else():
    roots = {module.partition(".")[0] for module, _ in MODULES["sluice.ring"].imports}
    assert roots <= sys.stdlib_module_names | {"msgspec"}


@pytest.mark.parametrize("name", ["ring", "sender", "dispatch", "batch", "scrub", "arguments"])
def test_these_have_no_clock_thread_or_network(name):
    assert not MODULES[f"sluice.{name}"].uses(
        "time", "threading", "socket", "select", "logging", "asyncio"
    )


@pytest.mark.parametrize(
    "name", ["sluice.events", "sluice.scrub", "sluice.arguments", "sluice.batch"]
)
def test_what_is_pure_touches_no_system(name):
    assert not MODULES[name].uses("os", "sys", "io", "pathlib", "celery", "time", "random")


@every_module
def test_only_its_strategy_imports_an_event_loop(module):
    own = {"sluice.transports.gevent": "gevent", "sluice.transports.eventlet": "eventlet"}
    forbidden = {"gevent", "eventlet"} - {own.get(module.name)}
    assert not module.uses(*forbidden)


@every_module
def test_only_the_client_wires_the_parts(module):
    wired = STRATEGIES | names_below("sluice.capture") | {"sluice.spool", "sluice.delivery"}
    if module.name == "sluice.client" or module.name.startswith("sluice.demo"):
        return  # the demo is a program that uses the package
    allowed = set()
    if module.name.startswith("sluice.capture."):
        allowed = names_below("sluice.capture")
    if module.name.startswith("sluice.transports."):
        allowed = {"sluice.transports.thread"}  # waiting is the same in all three
    assert module.edges() & wired <= allowed


@every_module
def test_only_the_client_and_the_island_import_by_name(module):
    calls = {node.attr for node in ast.walk(module.tree) if isinstance(node, ast.Attribute)}
    names = {node.id for node in ast.walk(module.tree) if isinstance(node, ast.Name)}
    if {"import_module", "__import__"} & (calls | names):
        assert module.name in ("sluice.client", "sluice.native")


@every_module
def test_nobody_decides_by_the_name_of_a_library(module):
    """`if library == "gevent"` outside of the detection: a strategy that leaked."""
    if module.name in ("sluice.detect", "sluice.native") or module.name.startswith("sluice.demo"):
        return
    compared = [
        constant.value
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Compare)
        for constant in ast.walk(node)
        if isinstance(constant, ast.Constant)
    ]
    assert not {"gevent", "eventlet"} & {value for value in compared if isinstance(value, str)}


@every_module
def test_the_core_knows_neither_its_demo_nor_its_doubles(module):
    programs = ("sluice.demo", "sluice.commands", "sluice.cli", "sluice.__main__")
    if module.name.startswith((*programs, "sluice.testing")):
        return
    assert not module.uses("sluice.demo", "sluice.testing", "sluice.cli", "pytest", "tests")


def test_no_module_imports_itself_by_way_of_others():
    graph = {name: module.edges() - {"sluice"} for name, module in MODULES.items()}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for other in sorted(graph[name]):
                visit(other, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_only_programs_import_the_package_itself():
    """`import sluice` further in would be a cycle through the public API."""
    users = {name for name, module in MODULES.items() if "sluice" in module.edges()}
    assert users <= names_below("sluice.demo", "sluice.commands", "sluice.cli", "sluice.__main__")


# --- how it is written ----------------------------------------------------------------------------


@every_module
def test_a_module_is_short_or_says_why_not(module):
    lines = module.source.count("\n")
    if lines > MOST_LINES:
        assert EXCUSE in (ast.get_docstring(module.tree) or ""), f"{lines} lines"


def undocumented(node: ast.AST, path: str):
    """The public classes, functions and methods below `node` that have no docstring."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            if child.name.startswith("_"):
                continue
            setter = any("setter" in ast.dump(decorator) for decorator in child.decorator_list)
            if ast.get_docstring(child) is None and not setter:
                yield f"{path}.{child.name}"
            if isinstance(child, ast.ClassDef):
                yield from undocumented(child, f"{path}.{child.name}")
        elif isinstance(child, (ast.If, ast.Try)):
            yield from undocumented(child, path)


@every_module
def test_every_public_name_has_a_docstring(module):
    assert ast.get_docstring(module.tree)
    assert list(undocumented(module.tree, module.name)) == []


def test_the_reader_of_imports_finds_them_wherever_they_are():
    found = Module.__new__(Module)
    found.name, found.is_package = "sluice.capture.made_up", False
    source = """
import a.b
from . import c
from .. import d
from ..e import f
def g():
    try:
        import h
    except ImportError:
        from i import j as k
if TYPE_CHECKING:
    import not_this
else:
    import l
"""
    assert set(found._imported([ast.parse(source)])) == {
        *(("a.b", None), ("sluice.capture", "c"), ("sluice", "d"), ("sluice.e", "f")),
        *(("h", None), ("i", "j"), ("l", None)),
    }


def test_the_reader_of_docstrings_finds_a_missing_one():
    source = "class A:\n  'x'\n  def f(self): pass\n  def _g(self): pass\ndef h(): pass"
    assert list(undocumented(ast.parse(source), "m")) == ["m.A.f", "m.h"]
