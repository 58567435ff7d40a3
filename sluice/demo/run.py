"""The demo from start to end: start everything, send, watch, stop everything, judge.

Whatever ends it early (Ctrl-C, SIGTERM, a worker that dies, an error of its own), the
processes it started are ended first, the last one started first.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn, TextIO
from uuid import uuid4

import sluice
from sluice.demo import processes
from sluice.demo.ledger import node_name
from sluice.demo.report import Findings, summary
from sluice.demo.screen import Frame, PlainView, Style, View, view_for
from sluice.folder import default_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from types import FrameType

    from sluice.demo.endpoint import Endpoint
    from sluice.demo.timeline import Expectation

_KEY: Final = "sk_demo_this_key_never_leaves_this_machine"
#: How long the sending takes, so that there is something to watch.
_SENDING: Final = 6.0
_START_TIMEOUT: Final = 40.0
_TICK: Final = 0.05


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for on the command line."""

    pools: Sequence[str]
    #: Per pool.
    tasks: int
    #: Seconds from the first task sent to the last timeline complete.
    timeout: float
    verbose: bool
    #: A folder for the workers' logs.
    logs: Path | None
    #: Let the page stay when all is done, until Ctrl-C.
    stay: bool = False


class DemoError(Exception):
    """The demo cannot go on; says why, and what to do where there is something to do."""


def run(options: Options) -> int:
    """Run the demo.  The exit code: 0 if everything was complete, 1 if not, 2 if it cannot."""
    if missing := processes.missing_packages(options.pools):
        names = " ".join(missing)
        print(
            f"The demo needs packages that are not installed: {names}\n"
            f"  {sys.executable} -m pip install {names}",
            file=sys.stderr,
        )
        return 2
    try:
        with _ended_by_signals():
            return _demonstrate(options)
    except DemoError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. Nothing is left running.", file=sys.stderr)
        return 128 + signal.SIGINT


def _demonstrate(options: Options) -> int:
    started = time.monotonic()
    stream = sys.stdout
    style = Style.of(stream)
    with ExitStack() as stack:
        server = stack.enter_context(_collector())
        print(f"  Watch it live: {server.page}\n", file=stream, flush=True)
        view = PlainView(stream) if options.verbose else view_for(stream, style)
        stack.callback(view.close)
        watch = _Watch(options.pools, server, view)
        watch.show("starting", "a broker and the workers")
        workers = _start(options, server.url, stack)
        watch.workers = workers
        # Not earlier: this makes the Celery app, which reads the environment.
        from sluice.demo import plan

        limit = time.monotonic() + _START_TIMEOUT
        while not all(worker.is_ready for worker in workers):
            if time.monotonic() > limit:
                late = next(worker for worker in workers if not worker.is_ready)
                raise _told_by(late, f"is not ready after {_START_TIMEOUT:.0f} s")
            ready = sum(worker.is_ready for worker in workers)
            watch.tick("starting", f"{ready} of {len(workers)} workers are ready")
        _send(options, plan.mix, plan.send, watch)
        _stop(workers, watch)
        view.close()
        width = shutil.get_terminal_size().columns
        for line in summary(watch.findings, time.monotonic() - started, width, style):
            print(line, file=stream)
        if options.stay:
            print(f"\n  The page stays: {server.page} Ctrl-C ends it.", file=stream, flush=True)
            _stay()
    return 0 if watch.findings.fine else 1


def _collector() -> Endpoint:
    # Not earlier: a process that never runs the demo does not pay for a server.
    from sluice.collector.options import BadOption
    from sluice.demo.endpoint import Endpoint

    try:
        return Endpoint(_KEY)
    except (BadOption, RuntimeError) as error:
        raise DemoError(str(error)) from error


def _stay() -> None:
    """Until Ctrl-C, which ends it well."""
    with suppress(KeyboardInterrupt):
        while True:
            signal.pause()


class _Watch:
    """What was heard so far, and where it is shown."""

    def __init__(self, pools: Sequence[str], server: Endpoint, view: View) -> None:
        self.findings = Findings(pools)
        #: Those that must be running now.
        self.workers: Sequence[processes.Worker] = ()
        #: A text that is an argument or a result of every task.
        self.private = f"private-{uuid4().hex}"
        self._server = server
        self._view = view
        self._read = 0
        self._started = time.monotonic()

    def tick(self, phase: str, detail: str = "") -> None:
        """Take in what arrived, show it, and let a little time pass.

        Raises :class:`DemoError` where a worker has ended that should be running.
        """
        self.show(phase, detail)
        for worker in self.workers:
            if worker.exit_code is not None:
                raise _told_by(worker, f"ended by itself, exit code {worker.exit_code}")
        time.sleep(_TICK)

    def show(self, phase: str, detail: str = "") -> None:
        """Take in what arrived, and show it."""
        arrived = self._server.requests[self._read :]
        self._read += len(arrived)
        for received in arrived:
            self.findings.add(received, self.private)
        stats = [self.findings.ledger.stats(pool) for pool in self.findings.pools]
        self._view.show(Frame(time.monotonic() - self._started, phase, detail, stats))


def _start(options: Options, url: str, stack: ExitStack) -> list[processes.Worker]:
    """Start the broker and one worker per pool; `stack` ends them."""
    # A folder of its own, on the same tmpfs: the rings of real processes are not its concern.
    rings = default_folder()
    spool = stack.enter_context(
        tempfile.TemporaryDirectory(prefix="sluice-demo-", dir=rings.parent if rings else None)
    )
    try:
        broker_url = stack.enter_context(processes.broker())
    except RuntimeError as error:
        raise DemoError(str(error)) from error
    environ = processes.environment(
        os.environ,
        {
            "SLUICE_API_KEY": _KEY,
            "SLUICE_CONNECTION_ID": str(uuid4()),
            "SLUICE_API_URL": url,
            "SLUICE_SPOOL_DIR": spool,
            processes.BROKER_VARIABLE: broker_url,
        },
    )
    # This process sends the tasks: it is a user of Sluice like the workers.
    os.environ.clear()
    os.environ.update(environ)
    workers: list[processes.Worker] = []
    stack.callback(processes.stop, workers)
    log = _log(options, stack)
    # One by one into the list that is ended: the next one may fail to start.
    workers.extend(processes.Worker(pool, environ, log) for pool in options.pools)
    return workers


def _send(
    options: Options,
    mix: Callable[[int], Iterator[str]],
    send: Callable[[str, str, str], list[Expectation]],
    watch: _Watch,
) -> None:
    """Send the mix to all pools at an even pace, then wait until all is complete."""
    ledger = watch.findings.ledger
    total = options.tasks * len(options.pools)
    waiting = list(zip(*(mix(options.tasks) for _ in options.pools), strict=True))
    started = time.monotonic()
    for place, kinds in enumerate(waiting):
        for pool, kind in zip(options.pools, kinds, strict=True):
            for expectation in send(kind, pool, watch.private):
                ledger.expect(expectation)
        while time.monotonic() < started + _SENDING * (place + 1) / len(waiting):
            watch.tick("sending", f"{ledger.expected} of {total} tasks")
    while ledger.complete < total and time.monotonic() < started + options.timeout:
        watch.tick("waiting", f"{total - ledger.complete} of {total} timelines to complete")


def _stop(workers: Sequence[processes.Worker], watch: _Watch) -> None:
    """End the workers and this process's own sender, and hear their last events."""
    watch.workers = ()
    for worker in workers:
        worker.terminate()
    limit = time.monotonic() + processes.STOP_TIMEOUT
    while any(worker.exit_code is None for worker in workers) and time.monotonic() < limit:
        watch.tick("stopping the workers")
    watch.findings.killed = processes.stop(workers, timeout=1.0)
    sluice.shutdown()
    watch.show("done")


def _log(options: Options, stack: ExitStack) -> Callable[[str, str], None] | None:
    """Where the lines of the workers go, besides the tail that is kept of them."""
    if options.logs is None and not options.verbose:
        return None
    files: dict[str, TextIO] = {}
    if options.logs is not None:
        options.logs.mkdir(parents=True, exist_ok=True)
        for pool in options.pools:
            path = options.logs / f"{node_name(pool)}.log"
            files[pool] = stack.enter_context(path.open("w", encoding="utf-8"))

    def log(pool: str, line: str) -> None:
        if pool in files:
            print(line, file=files[pool], flush=True)
        if options.verbose:
            print(f"{pool:9}| {line}", flush=True)

    return log


def _told_by(worker: processes.Worker, what: str) -> DemoError:
    lines = "\n".join(f"  {line}" for line in worker.tail())
    return DemoError(f"The {worker.pool} worker {what}. Its last lines:\n{lines}")


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind the stack, as SIGINT does."""

    def leave(number: int, _: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    before = {one: signal.signal(one, leave) for one in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
