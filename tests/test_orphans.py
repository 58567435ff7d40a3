"""What a killed process left is delivered by the next one, once, and its death is told."""

from __future__ import annotations

import fcntl
import mmap
import os
import random
import shutil
import struct
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.events import Event, Job
from sluice.lifesign import ActiveTask, LifeSign, decode_sign, encode_sign, report_of_death
from sluice.notices import Notices
from sluice.orphans import LOOK_EVERY, Orphans
from sluice.recorder import Recorder
from sluice.ring import Reader, Ring
from sluice.spool import Spool
from sluice.testing import FakeClock
from tests.doubles import LAW, decoded, memory_ring
from tests.harness import CONNECTION_ID

SIZE = 64 * 1024
START = 1_700_000_000.0
OTHER = "0" * 8 + CONNECTION_ID[8:]


def job(task_id: str, state: str, **more: object) -> Job:
    return Job(
        external_id=task_id,
        state=state,
        extensions={"celeryEvent": "task-anything"},
        **({"name": "a task"} | more),
    )


class Next:
    """The process that starts after the death of another, over the same folder."""

    def __init__(self, folder: Path, connection: str = CONNECTION_ID, size: int = SIZE) -> None:
        self.said: list[str] = []
        self.spool = Spool(folder, connection, self.said.append)
        self.ring = self.spool.create(size, writer_pid=os.getpid())
        self.clock = FakeClock()
        self.notices = Notices()
        self.delivers = True
        self.orphans = Orphans(
            self.spool,
            self.ring,
            connection,
            self.notices,
            delivers=lambda: self.delivers,
            monotonic=self.clock.monotonic,
        )
        self._reader = Reader(self.ring)

    def turns(self, number: int = 50) -> list[Event]:
        """So many turns of a sender that delivers at each, and what it has delivered."""
        events = []
        for _ in range(number):
            self.orphans.turn()
            while records := self._reader.read(1000, 1 << 20):
                events += [decoded(record.payload) for record in records]
                self._reader.settle(records[-1])
        return events


class Victim:
    """A process that is killed: its ring, whose lock goes with it, and its sign of life."""

    def __init__(self, folder: Path, connection: str = CONNECTION_ID) -> None:
        self.spool = Spool(folder, connection, print)
        self.ring = self.spool.create(SIZE, writer_pid=os.getpid())
        self.recorder = Recorder(connection, None, Notices(), lambda: None)
        self.recorder.ring = self.ring
        self.path = self.spool.path_of(self.ring)
        assert self.path is not None

    def tells(self, number: int, state: str, at: float = START, **more: object) -> None:
        self.recorder.job(at, job(f"task-{number}", state, **more))

    def lives(self, at: float, *active: ActiveTask) -> None:
        sign = LifeSign("celery@host", "host", 42, at, self.ring.mark, list(active))
        self.spool.keep_sign(self.ring, encode_sign(sign))

    def killed(self) -> Path:
        self.ring.close()
        return self.path


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "rings"


def ids(events: list[Event]) -> list[str]:
    return [event.job.external_id for event in events if event.job is not None]


def deaths(events: list[Event]) -> list[Event]:
    return [event for event in events if event.worker is not None]


# --- what was left --------------------------------------------------------------------------------


def test_what_was_not_delivered_arrives_in_order_with_its_own_ids(folder):
    victim = Victim(folder)
    for number in range(20):
        victim.tells(number, "queued")
    reader = Reader(victim.ring)
    reader.settle(reader.read(5, 1 << 20)[-1])  # five were delivered
    ring_id = victim.ring.ring_id
    path = victim.killed()
    events = Next(folder).turns()
    assert ids(events) == [f"task-{number}" for number in range(5, 20)]
    assert [event.job.extensions["eventId"] for event in events] == [
        f"{ring_id:016x}-{number}" for number in range(5, 20)
    ]
    assert not path.exists()


def test_who_cannot_deliver_leaves_it_to_others(folder):
    victim = Victim(folder)
    victim.tells(1, "queued")
    path = victim.killed()
    with_a_wrong_key = Next(folder)
    with_a_wrong_key.delivers = False
    assert with_a_wrong_key.turns() == []
    assert path.exists()
    assert ids(Next(folder).turns()) == ["task-1"]
    assert not path.exists()


def test_it_is_taken_over_as_soon_as_it_can_be_delivered(folder):
    victim = Victim(folder)
    victim.tells(1, "queued")
    victim.killed()
    heir = Next(folder)
    heir.delivers = False
    assert heir.turns() == []
    heir.delivers = True
    assert ids(heir.turns()) == ["task-1"]


def test_it_arrives_once_whoever_looks(folder):
    for _ in range(3):
        victim = Victim(folder)
        victim.tells(1, "queued")
        victim.killed()
    first, second = Next(folder), Next(folder)
    first.orphans.turn()  # has one of them in hand
    assert len(second.turns() + first.turns()) == 3


def test_a_ring_that_somebody_owns_is_left_to_them(folder):
    victim = Victim(folder)
    victim.tells(1, "queued")
    after = Next(folder)
    assert after.turns() == []
    victim.killed()
    assert after.turns() == [], "looks again later, not at every turn"
    after.clock.advance(LOOK_EVERY)
    assert ids(after.turns()) == ["task-1"]


def test_a_lock_is_what_counts_not_a_process_id(folder):
    """The dead one's number is in use: it is our own."""
    victim = Victim(folder)
    victim.tells(1, "queued")
    assert victim.ring.writer_pid == os.getpid()
    victim.killed()
    assert ids(Next(folder).turns()) == ["task-1"]


def test_another_connections_events_are_left_alone(folder):
    victim = Victim(folder, OTHER)
    victim.tells(1, "queued")
    path = victim.killed()
    after = Next(folder)
    assert after.turns() == []
    assert path.exists()
    assert after.said == []


def test_our_own_events_are_not_pushed_out(folder):
    victim = Victim(folder)
    for number in range(120):
        victim.tells(number, "queued")
    victim.killed()
    after = Next(folder)
    while after.ring.room > after.ring.capacity // 2:
        after.ring.append(b"x" * 400)
    waiting = after.ring.next_seq
    for _ in range(20):
        after.orphans.turn()
    assert after.ring.next_seq == waiting
    reader = Reader(after.ring)
    reader.settle(reader.read(10_000, 1 << 20)[-1])
    after._reader = Reader(after.ring)
    assert len(after.turns()) == 120


def test_a_starter_that_dies_as_well_leaves_all_to_the_next(folder):
    victim = Victim(folder)
    for number in range(30):
        victim.tells(number, "queued")
    victim.killed()
    second = Next(folder)
    orphan = second.spool.take_orphan()
    reader = Reader(orphan)
    reader.settle(reader.read(10, 1 << 20)[-1])
    orphan.close()
    assert ids(Next(folder).turns()) == [f"task-{number}" for number in range(10, 30)]


def test_a_ring_that_would_not_outlive_us_takes_none(folder):
    victim = Victim(folder)
    victim.tells(1, "queued")
    path = victim.killed()
    after = Next(folder)
    after.orphans = Orphans(
        after.spool, memory_ring(), CONNECTION_ID, after.notices, delivers=lambda: True
    )
    assert after.turns() == []
    assert path.exists()


def test_a_forked_child_does_not_keep_it(folder):
    victim = Victim(folder)
    for number in range(50):
        victim.tells(number, "queued")
    path = victim.killed()
    after = Next(folder)
    after.orphans._look()
    after.orphans.let_go()  # what a child does
    assert ids(Next(folder).turns()) == [f"task-{number}" for number in range(50)]
    assert not path.exists()


# --- who was killed -------------------------------------------------------------------------------


def test_the_death_of_a_worker_is_told_with_what_it_was_doing(folder):
    victim = Victim(folder)
    victim.tells(1, "active", START - 100)
    victim.lives(START, ActiveTask("task-1", "hungry", 2, START - 100))
    victim.tells(2, "active", START + 1, name="second", attempt=3)
    victim.tells(3, "active", START + 1)
    victim.tells(3, "completed", START + 1.5)
    ring_id, behind = victim.ring.ring_id, victim.ring.next_seq
    path = victim.killed()
    (death,) = deaths(events := Next(folder).turns())
    assert events[-1] is death, "after all that it told itself"
    worker = death.worker
    assert (worker.external_id, worker.hostname, worker.pid) == ("celery@host", "host", 42)
    assert worker.state == "offline"
    assert worker.active_jobs == 2
    assert worker.extensions["reason"] == "killed"
    assert worker.extensions["eventId"] == f"{ring_id:016x}-{behind}"
    assert worker.extensions["activeTasks"] == [
        {"externalId": "task-1", "name": "hungry", "attempt": 2, "runtime": 101.5},
        {"externalId": "task-2", "name": "second", "attempt": 3, "runtime": 0.5},
    ]
    assert death.timestamp.timestamp() == START + 1.5
    assert not path.with_suffix(".alive").exists()


def test_a_death_is_told_also_where_all_was_delivered(folder):
    victim = Victim(folder)
    victim.tells(1, "active")
    victim.lives(START, ActiveTask("task-1", "hungry", 1, START))
    reader = Reader(victim.ring)
    reader.settle(reader.read(5, 1 << 20)[-1])
    victim.killed()
    (event,) = Next(folder).turns()
    assert event.worker.extensions["activeTasks"][0]["externalId"] == "task-1"


def test_a_proper_end_is_no_death(folder):
    victim = Victim(folder)
    victim.lives(START)
    victim.tells(1, "queued")
    victim.spool.remove_sign(victim.ring)
    victim.killed()
    assert deaths(Next(folder).turns()) == []


def test_a_task_whose_end_came_later_is_no_suspect():
    sign = LifeSign("w@h", "h", 1, START, (0, 0), [ActiveTask("1", "n", 1, START - 5)])
    recorder = Recorder(CONNECTION_ID, None, Notices(), lambda: None)
    recorder.ring = memory_ring()
    recorder.job(START, job("1", "failed"))
    (record,) = Reader(recorder.ring).read(1, 1 << 20)
    report = decoded(report_of_death(sign, [b"{", record.payload], CONNECTION_ID))
    assert report.worker.extensions["activeTasks"] == []


@LAW
@given(data=st.binary(max_size=300))
def test_a_sign_can_be_anything(data):
    sign = decode_sign(data)
    if sign is not None:
        decoded(report_of_death(sign, [data], CONNECTION_ID))


# --- files that are not what they should be -------------------------------------------------------


def test_a_strange_file_is_named_once_and_left(folder):
    victim = Victim(folder)
    victim.tells(1, "queued")
    path = victim.killed()
    with path.open("r+b") as file:
        file.seek(8)
        file.write(struct.pack("=Q", 99))  # the layout of another version
    after = Next(folder)
    after.turns()
    after.clock.advance(LOOK_EVERY)
    after.turns()
    (line,) = after.said
    assert path.name in line
    assert "no ring of this version" in line
    assert path.exists()


@pytest.mark.parametrize("mode", [0o644, 0o660])
def test_a_file_that_is_open_to_others_is_left_alone(folder, mode):
    victim = Victim(folder)
    victim.tells(1, "queued")
    victim.killed().chmod(mode)
    assert Next(folder).turns() == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_another_users_file_is_left_alone(folder):
    victim = Victim(folder)
    victim.tells(1, "queued")
    os.chown(victim.killed(), 12345, 12345)
    assert Next(folder).turns() == []


def test_a_copy_under_another_name_is_left_alone(folder):
    victim = Victim(folder)
    victim.tells(1, "queued")
    path = victim.killed()
    shutil.copy(path, path.with_name(path.name.replace("-", "-0", 1)[:-6] + ".ring"))
    copy = path.with_name(f"{path.name.partition('-')[0]}-{1:016x}.ring")
    shutil.copy(path, copy)
    copy.chmod(0o600)
    assert ids(Next(folder).turns()) == ["task-1"]
    assert copy.exists()


def test_links_pipes_and_folders_are_left_alone(folder, tmp_path):
    victim = Victim(folder)
    victim.tells(1, "queued")
    path = victim.killed()
    elsewhere = tmp_path / "elsewhere.ring"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    os.mkfifo(path.with_name(f"{path.name.partition('-')[0]}-{2:016x}.ring"))
    path.with_name(f"{path.name.partition('-')[0]}-{3:016x}.ring").mkdir()
    assert Next(folder).turns() == []
    assert elsewhere.exists()


@pytest.mark.parametrize("keep", [0, 1, 100, 4096, 40_000, SIZE - 8])
def test_a_file_that_was_cut_off_is_left_alone(folder, keep):
    victim = Victim(folder)
    victim.tells(1, "queued")
    path = victim.killed()
    os.truncate(path, keep)
    assert Next(folder).turns() == []
    assert path.exists()


@pytest.mark.parametrize("seed", range(60))
def test_whatever_a_file_holds_it_ends_and_the_rest_goes_on(folder, seed):
    chance = random.Random(seed)
    victim = Victim(folder)
    for number in range(100):
        victim.tells(number, "queued")
    victim.lives(START)
    path = victim.killed()
    content = bytearray(path.read_bytes())
    for _ in range(chance.choice((1, 20, 1000))):
        # The header's words as often as all the rest: that is where a reader can be misled.
        at = chance.randrange(0, 1100) if chance.random() < 0.5 else chance.randrange(SIZE)
        content[at] = chance.randrange(256)
    path.write_bytes(content)
    good = Victim(folder)
    good.tells(1000, "queued")
    good.killed()
    after = Next(folder, size=1 << 20)
    reader = Reader(after.ring)
    payloads = []
    for _ in range(300):
        after.orphans.turn()
        while records := reader.read(1000, 1 << 20):
            payloads += [record.payload for record in records]
            reader.settle(records[-1])
    assert any(b"task-1000" in payload for payload in payloads)
    for payload in payloads:  # what passes its CRC is what was written
        msgspec.json.decode(payload)


def test_a_file_made_to_cost_time_is_given_up_on(folder):
    """Every eight bytes look like the head of a record as long as the rest of the file."""
    spool = Spool(folder, CONNECTION_ID, print)
    ring = spool.create(8 << 20, writer_pid=1)
    path = spool.path_of(ring)
    ring.close()
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        words = memoryview(memory).cast("Q")
        capacity = len(memory) - 4096
        words[64] = capacity  # HEAD
        words[66] = 1 << 62  # NEXT_SEQ
        half = struct.unpack("=Q", struct.pack("=II", capacity // 2, capacity // 2))[0]
        words[512:] = memoryview(struct.pack("=Q", half) * (capacity // 8)).cast("Q")
        words.release()
    after = Next(folder)
    assert after.turns(5) == []
    assert not path.exists(), "read to its end"


def test_the_lock_is_ours_while_we_read(folder):
    victim = Victim(folder)
    victim.tells(1, "queued")
    path = victim.killed()
    ring = Next(folder).spool.take_orphan()
    assert isinstance(ring, Ring)
    with path.open("rb") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    ring.close()
