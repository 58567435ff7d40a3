"""A process that forks, and forks, while its sender and its other threads are busy.

    python -m tests.faults.forks script|worker NUMBER

Children end by `os._exit` and by `sys.exit` in turn; every third sends a task first. Prints as JSON
how many ended otherwise than they should, or hung.
"""

import json
import logging
import os
import signal
import sys
import threading
import time

import celery

import sluice
from sluice.events import Job

LONGEST = 30.0  # seconds that a child may take
AT_ONCE = 4

sluice.init()
app = celery.Celery(broker="memory://")


@app.task(name="forks.sent")
def sent(): ...


class ToDescriptor(logging.Handler):
    """Writes as logging does, without a buffer: the lock of a buffer does not survive a fork."""

    def emit(self, record):
        os.write(nowhere, self.format(record).encode())


nowhere = os.open(os.devnull, os.O_WRONLY)
logger = logging.getLogger("forks")
logger.addHandler(ToDescriptor())
logger.propagate = False
over = threading.Event()


def capture():
    """Not by task.delay(): kombu's locks do not survive a fork under load."""
    while not over.wait(0.003):
        job = Job(
            external_id="noise", name="noise", state="active", extensions={"celeryEvent": "x"}
        )
        sluice._client.recorder.job(time.time(), job)


def log():
    while not over.wait(0.0005):
        logger.warning("noise")


def run(number):
    """What a child does, and how it ends."""
    logger.warning("in the child")
    if number % 3 == 0:
        sent.delay()
    if number % 2:
        sys.exit(7)
    os._exit(8)


def fork_many(total):
    running, wrong, number = {}, [], 0
    while number < total or running:
        if number < total and len(running) < AT_ONCE:
            pid = os.fork()
            if pid == 0:
                run(number)
            running[pid] = (number, time.monotonic())
            number += 1
            continue
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            which, _ = running.pop(pid)
            code = os.waitstatus_to_exitcode(status)
            if code != (7 if which % 2 else 8):
                wrong.append((which, code))
            continue
        time.sleep(0.001)
        for pid, (_, begin) in running.items():
            if time.monotonic() - begin > LONGEST:
                os.kill(pid, signal.SIGABRT)  # faulthandler shows where it hangs
    return wrong


def main(kind, total):
    if kind == "worker":
        sluice._client.begin_worker(forks=True)
        sluice._client.start_sender()
    parent = os.getpid()
    threads = [threading.Thread(target=target) for target in (capture, log, log)]
    for thread in threads:
        thread.start()
    try:
        begin = time.monotonic()
        wrong = fork_many(total)
        seconds = time.monotonic() - begin
    finally:
        if os.getpid() == parent:  # in a child, nobody may ever let go of the lock of `over`
            over.set()
            for thread in threads:
                thread.join()
    flushed = sluice.flush(20)
    stats = sluice.stats()
    report = {"wrong": wrong, "flushed": flushed, "dropped": stats.dropped, "seconds": seconds}
    print(json.dumps(report | {"requests": stats.requests, "faults": stats.faults}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
