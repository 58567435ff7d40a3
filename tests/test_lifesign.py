"""The sign of life: written in one step, read with suspicion, and what its worker's end reports."""

from __future__ import annotations

import gc
import os
import shutil
import stat
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

import sluice.spool
from sluice.events import Event, Job, Worker, encode_job, encode_worker
from sluice.lifesign import (
    MOST_TASKS,
    ActiveTask,
    LifeSign,
    decode_sign,
    encode_sign,
    report_of_death,
)
from sluice.ring import Ring
from sluice.spool import Spool
from tests.doubles import decoded
from tests.harness import CONNECTION_ID

SIZE = 64 * 1024
START = 1_700_000_000.0


def sign(*active: ActiveTask, at: float = START, worker: str = "w@h") -> LifeSign:
    return LifeSign(worker, "h", 1, at, (0, 0), list(active))


def job(task_id: str, state: str, at: float = START, **more: object) -> bytes:
    extensions = {"celeryEvent": "task-anything"}
    return encode_job(
        CONNECTION_ID,
        at,
        Job(external_id=task_id, name="n", state=state, extensions=extensions, **more),
    )


def report(of: LifeSign, *since: bytes) -> Event:
    return decoded(report_of_death(of, since, CONNECTION_ID))


def tasks(event: Event) -> list[dict[str, object]]:
    return event.worker.extensions["activeTasks"]


def named(event: Event) -> list[object]:
    return [task["externalId"] for task in tasks(event)]


# --- what the report says -------------------------------------------------------------------------


@pytest.mark.parametrize("tag", [None, "production"])
def test_it_carries_the_tag_of_the_workers_events(tag):
    left = decode_sign(encode_sign(msgspec.structs.replace(sign(), environment=tag)))
    assert report(left).worker.extensions.get("environment") == tag


def test_an_event_of_before_the_sign_does_not_make_the_death_earlier():
    assert report(sign(), job("1", "active", START - 50)).timestamp.timestamp() == START


def test_the_end_of_a_task_that_the_sign_does_not_name_is_no_error():
    assert named(report(sign(), job("1", "completed"))) == []


def test_only_a_start_makes_a_task_active():
    event = report(sign(), job("1", "queued"), job("2", "scheduled"), job("3", "unknown"))
    assert named(event) == []


def test_a_task_runs_since_it_was_started_not_since_that_was_told():
    begun = job("1", "active", START + 10, started_at=decoded(job("0", "active")).timestamp)
    assert tasks(report(sign(), begun))[0]["runtime"] == 10


def test_a_clock_that_was_set_back_makes_no_negative_time():
    assert tasks(report(sign(ActiveTask("1", "n", 1, START + 60))))[0]["runtime"] == 0


def test_the_events_of_the_worker_itself_are_passed_over():
    worker = Worker(
        external_id="w@h", hostname="h", pid=1, state="idle", extensions={"celeryEvent": "x"}
    )
    heartbeat = encode_worker(CONNECTION_ID, START + 1, worker)
    event = report(sign(), heartbeat, job("1", "active", START + 1))
    assert named(event) == ["1"]


def test_the_longest_running_come_first_and_many_are_only_counted():
    running = [ActiveTask(str(n), "n", 1, START - n) for n in range(MOST_TASKS + 50)]
    event = report(sign(*running))
    assert named(event) == [str(n) for n in range(MOST_TASKS + 49, 49, -1)]
    assert event.worker.active_jobs == MOST_TASKS + 50


@pytest.mark.parametrize("unreadable", [b"{", b'{"job":"\xff"}', b'{"x":' + b"[" * 100_000])
def test_an_event_that_cannot_be_read_is_passed_over(unreadable):
    assert named(report(sign(), unreadable, job("1", "active"))) == ["1"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        encode_sign(sign(worker="MARK")).replace(b"MARK", b"\xff\xfe"),
        b'{"x":' + b"[" * 100_000,
    ],
)
def test_what_is_no_sign_is_none(data):
    assert decode_sign(data) is None


def test_the_next_attempt_is_active_also_where_the_last_ones_end_is_told_after_it_began():
    first = ActiveTask("t", "n", 1, START)
    events = job("t", "active", START + 1, attempt=2), job("t", "retrying", START + 1, attempt=1)
    (suspect,) = tasks(report(sign(first), *events))
    assert suspect["attempt"] == 2


# --- its file -------------------------------------------------------------------------------------


class Place:
    """A ring in a folder, and where its sign is."""

    def __init__(self, folder: Path) -> None:
        self.spool = Spool(folder, CONNECTION_ID, print)
        self.ring: Ring = self.spool.create(SIZE, writer_pid=os.getpid())
        ring_file = self.spool.path_of(self.ring)
        assert ring_file is not None
        self.file = ring_file.with_suffix(".alive")
        self.new = ring_file.with_suffix(".new")

    def keep(self, worker: str) -> None:
        self.spool.keep_sign(self.ring, encode_sign(sign(worker=worker)))

    @property
    def worker(self) -> str | None:
        found = self.spool.sign_of(self.ring)
        return found.worker if found else None


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path / "rings")


def test_the_last_sign_counts_and_nothing_else_is_left(place):
    place.keep("first")
    place.keep("second")
    assert place.worker == "second"
    assert not place.new.exists()


def test_it_is_private(place):
    before = os.umask(0)
    try:
        place.keep("w")
    finally:
        os.umask(before)
    assert stat.S_IMODE(place.file.stat().st_mode) == 0o600


@pytest.mark.parametrize("room", [0, 10], ids=["no room", "room for a part"])
def test_the_last_sign_stays_where_there_is_no_room_for_a_new_one(place, monkeypatch, room):
    place.keep("first")
    system = sluice.spool.posix

    def write(descriptor, data):
        if not room:
            raise OSError(28, "No space left on device")
        return system.write(descriptor, data[:room])

    full = SimpleNamespace(open=system.open, close=system.close, read=system.read, write=write)
    monkeypatch.setattr(sluice.spool, "posix", full)
    place.keep("second")
    assert place.worker == "first"
    if room:
        assert not place.new.exists()


def test_a_ring_whose_file_somebody_removed_is_told_of_once(tmp_path):
    """A user who logs out takes /dev/shm along, where systemd is told so."""
    said = []
    place = Place(tmp_path / "rings")
    place.spool._say = lambda kind, text: said.append((kind, text))
    place.keep("first")
    shutil.rmtree(tmp_path / "rings")
    other = place.spool.create(SIZE, writer_pid=0)  # the folder is there again
    place.keep("second")
    place.keep("third")
    ((kind, text),) = said
    assert kind == sluice.spool.GONE
    assert "events of this worker are lost if it is killed" in text
    assert place.spool.path_of(place.ring) is None
    assert list((tmp_path / "rings").iterdir()) == [place.spool.path_of(other)]


def test_a_link_is_not_written_through(place, tmp_path):
    target = tmp_path / "target"
    target.write_text("kept")
    place.new.symlink_to(target)
    place.keep("w")
    assert target.read_text() == "kept"


def test_a_link_is_not_read_through(place, tmp_path):
    place.keep("w")
    place.file.rename(tmp_path / "elsewhere")
    place.file.symlink_to(tmp_path / "elsewhere")
    assert place.worker is None


def test_a_pipe_in_its_place_is_not_waited_for(place):
    os.mkfifo(place.file)
    assert place.worker is None


def test_a_folder_in_its_place_is_no_sign_and_does_not_keep_the_ring(place):
    place.file.mkdir()
    place.keep("w")
    assert place.worker is None
    ring_file = place.spool.path_of(place.ring)
    place.spool.unlink(place.ring)
    assert not ring_file.exists()


def test_no_more_than_so_much_is_read(place):
    place.file.write_bytes(b" " * (1 << 20) + encode_sign(sign()))
    assert place.worker is None


def test_reading_keeps_no_descriptor(place):
    place.keep("w")
    gc.collect()  # what other tests have left may have some too
    before = os.listdir("/proc/self/fd")
    assert place.worker == "w"
    assert os.listdir("/proc/self/fd") == before
