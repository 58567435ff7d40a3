"""What the views answer: a text of three words, of which the first is the process."""

import os
import threading

from celery import Task

import sluice

#: Threads of the servers' own that come as requests do: gthread's, and those of FastAPI.
POOLED = ("ThreadPoolExecutor", "AnyIO")


def quiet() -> str:
    """``PID THREADS TRANSPORT``: native threads but for the server's pool, and Sluice's answer."""
    pooled = sum(thread.name.startswith(POOLED) for thread in threading.enumerate())
    threads = len(os.listdir("/proc/self/task")) - pooled
    return f"{os.getpid()} {threads} {sluice.stats().transport}"


def send(task: Task) -> str:
    """``PID ID TRANSPORT``, once the task is sent."""
    task_id = task.delay().id
    return f"{os.getpid()} {task_id} {sluice.stats().transport}"
