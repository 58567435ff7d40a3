"""Processes that send tasks and are no workers: ``produce PATCHED_BY HOW NUMBER``.

Prints ``SENT ID PID`` for each task, and ``LAST WORD`` when nothing but the end is left to do.
"""

import os
import sys

PATCHED_BY, HOW, NUMBER = sys.argv[1], sys.argv[2], int(sys.argv[3])
if PATCHED_BY == "gevent":
    from gevent import monkey

    monkey.patch_all()
elif PATCHED_BY == "eventlet":
    import eventlet

    eventlet.monkey_patch()

import multiprocessing  # noqa: E402
import socket  # noqa: E402
import threading  # noqa: E402
import time  # noqa: E402
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer  # noqa: E402

from celery import chain, group  # noqa: E402

from tests.harness.apps.basic import app, ok  # noqa: E402


def say(*words: object) -> None:
    """Print a line in one piece, so that threads and processes do not mix theirs."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def send(number: int = NUMBER) -> None:
    for n in range(number):
        say("SENT", ok.delay(n).id, os.getpid())


def in_threads() -> None:
    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def in_a_fork() -> None:
    """Parent, child and grandchild send; each ends as a script does."""
    send()
    child = os.fork()
    send()
    if child:
        _, status = os.waitpid(child, 0)
        assert status == 0
    elif not (grandchild := os.fork()):
        send()
    else:
        os.waitpid(grandchild, 0)


def a_canvas() -> None:
    chain(ok.si(1), ok.si(2)).apply_async()
    group(ok.si(n) for n in range(3)).apply_async()
    app.send_task("elsewhere.task", queue="other", countdown=60)


def in_multiprocessing() -> None:
    send()
    context = multiprocessing.get_context(HOW)
    children = [context.Process(target=send) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0


def flushes() -> None:
    """Flush after each task, and print how long the slowest took.

    After the bell is rung for the sender, it is the sender's turn on the processor.
    """
    import sluice

    send()
    client = sluice._client
    assert client is not None
    bell = client.recorder.bell
    assert bell is not None
    ring = bell.ring
    bell.ring = lambda: (ring(), time.sleep(0.05))
    slowest = 0.0
    for _ in range(3):
        send()
        begin = time.monotonic()
        sluice.flush(20)
        slowest = max(slowest, time.monotonic() - begin)
    say("SLOWEST", slowest)


def nothing() -> None:
    import sluice

    say("STATS", sluice.stats().transport, sluice.flush(), sluice.stats().captured)
    say("THREADS", threading.active_count(), len(os.listdir("/proc/self/task")))


def as_web_servers() -> None:
    """Two processes behind one socket, as a pre-forking web server has them."""

    class Server(WSGIServer):
        address_family = socket.AF_INET

        def server_bind(self) -> None:
            self.socket.close()
            self.socket = listener
            self.server_name, self.server_port = "web", listener.getsockname()[1]
            self.setup_environ()

        def server_activate(self) -> None:
            """It listens since before the fork."""

    class Quiet(WSGIRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

    def answer(environ: dict, start_response: object) -> list[bytes]:
        if environ["PATH_INFO"] == "/send":
            send(1)
        start_response("200 OK", [])
        return [f"{os.getpid()} {len(os.listdir('/proc/self/task'))}".encode()]

    listener = socket.create_server(("127.0.0.1", 0))
    for _ in range(2):
        if not os.fork():
            server = Server(("", 0), Quiet)
            server.set_app(answer)
            server.serve_forever()
    say("LISTENS", listener.getsockname()[1], len(os.listdir("/proc/self/task")))
    while True:
        time.sleep(60)


if __name__ == "__main__":
    {
        "send": send,
        "canvas": a_canvas,
        "threads": in_threads,
        "os.fork": in_a_fork,
        "fork": in_multiprocessing,
        "spawn": in_multiprocessing,
        "nothing": nothing,
        "flush": flushes,
        "web": as_web_servers,
    }[HOW]()
    say("LAST WORD")
