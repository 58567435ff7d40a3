"""A sender that comes back after eventlet's pool was taken down: nothing is said, nothing hangs."""

import subprocess
import sys

import pytest

_SCRIPT = """
import eventlet
eventlet.monkey_patch()
from eventlet import patcher, tpool
from sluice.transports.eventlet import EventletThread

threading = patcher.original("threading")
working, go, gone = (threading.Event() for _ in range(3))
thread = EventletThread()

def work():
    gone.native = threading.current_thread()
    working.set()
    go.wait()

thread.start(work, print)
assert thread.wait_until(working.is_set, 10)
{before}
tpool.killall()
{after}
gone.native.join(10)
assert not gone.native.is_alive()
print("the end")
"""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param("thread.abandon()", "go.set()", id="too late"),
        pytest.param("go.set()", "", id="in time"),
        pytest.param(
            "go.set(); eventlet.sleep(0.2); thread.abandon()", "", id="given up on when back"
        ),
    ],
)
def test_the_pool_is_taken_down_and_the_sender_comes_back(before: str, after: str) -> None:
    script = _SCRIPT.format(before=before, after=after)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("the end\n", "", 0)
