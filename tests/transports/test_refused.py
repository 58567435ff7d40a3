"""No thread can be had just now: it is said, nothing runs later, and the pool still works."""

import textwrap

import pytest

from tests.doubles import run_python

GEVENT = """
import gevent.monkey
gevent.monkey.patch_all()
import gevent
from gevent.threadpool import ThreadPool
from sluice.transports.gevent import GeventThread

pool = gevent.get_hub().threadpool
add = ThreadPool._add_thread
def refuse(self): raise RuntimeError("can't start new thread")
ThreadPool._add_thread = refuse
ran, refused = [], []
def start(): GeventThread().start(lambda: ran.append(True), refused.append)
before = pool.maxsize
{how}
gevent.sleep(0.1)
assert [str(error) for error in refused] == ["can't start new thread"] * 2, refused
ThreadPool._add_thread = add
assert pool.spawn(lambda: 42).get(timeout=10) == 42
assert pool.maxsize == before
assert ran == []  # what was in the queue is withdrawn
start()
with gevent.Timeout(20):
    while not ran: gevent.sleep(0.01)
assert (ran, len(refused)) == ([True], 2)
"""


@pytest.mark.parametrize(
    "how",
    ["start(); start()", "for _ in range(2): gevent.get_hub().loop.run_callback(start)"],
    ids=["in a greenlet", "in the hub"],
)
def test_gevent(how):
    run_python(GEVENT.format(how=how))


EVENTLET = """
import eventlet
eventlet.monkey_patch()
from eventlet import tpool
from sluice.transports.eventlet import EventletThread

start_thread, started = tpool.threading.Thread.start, []
def start_some(self):
    if len(started) == 4: raise RuntimeError("can't start new thread")
    started.append(self)
    start_thread(self)
ran, refused = [], []
def start(): EventletThread().start(lambda: ran.append(True), refused.append)
def wait_until_ran(number):
    with eventlet.Timeout(20):
        while len(ran) < number: eventlet.sleep(0.01)
"""


def eventlet(code):
    run_python(EVENTLET + textwrap.dedent(code), PYTHONWARNINGS="ignore")


def test_eventlet_leaves_no_half_of_a_pool():
    eventlet(
        """
        tpool.threading.Thread.start = start_some
        start()
        assert [str(error) for error in refused] == ["can't start new thread"]
        tpool.threading.Thread.start = start_thread
        assert tpool.execute(lambda: 42) == 42
        start()
        wait_until_ran(1)
        assert (ran, len(refused)) == ([True], 1)
        for thread in started: thread.join(10)  # those of the half
        assert not any(thread.is_alive() for thread in started)
        """
    )


def test_eventlet_without_a_hub_gets_a_thread_of_its_own():
    """The first task is sent by a function that runs in the pool, or on any native thread."""
    eventlet(
        """
        tpool.execute(start)
        wait_until_ran(1)
        assert (ran, refused) == ([True], [])
        native = tpool.threading.Thread(target=start)
        native.start()
        native.join(10)
        wait_until_ran(2)
        assert (ran, refused) == ([True, True], [])
        assert tpool.execute(lambda: 42) == 42
        """
    )
