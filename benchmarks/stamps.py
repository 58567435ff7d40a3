"""Times that a worker's processes wrote down in a mapped file (workload/watching.py), to be read.

A file of 8-byte floats by `time.monotonic`, which all processes of a machine share.  Nobody waits
for anybody and no writing is a system call: places are given out by the harness, one for each time,
or taken in turn by the one writer of a log, whose first place says how many there are.
"""

from __future__ import annotations

import struct
from pathlib import Path

_SIZE = 8


class Stamps:
    """A file of `count` places; 0.0 says that nothing was written there."""

    def __init__(self, path: Path, count: int) -> None:
        self._file = path.open("w+b", buffering=0)
        self._file.truncate(count * _SIZE)

    def __getitem__(self, place: int) -> float:
        (value,) = self._between(place, place + 1)
        return value

    def logged(self) -> int:
        """How many a log holds."""
        return int(self[0])

    def logged_since(self, number: int) -> list[float]:
        """What a log got after its first `number`."""
        return self._between(number + 1, self.logged() + 1)

    def _between(self, first: int, end: int) -> list[float]:
        self._file.seek(first * _SIZE)
        data = self._file.read((end - first) * _SIZE)
        return list(struct.unpack(f"<{end - first}d", data))

    def close(self) -> None:
        self._file.close()
