"""A name server on 127.0.0.53:53 that answers every question with 127.0.0.1, after 3 s.

    python -m tests.transports.slow_dns FILE

`FILE` is there once it listens, and has a byte for each question.
"""

import socket
import sys
import threading
import time
from pathlib import Path
from typing import IO

DELAY = 3.0


def main() -> None:
    """Serve until killed."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.53", 53))
    with Path(sys.argv[1]).open("wb", buffering=0) as asked:
        _serve(server, asked)


def _serve(server: socket.socket, asked: IO[bytes]) -> None:
    while True:
        question, address = server.recvfrom(512)
        asked.write(b"?")
        threading.Thread(target=_answer, args=(server, question, address), daemon=True).start()


def _answer(server: socket.socket, question: bytes, address: tuple[str, int]) -> None:
    time.sleep(DELAY)
    end = question.index(b"\0", 12) + 5
    asked_type = question[end - 4 : end - 2]
    is_a = asked_type == b"\0\1"
    header = question[:2] + b"\x81\x80\0\1" + (b"\0\1" if is_a else b"\0\0") + b"\0\0\0\0"
    record = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\x7f\0\0\1" if is_a else b""
    server.sendto(header + question[12:end] + record, address)


if __name__ == "__main__":
    main()
