"""A process that detaches itself as a daemon does, then forks its workers: ``daemon NUMBER``.

`init()` runs in the first process, which is gone before the first task is sent: fork, setsid,
fork, and from the grandchild two workers, as uWSGI does unless `lazy-apps` is on. All three send.
Prints ``QUIET PID THREADS TRANSPORT``, and for each task ``SENT PID ID TRANSPORT``.
"""

import os
import sys

from tests.faults.web import views
from tests.harness.apps.basic import ok


def say(word: str, answer: str) -> None:
    """Print a line in one piece: several processes write."""
    os.write(1, f"{word} {answer}\n".encode())


def send(number: int) -> None:
    say("QUIET", views.quiet())
    for _ in range(number):
        say("SENT", views.send(ok))


def detach() -> None:
    """Go on in a grandchild with a session of its own; the two before it end at once."""
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)


if __name__ == "__main__":
    number = int(sys.argv[1])
    detach()
    children = []
    for _ in range(2):
        if child := os.fork():
            children.append(child)
        else:
            send(number)
            sys.exit()
    for child in children:
        os.waitpid(child, 0)
    send(number)
