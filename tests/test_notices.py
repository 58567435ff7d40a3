"""What Sluice has to say: once, from the application's threads, when somebody listens."""

from __future__ import annotations

import logging

import pytest
from celery.signals import after_setup_logger

import sluice.notices
from sluice.notices import REPEAT_AFTER, Notices
from sluice.testing import FakeClock

SECRET = "4111-1111-1111-1111"


class Ear(logging.Handler):
    """Keeps what it hears."""

    def __init__(self):
        super().__init__()
        self.records = []

    def emit(self, record):
        self.records.append(record)

    @property
    def lines(self):
        return [record.getMessage() for record in self.records]


class Detached(logging.Logger):
    """A logger outside the tree: pytest listens to all that are in it."""


@pytest.fixture
def clock(monkeypatch):
    clock = FakeClock()
    monkeypatch.setattr(sluice.notices, "time", clock)
    return clock


@pytest.fixture
def logger(monkeypatch):
    """In the place of the logger "sluice", one that nobody listens to."""
    logger = Detached("a silent one", logging.DEBUG)
    logger.addHandler(logging.NullHandler())
    monkeypatch.setattr(sluice.notices, "logger", logger)
    return logger


@pytest.fixture
def ear(logger):
    ear = Ear()
    logger.addHandler(ear)
    return ear


def test_the_logger_is_silent_by_itself():
    assert sluice.notices.logger.name == "sluice"
    handlers = logging.getLogger("sluice").handlers
    assert any(isinstance(handler, logging.NullHandler) for handler in handlers)


def test_adding_logs_nothing_and_log_logs_in_order(ear):
    notices = Notices()
    notices.add("a", "first")
    notices.add("b", "second", level=logging.ERROR)
    assert ear.lines == []
    assert notices.pending
    notices.log()
    assert [(r.levelno, r.getMessage()) for r in ear.records] == [
        (logging.WARNING, "first"),
        (logging.ERROR, "second"),
    ]
    assert not notices.pending
    notices.log()
    assert len(ear.lines) == 2


def test_a_percent_sign_is_a_percent_sign(ear):
    notices = Notices()
    notices.add("a", "100 % of %s")
    notices.log()
    assert ear.lines == ["100 % of %s"]


def test_a_kind_is_said_once(ear, clock):
    notices = Notices()
    notices.add("a", "first")
    notices.log()
    clock.advance(10 * REPEAT_AFTER)
    notices.add("a", "second")
    notices.add("b", "other")
    notices.log()
    assert ear.lines == ["first", "other"]


def test_a_kind_that_may_come_again_is_said_at_most_once_a_minute(ear, clock):
    notices = Notices()
    for text, seconds in (("one", 0), ("two", REPEAT_AFTER - 1), ("three", 1), ("four", 1)):
        clock.advance(seconds)
        notices.add("a", text, once=False)
    notices.log()
    assert ear.lines == ["one", "three"]


def test_kinds_without_end_take_no_memory_without_end(ear):
    notices = Notices()
    for n in range(1000):
        notices.add(f"kind {n}", f"line {n}")
    notices.log()
    assert ear.lines == [f"line {n}" for n in range(64)]


def test_a_handler_that_raises_is_a_fault_and_goes_no_further(ear):
    def refuse(record: logging.LogRecord) -> bool:
        raise KeyError(record.name)

    notices = Notices()
    notices.add("kind", "text")
    notices.add("another", "text")
    ear.addFilter(refuse)
    notices.log()
    assert notices.faults == 2
    assert not notices.pending


def test_kinds_that_are_over_make_room_for_others(ear, clock):
    """Or after so many workers were killed nobody would hear of a key that is refused."""
    notices = Notices()
    notices.add("for good", "once")
    for n in range(200):
        assert notices.add(f"kind {n}", f"line {n}", once=False)
        notices.log()
        clock.advance(REPEAT_AFTER / 30)
    assert not notices.add("for good", "twice")
    assert len(ear.lines) == 201
    assert len(notices._silent_until) <= 64


def test_who_says_something_hears_whether_it_is_said(ear, clock):
    notices = Notices()
    assert notices.add("a", "one", once=False)
    assert not notices.add("a", "two", once=False)
    clock.advance(REPEAT_AFTER)
    assert notices.add("a", "three", once=False)


def test_lines_that_nobody_hears_take_no_memory_without_end(logger, clock):
    notices = Notices()
    for n in range(1000):
        notices.add("same", f"line {n}", once=False)
        clock.advance(REPEAT_AFTER)
    assert len(notices._waiting) <= 64


def test_lines_wait_while_nobody_listens(logger):
    notices = Notices()
    notices.add("a", "early")
    notices.log()
    assert notices.pending
    ear = Ear()
    logger.addHandler(ear)
    notices.log()
    assert ear.lines == ["early"]


@pytest.mark.parametrize("door", ["open", "closed"])
def test_a_handler_of_a_parent_listens_where_the_door_is_open(logger, door):
    ear = Ear()
    logger.parent = Detached("parent", logging.DEBUG)
    logger.parent.addHandler(ear)
    logger.propagate = door == "open"
    notices = Notices()
    notices.add("a", "heard")
    notices.log()
    assert ear.lines == (["heard"] if door == "open" else [])
    assert notices.pending is (door == "closed")


def test_lines_are_logged_as_soon_as_celery_has_set_logging_up(logger):
    receivers = list(after_setup_logger.receivers or [])
    notices = Notices()
    notices.add("a", "early")
    notices.log_when_heard()
    try:
        assert notices.pending
        ear = Ear()
        logger.addHandler(ear)
        after_setup_logger.send(sender=None)
        after_setup_logger.send(sender=None)
        assert ear.lines == ["early"]
    finally:
        assert after_setup_logger.disconnect(dispatch_uid="sluice.after_setup_logger")
    assert list(after_setup_logger.receivers or []) == receivers


def test_celery_is_left_alone_where_somebody_listens_already(ear):
    notices = Notices()
    notices.add("a", "now")
    notices.log_when_heard()
    assert ear.lines == ["now"]
    assert not after_setup_logger.disconnect(dispatch_uid="sluice.after_setup_logger")


# --- faults ---------------------------------------------------------------------------------------


def raise_deep_down() -> None:
    raise KeyError(SECRET)


def fault(notices: Notices, place: str = "a place") -> None:
    try:
        raise_deep_down()
    except KeyError as error:
        notices.fault(place, error)


def test_a_fault_says_what_and_where_but_not_its_text(ear):
    notices = Notices()
    fault(notices)
    notices.log()
    (text,) = ear.lines
    line = raise_deep_down.__code__.co_firstlineno + 1
    assert f"caught in a place (KeyError at raise_deep_down:{line})" in text
    assert text.startswith("[sluice] ")
    assert "\n         See: https://" in text
    assert SECRET not in text


def test_every_fault_is_counted_and_logged_once_a_minute_per_place(ear, clock):
    notices = Notices()
    for _ in range(5):
        fault(notices)
        fault(notices, "another place")
    clock.advance(REPEAT_AFTER)
    fault(notices)
    notices.log()
    assert notices.faults == 11
    assert ["a place" in line for line in ear.lines] == [True, False, True]


def test_a_fault_without_a_traceback_is_a_fault(ear):
    notices = Notices()
    notices.fault("a place", KeyError())
    notices.log()
    assert "(KeyError at ?)" in ear.lines[0]
