"""What the views answer: a text of three words, of which the first is the process."""

import os
import threading

from celery import Task

import sluice

#: Threads of the servers' own that come as requests do: gthread's, and those of FastAPI.
POOLED = ("ThreadPoolExecutor", "AnyIO")


def pooled() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(POOLED)]


def threads() -> int:
    """How many native threads there are beside the pool, in which one may just be starting."""
    while True:
        pool, every = pooled(), set(os.listdir("/proc/self/task"))
        numbers = {str(thread.native_id) for thread in pool}
        if numbers <= every and pool == pooled():
            return len(every - numbers)


def quiet() -> str:
    """``PID THREADS TRANSPORT``: what there is without a task sent."""
    return f"{os.getpid()} {threads()} {sluice.stats().transport}"


def send(task: Task) -> str:
    """``PID ID TRANSPORT``, once the task is sent."""
    task_id = task.delay().id
    return f"{os.getpid()} {task_id} {sluice.stats().transport}"
