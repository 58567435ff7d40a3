"""The harness's sample app with more ways to go, and with a journal of what really happened.

The journal is in the worker's output: ``JOURNAL start|end ID RETRIES UNIX-TIME PID``, written by
Celery's own signals around the task, in the process that runs it.
"""

import os
import signal
import subprocess
import sys
import time
from typing import Any

from celery import Task
from celery.exceptions import Reject
from celery.signals import task_postrun, task_prerun
from celery.utils.log import get_task_logger
from celery.worker.request import Request

from tests.harness.apps.basic import app

logger = get_task_logger(__name__)


def _note(what: str, task: Task) -> None:
    request = task.request
    logger.info(
        "JOURNAL %s %s %s %.6f %s", what, request.id, request.retries, time.time(), os.getpid()
    )


@task_prerun.connect(weak=False)
def starts(task: Task, **_: Any) -> None:
    _note("start", task)


@task_postrun.connect(weak=False)
def ends(task: Task, **_: Any) -> None:
    _note("end", task)


@app.task(name="life.requeued", bind=True, acks_late=True)
def requeued(self: Task) -> str:
    """Put itself back into the queue once."""
    if not self.request.delivery_info.get("redelivered"):
        raise Reject("again, please", requeue=True)
    return "done"


class LingeringRequest(Request):
    """Takes a while after the broker has its message back."""

    def reject(self, requeue: bool = False) -> None:
        put_back = self._on_reject

        def linger(*args: Any) -> None:
            put_back(*args)
            time.sleep(1.0)

        self._on_reject = linger
        super().reject(requeue=requeue)


class LingeringTask(Task):
    Request = LingeringRequest


@app.task(name="life.requeued_slowly", bind=True, acks_late=True, base=LingeringTask)
def requeued_slowly(self: Task) -> str:
    """Put itself back into the queue once, and be told of it late."""
    if not self.request.delivery_info.get("redelivered"):
        raise Reject("again, please", requeue=True)
    return "done"


@app.task(name="life.stalls_main")
def stalls_main(seconds: float = 1.5) -> None:
    """Stop the worker's MAIN process for so long, and end at once (prefork)."""
    parent = os.getppid()
    code = f"import os, time; time.sleep({seconds}); os.kill({parent}, {int(signal.SIGCONT)})"
    subprocess.Popen([sys.executable, "-S", "-c", code])
    os.kill(parent, signal.SIGSTOP)
