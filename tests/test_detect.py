"""Detection: which library has patched this process, told without touching either."""

from __future__ import annotations

from types import ModuleType

import pytest

from sluice.detect import Concurrency, detect, may_be_patched_later
from tests.doubles import run_python

ALL = frozenset({"socket", "thread", "select", "ssl", "queue", "time"})


def module(name: str, **attributes: object) -> ModuleType:
    made = ModuleType(name)
    vars(made).update(attributes)
    return made


def gevent_that_patched(*names: str) -> dict[str, ModuleType | None]:
    return {"gevent.monkey": module("gevent.monkey", is_module_patched=names.__contains__)}


def eventlet_that_patched(*names: str) -> dict[str, ModuleType | None]:
    return {"eventlet.patcher": module("eventlet.patcher", is_monkey_patched=names.__contains__)}


# --- answers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "modules",
    [
        {},
        {"gevent": module("gevent"), "eventlet": module("eventlet")},  # imported, nothing patched
        gevent_that_patched() | eventlet_that_patched(),
        gevent_that_patched("subprocess", "signal"),  # nothing that the sender uses
        eventlet_that_patched("os"),
        {"gevent.monkey": None, "eventlet.patcher": None},
        {"gevent.monkey": module("gevent.monkey")},  # half imported
        {"eventlet.patcher": module("eventlet.patcher", is_monkey_patched="not a function")},
    ],
)
def test_a_process_that_nobody_patched_is_plain(modules):
    found = detect(modules)
    assert found == Concurrency("none", frozenset())
    assert not found.is_green
    assert found.evidence == "neither gevent nor eventlet has patched this process"


@pytest.mark.parametrize(
    ("names", "patched"),
    [
        (("socket", "threading", "select", "ssl", "queue", "time"), ALL),
        (("socket",), {"socket"}),
        (("threading",), {"thread"}),
        (("thread",), set()),  # gevent calls it `threading`
    ],
)
def test_gevent_says_what_it_has_patched(names, patched):
    found = detect(gevent_that_patched(*names))
    assert found.patched == patched
    assert (found.library, found.is_green) == (("gevent", True) if patched else ("none", False))


@pytest.mark.parametrize(
    ("names", "patched"),
    [
        (("socket", "thread", "select", "time"), {"socket", "thread", "select", "time"}),
        (("thread",), {"thread"}),
    ],
)
def test_eventlet_says_what_it_has_patched(names, patched):
    found = detect(eventlet_that_patched(*names))
    assert (found.library, found.patched, found.is_green) == ("eventlet", patched, True)


def test_the_library_that_patched_counts_and_not_the_one_that_was_imported():
    modules = gevent_that_patched() | eventlet_that_patched("socket")
    assert detect(modules).library == "eventlet"


def test_the_evidence_is_one_sorted_line():
    found = detect(gevent_that_patched("socket", "threading", "queue"))
    assert found.evidence == "gevent has patched queue, socket, thread"


def test_two_looks_at_the_same_process_are_equal():
    assert detect(gevent_that_patched("socket")) == detect(gevent_that_patched("socket"))
    assert detect(gevent_that_patched("socket")) != detect(gevent_that_patched("ssl"))


@pytest.mark.parametrize(
    ("modules", "answer"),
    [
        ({}, False),
        ({"gevent": module("gevent")}, False),
        ({"gevent.monkey": None}, False),
        (gevent_that_patched(), True),
        (gevent_that_patched("socket"), False),
        (gevent_that_patched() | eventlet_that_patched("socket"), False),
        (eventlet_that_patched(), False),
    ],
)
def test_a_process_may_be_patched_later_by_an_imported_gevent(modules, answer):
    assert may_be_patched_later(modules) is answer


# --- the real ones --------------------------------------------------------------------------------

LOOK = """
import sys
from sluice.detect import detect
before = set(sys.modules)
found = detect()
assert set(sys.modules) == before, set(sys.modules) - before
print(found.library, *sorted(found.patched))
"""


def look(code: str) -> str:
    return run_python(f"{code}\n{LOOK}").stdout.strip()


def test_looking_imports_neither():
    assert look("") == "none"
    run_python(
        f"{LOOK}\nassert not [m for m in sys.modules if m.startswith(('gevent', 'eventlet'))]"
    )


@pytest.mark.parametrize(
    ("code", "answer"),
    [
        ("import gevent, gevent.monkey", "none"),
        (
            "from gevent import monkey; monkey.patch_all()",
            "gevent queue select socket ssl thread time",
        ),
        ("from gevent import monkey; monkey.patch_socket()", "gevent socket"),
        ("from gevent import monkey; monkey.patch_all(socket=False, ssl=False)", None),
        ("from gevent import monkey; monkey.patch_thread()", None),
    ],
)
def test_a_real_gevent(code, answer):
    found = look(code)
    if answer is None:
        assert found.startswith("gevent ")
        assert "thread" in found
        assert "socket" not in found
    else:
        assert found == answer


@pytest.mark.parametrize(
    ("code", "answer"),
    [
        ("import eventlet, eventlet.patcher", "none"),
        ("import eventlet; eventlet.monkey_patch()", "eventlet select socket thread time"),
        ("import eventlet; eventlet.monkey_patch(socket=True)", "eventlet socket"),
        ("import eventlet; eventlet.monkey_patch(thread=True)", "eventlet thread"),
    ],
)
def test_a_real_eventlet(code, answer):
    assert look(code) == answer


@pytest.mark.parametrize(("option", "library"), [("gevent", "gevent"), ("eventlet", "eventlet")])
def test_celerys_own_patching_is_seen(option, library):
    code = f"""
import sys
sys.argv = ["celery", "worker", "-P", "{option}"]
from celery import maybe_patch_concurrency
maybe_patch_concurrency()
"""
    assert look(code).split()[0] == library
