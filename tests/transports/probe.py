"""A patched process that sends events, watches its own event loop, and says what it saw.

    python -m tests.transports.probe gevent|eventlet SECONDS [--busy] [--block] [--pool] [--wait]

Runs as a process of its own: patching is for life.  Prints one line of JSON, then ends the
way a script ends.
"""

import argparse
import json
import sys
import time
from typing import Any


def _patch(library: str) -> Any:
    """Patch this process and return (spawn, sleep, run in the library's thread pool)."""
    if library == "gevent":
        import gevent.monkey

        gevent.monkey.patch_all()
        return gevent.spawn, gevent.sleep, lambda f, *a: gevent.get_hub().threadpool.apply(f, a)
    import eventlet

    eventlet.monkey_patch()
    from eventlet import tpool

    return eventlet.spawn, eventlet.sleep, tpool.execute


def _hub_of_this_thread(library: str) -> object:
    """The hub that the calling thread has, without making one."""
    if library == "gevent":
        from gevent._hub_local import get_hub_if_exists

        return get_hub_if_exists()
    from eventlet import hubs

    return getattr(hubs._threadlocal, "hub", None)


def main() -> None:
    """Watch for the given time, then report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("library", choices=["gevent", "eventlet"])
    parser.add_argument("seconds", type=float)
    parser.add_argument("--busy", action="store_true", help="fill the hub with greenlets")
    parser.add_argument("--block", action="store_true", help="block the hub, once, for a second")
    parser.add_argument("--pool", action="store_true", help="use every thread of the pool")
    parser.add_argument("--wait", action="store_true", help="gevent.wait() at the end")
    parser.add_argument("--no-greenlets", action="store_true", help="neither tick nor send")
    options = parser.parse_args()
    spawn, sleep, in_pool = _patch(options.library)
    sluice, gaps, seen = _start(
        options.library, (lambda *_: None) if options.no_greenlets else spawn, sleep
    )
    if options.busy:
        for _ in range(200):
            spawn(_spin, sleep)
    report: dict[str, Any] = {}
    _watch(options.seconds, sleep)
    if options.block:
        report["posted_while_blocked"] = _block_the_hub(sluice)
    if options.pool:
        report |= _use_the_pool(options.library, spawn, sleep, in_pool)
    stats = sluice.stats()
    report |= {
        "longest_gap": max(gaps[1:], default=None),
        "ticks": len(gaps),
        "hubs": sorted({hub for hub, _ in seen}),
        "threads": len({ident for _, ident in seen}),
        "main_thread": _ident(options.library) in {ident for _, ident in seen},
        "transport": stats.transport,
        "imported": sorted({"requests", "urllib3", "tenacity"} & sys.modules.keys()),
        "delivered": stats.delivered,
        "captured": stats.captured,
        "faults": stats.faults,
    }
    print(json.dumps(report), flush=True)
    if options.wait:
        import gevent

        sluice.flush()
        gevent.wait()


def _start(library: str, spawn: Any, sleep: Any) -> Any:
    import celery

    import sluice

    sluice.init()
    app = celery.Celery(broker="memory://")

    @app.task
    def task(secret: str) -> None:
        pass

    gaps: list[float] = []
    seen: set[tuple[str, int]] = set()

    def tick() -> None:
        last = time.monotonic()
        while True:
            sleep(0.005)
            now = time.monotonic()
            gaps.append(now - last)
            last = now

    def send() -> None:
        while True:
            task.delay("x")
            sleep(0.02)

    def look() -> None:
        seen.add((repr(_hub_of_this_thread(library)), _ident(library)))

    task.delay("the first, which starts the sender")
    sluice._client.at_every_turn(look)
    sleep(0.2)
    spawn(tick)
    spawn(send)
    return sluice, gaps, seen


def _ident(library: str) -> int:
    """The number of the operating system's thread, as nobody has patched it."""
    import importlib

    original = (
        importlib.import_module("gevent.monkey").get_original("_thread", "get_native_id")
        if library == "gevent"
        else importlib.import_module("eventlet.patcher").original("_thread").get_native_id
    )
    return original()


def _watch(seconds: float, sleep: Any) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        sleep(0.05)


def _spin(sleep: Any) -> None:
    """Use a little CPU and yield, without end."""
    while True:
        sum(range(200))
        sleep(0)


def _block_the_hub(sluice: Any) -> int:
    """Hold the hub for a second and say how many requests were begun meanwhile."""
    before = sluice.stats().requests
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        sum(range(1000))
    return int(sluice.stats().requests - before)


def _use_the_pool(library: str, spawn: Any, sleep: Any, in_pool: Any) -> dict[str, float]:
    """Half-second jobs on all threads of the pool but the one for DNS, and a look-up."""
    import socket

    if library == "gevent":
        from gevent.monkey import get_original

        block, size = get_original("time", "sleep"), 9
    else:
        from eventlet.patcher import original

        block, size = original("time").sleep, 20
    begun = time.monotonic()
    jobs = [spawn(in_pool, block, 0.5) for _ in range(size)]
    sleep(0.1)
    asked = time.monotonic()
    socket.getaddrinfo("localhost", 80)
    answered = time.monotonic()
    for job in jobs:
        job.get() if library == "gevent" else job.wait()
    return {"pool_seconds": time.monotonic() - begun, "dns_seconds": answered - asked}


if __name__ == "__main__":
    main()
    sys.stdout.flush()
