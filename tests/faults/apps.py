"""The sample app with tasks that do harm to the process they run in, after they sent others."""

import ctypes
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from celery import Task
from celery.exceptions import SoftTimeLimitExceeded

import sluice
from sluice.capture.limits import LimitGuard
from tests.faults import watched
from tests.harness.apps.basic import app, ok


@app.task(name="faults.send_and_die")
def send_and_die(how: str, number: int) -> list[str]:
    """Send `number` tasks, then end the process in this way, or the task by its hard limit.

    Before, say how many of the events MAIN had not taken over yet.
    """
    sent = [ok.apply_async(queue="elsewhere").id for _ in range(number)]
    print(f"unread: {sluice.stats().pending}", flush=True)
    if how == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "_exit":
        os._exit(3)
    elif how == "segfault":
        ctypes.string_at(0)
    elif how == "hard limit":
        time.sleep(60)
    elif how == "not needed":
        time.sleep(1.5)  # for so long one child is not enough
    return sent


@app.task(name="faults.send_when_told")
def send_when_told(file: str, number: int) -> None:
    """Wait for this file, send `number` tasks, say which, and stay."""
    while not Path(file).exists():
        time.sleep(0.02)
    for _ in range(number):
        print(f"SENT {ok.apply_async(queue='elsewhere').id}", flush=True)
    time.sleep(60)


@app.task(name="faults.send_one")
def send_one() -> str:
    """Send one task to a queue that nobody reads, and say which; note when it is captured.

    Which it is as soon as Celery's call returns. The note is in the file FAULTS_CAPTURED, whole,
    whenever the process is killed after this: one write to the end of a file is not divided.
    """
    sent = ok.apply_async(queue="elsewhere").id
    if path := os.environ.get("FAULTS_CAPTURED"):
        notes = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(notes, f"{sent}\n".encode())
        os.close(notes)
    return sent


@app.task(name="faults.retry_then_sleep", bind=True)
def retry_then_sleep(self: Task, seconds: float) -> None:
    """Be retried once, and sleep in the second attempt."""
    if not self.request.retries:
        raise self.retry(countdown=0.1)
    time.sleep(seconds)


@app.task(name="faults.capture")
def capture(number: int) -> int:
    """Capture so many events, and tell the resident bytes of the process after it."""
    watched.capture(number)
    return watched.resident()


#: The modules of the frames in which the last soft time limit came, the innermost first.
_limit_came_in: list[str] = []


def _note_where_it_comes(on_limit: Callable[..., None]) -> Callable[..., None]:
    def noting(guard: LimitGuard, number: int, frame: FrameType | None) -> None:
        _limit_came_in.clear()
        at = frame
        while at is not None and at.f_globals["__name__"] != __name__:
            _limit_came_in.append(at.f_globals["__name__"])
            at = at.f_back
        on_limit(guard, number, frame)

    return noting


LimitGuard._on_limit = _note_where_it_comes(LimitGuard._on_limit)


@app.task(name="faults.send_until_stopped", ignore_result=True)
def send_until_stopped(seconds: float) -> str:
    """Send tasks for so long, unless a soft time limit comes, and say which it was.

    One that was lost on its way here is told with the modules in which it came.
    By a connection of its own: one that a limit has broken is not for the next task.
    """
    _limit_came_in.clear()
    until = time.monotonic() + seconds
    try:
        with app.connection_for_write() as connection:
            producer = app.amqp.Producer(connection)
            while time.monotonic() < until:
                ok.apply_async(queue="elsewhere", producer=producer)
    except Exception as error:  # kombu puts it into an error of its own
        whole = (error, error.__cause__, error.__context__)
        if not any(isinstance(one, SoftTimeLimitExceeded) for one in whole):
            raise
        return "stopped"
    return f"not stopped, it came in {' '.join(_limit_came_in)}"
