"""A name server of the test's own, and a view of the machine in which there is no other."""

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from tests.harness import missing


class NameServer:
    """Answers every question with 127.0.0.1, or fails, or says nothing."""

    def __init__(self, folder: Path) -> None:
        self.mode: Literal["answers", "fails", "hangs"] = "answers"
        #: Questions so far.
        self.asked = 0
        # Port 53 of a loopback address that no other run of the tests has.
        self._address = f"127.53.{os.getpid() >> 8 & 255}.{os.getpid() & 255}"
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((self._address, 53))
        self._resolv_conf = folder / "resolv.conf"
        self.patience("timeout:1 attempts:1")
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def patience(self, options: str) -> None:
        """How long who asks waits for an answer, as resolv.conf(5) has it; "" is its default."""
        lines = [f"nameserver {self._address}", *([f"options {options}"] if options else [])]
        self._resolv_conf.write_text("\n".join(lines) + "\n")

    @property
    def wrap(self) -> tuple[str, ...]:
        """What a command is prefixed with to ask this name server and no other."""
        see = f'mount --bind "{self._resolv_conf}" /etc/resolv.conf && exec "$@"'
        return ("unshare", "--mount", "sh", "-c", see, "sh")

    def _serve(self) -> None:
        while True:
            question, client = self._socket.recvfrom(512)
            if not question:
                return
            self.asked += 1
            if self.mode != "hangs":
                self._socket.sendto(self._answer(question), client)

    def _answer(self, question: bytes) -> bytes:
        end = question.index(b"\0", 12) + 5
        wants_ipv4 = question[end - 4 : end - 2] == b"\0\1"
        found = self.mode == "answers" and wants_ipv4
        flags = 0x8182 if self.mode == "fails" else 0x8180  # SERVFAIL, or no error
        header = question[:2] + flags.to_bytes(2) + b"\0\1" + (b"\0\1" if found else b"\0\0")
        record = b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4\x7f\0\0\1" if found else b""
        return header + b"\0\0\0\0" + question[12:end] + record

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", (self._address, 53))
        self._thread.join(5)
        self._socket.close()


@pytest.fixture
def name_server(tmp_path: Path) -> Iterator[NameServer]:
    """A `NameServer`; needs root, for its port and for the view of who asks it."""
    allowed = (
        os.getuid() == 0
        and not subprocess.run(["unshare", "--mount", "true"], check=False).returncode
    )
    if not allowed:
        missing("Only root may have a name server, and a command that asks no other")
    server = NameServer(tmp_path)
    yield server
    server.close()
