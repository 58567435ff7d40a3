"""A child process whose output is kept and whose whole group goes when the test does."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import psutil

from tests.harness.waiting import wait_for

ROOT = Path(__file__).parents[2]


class Exit(NamedTuple):
    """How a process ended: its exit code, and the seconds from the signal to the end."""

    code: int
    seconds: float


class Process:
    """A process in a group of its own, with stdout and stderr drained into `lines`.

    The output is a pipe and not a file: eventlet's green writes fail on regular files.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path = ROOT,
        name: str = "",
    ) -> None:
        self.name = name or Path(argv[0]).name
        self.lines: list[str] = []
        self._popen = subprocess.Popen(
            argv,
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        self._drain = threading.Thread(target=self._read, name=f"drain {self.name}", daemon=True)
        self._drain.start()

    def _read(self) -> None:
        assert self._popen.stdout is not None
        for line in self._popen.stdout:
            self.lines.append(line.rstrip("\n"))

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, negative for a signal, None while the process runs."""
        return self._popen.poll()

    @property
    def running(self) -> bool:
        return self.returncode is None

    def children(self) -> list[psutil.Process]:
        """All living descendants; none once the process is gone."""
        try:
            return psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def output(self, last: int = 80) -> str:
        """The last lines of output, under a heading, for messages."""
        state = "running" if self.running else f"exit code {self.returncode}"
        kept = self.lines[-last:]
        return "\n".join([f"--- {self.name}, pid {self.pid}, {state}", *kept, "---"])

    def matching(self, text: str) -> list[str]:
        """The output lines so far that contain `text`."""
        return [line for line in list(self.lines) if text in line]

    def wait_line(self, text: str, timeout: float = 30.0, *, count: int = 1) -> list[str]:
        """Wait until `count` output lines contain `text`; fail at once if the process is gone."""

        def enough() -> list[str] | None:
            gone = not self.running and not self._drain.is_alive()
            found = self.matching(text)
            if len(found) >= count:
                return found
            if gone:
                msg = f"{self.name} ended before it said {text!r} ({count} x)\n{self.output()}"
                raise AssertionError(msg)
            return None

        return wait_for(enough, timeout, lambda: f"{text!r} ({count} x) in\n{self.output()}")

    def send_signal(self, sig: signal.Signals) -> None:
        """Send `sig` to the process, and to no child of it."""
        self._popen.send_signal(sig)

    def wait(self, timeout: float = 20.0) -> int:
        """Wait for the end and return the exit code; kill the group and fail after `timeout`.

        A worker that is still there says at a SIGUSR1 where its threads and greenlets are.
        """
        code = self._ended(timeout)
        # A pool child that outlived its parent holds the pipe open: do not wait for it for long.
        self._drain.join(2.0)
        return code

    def _ended(self, timeout: float) -> int:
        try:
            return self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            self.send_signal(signal.SIGUSR1)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(2)
            seen = self.output()
            self.kill()
            msg = f"{self.name} was still there after {timeout:g} s\n{seen}"
            raise AssertionError(msg) from None

    def stop(self, sig: signal.Signals = signal.SIGTERM, timeout: float = 20.0) -> Exit:
        """Send `sig`, wait for the end and tell how it was; then `output` is complete."""
        start = time.monotonic()
        self.send_signal(sig)
        code = self._ended(timeout)
        seconds = time.monotonic() - start
        self._drain.join(2.0)
        return Exit(code, seconds)

    def kill(self) -> None:
        """Kill the process and its group, and let go of everything. Safe to call again."""
        if self._popen.stdout is None or self._popen.stdout.closed:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()
        self._drain.join(5.0)
        if not self._drain.is_alive():  # closing a file that is being read would block
            self._popen.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} pid={self.pid} returncode={self.returncode}>"
