"""The pipe that wakes the sender: its own descriptors, and nobody else's."""

from __future__ import annotations

import os
import posix
import select
import time
from types import SimpleNamespace

import pytest

from sluice.bell import Bell
from tests.doubles import run_python


@pytest.fixture
def bell():
    return Bell()


def replace(bell: Bell) -> tuple[int, int]:
    """Close both, as `os.closerange` does, and give their numbers to somebody else's pipe."""
    ends = bell._read_end, bell._write_end
    for number, theirs in zip(ends, os.pipe(), strict=True):
        os.dup2(theirs, number)
        os.close(theirs)
    return ends


def test_it_wakes_who_waits(bell):
    wait = bell.waiter(select)
    assert wait(0.0) is False
    bell.ring()
    bell.ring()
    assert wait(5.0) is True
    assert wait(0.0) is False
    bell.close()


def test_it_wakes_where_the_ends_of_a_pipe_are_two_files(monkeypatch):
    """As on macOS; on Linux they are one."""
    fstat = posix.fstat

    def each_its_own(descriptor):
        facts = fstat(descriptor)
        return SimpleNamespace(st_dev=facts.st_dev, st_ino=(facts.st_ino, descriptor))

    monkeypatch.setattr(posix, "fstat", each_its_own)
    bell = Bell()
    bell.ring()
    assert bell.waiter(select)(5.0) is True
    bell.close()
    assert [find(bell._read_end), find(bell._write_end)] == [None, None]


def find(descriptor):
    try:
        return os.fstat(descriptor)
    except OSError:
        return None


def test_a_bell_that_somebody_closed_reads_nothing_of_theirs_and_passes_its_time(bell):
    wait, watch = bell.waiter(select), bell.watcher(select)
    read_end, write_end = replace(bell)
    os.write(write_end, b"theirs")
    begun = time.monotonic()
    assert wait(0.1) is watch(0.1) is False
    assert time.monotonic() - begun >= 0.15
    bell.ring()
    assert os.read(read_end, 100) == b"theirs"
    for end in (read_end, write_end):
        os.close(end)


def test_the_end_closes_nothing_of_theirs(bell):
    read_end, write_end = replace(bell)
    bell.close()
    os.write(write_end, b"theirs")
    assert os.read(read_end, 100) == b"theirs"
    for end in (read_end, write_end):
        os.close(end)
    bell.close()


def test_no_descriptor_of_ours_is_a_standard_one(tmp_path):
    """A daemon has closed them, and a library complains to number 2."""
    run_python(
        f"""
        import os
        for number in (0, 1, 2): os.close(number)
        from pathlib import Path
        from sluice.bell import Bell
        from sluice.ring import Reader
        from sluice.spool import Spool
        bell = Bell()
        spool = Spool(Path({str(tmp_path)!r}) / "rings", "c", print)
        ring = spool.create(65536, writer_pid=1)
        assert spool.path_of(ring) is not None
        for number in (0, 1, 2):
            try: os.write(number, b"warning " * 1000)
            except OSError: pass
        ring.append(b"payload")
        assert [record.payload for record in Reader(ring).read(10, 1000)] == [b"payload"]
        assert bell.waiter(__import__("select"))(0.0) is False
        """
    )
