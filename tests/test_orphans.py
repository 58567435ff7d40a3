"""What a killed process left is delivered by the next one, once, and its death is told."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import random
import shutil
import struct
from pathlib import Path
from zlib import crc32

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sluice.folder
from sluice.batch import with_event_id
from sluice.events import Event, Job
from sluice.lifesign import ActiveTask, LifeSign, decode_sign, encode_sign, report_of_death
from sluice.notices import Notices
from sluice.orphans import LOOK_EVERY, Orphans
from sluice.recorder import Recorder
from sluice.ring import Reader, Ring, first_page
from sluice.spool import Spool
from sluice.testing import FakeClock
from tests.doubles import LAW, decoded, memory_ring, run_python
from tests.harness import CONNECTION_ID, missing
from tests.harness.processes import ROOT

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
        self.spool = Spool(folder, connection, lambda _, text: self.said.append(text))
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
                ring_id = self.ring.ring_id
                events += [decoded(with_event_id(record, ring_id)) for record in records]
                self._reader.settle(records[-1])
        return events

    def captures_one(self) -> None:
        """An event of its own."""
        recorder = Recorder(CONNECTION_ID, None, self.notices, lambda: None)
        recorder.ring = self.ring
        recorder.job(START, job("own", "queued"))

    @property
    def told(self) -> list[str]:
        """The lines that wait to be logged."""
        return [line for _, line in self.notices._waiting]


class Victim:
    """A process that is killed: its ring, whose lock goes with it, and its sign of life."""

    def __init__(
        self, folder: Path, connection: str = CONNECTION_ID, size: int = SIZE, name: str = "host"
    ) -> None:
        self.spool = Spool(folder, connection, print)
        self.ring = self.spool.create(size, writer_pid=os.getpid())
        self.name = name
        self.recorder = Recorder(connection, None, Notices(), lambda: None)
        self.recorder.ring = self.ring
        self.path = self.spool.path_of(self.ring)
        assert self.path is not None

    def tells(self, number: int, state: str, at: float = START, **more: object) -> None:
        self.recorder.job(at, job(f"task-{number}", state, **more))

    def lives(self, at: float, *active: ActiveTask) -> None:
        sign = LifeSign(f"celery@{self.name}", "host", 42, at, self.ring.mark, list(active))
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
    after = Next(folder)
    events = after.turns()
    assert ids(events) == [f"task-{number}" for number in range(5, 20)]
    assert [event.job.extensions["eventId"] for event in events] == [
        f"{ring_id:016x}-{number}" for number in range(5, 20)
    ]
    assert not path.exists()
    (line,) = after.told
    assert line == "[sluice] 15 events that an ended process had left are delivered now."


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


def test_a_starter_that_dies_in_the_middle_leaves_what_it_had_not_taken_over(folder):
    victim = Victim(folder)
    for number in range(100):
        victim.tells(number, "queued")
    victim.killed()
    first = Next(folder)
    taken = ids(first.turns(1))
    first.orphans.let_go()
    assert 0 < len(taken) < 100
    assert taken + ids(Next(folder).turns()) == [f"task-{number}" for number in range(100)]


@pytest.mark.parametrize("events", [0, 10])
def test_what_could_not_be_taken_over_is_left_to_the_next(folder, monkeypatch, events):
    """Be it events or the report of a death."""
    victim = Victim(folder)
    victim.lives(START)
    for number in range(events):
        victim.tells(number, "queued")
    path = victim.killed()
    first = Next(folder)

    def fail(*_: object, **__: object) -> bool:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Ring, "append", fail)
        with pytest.raises(MemoryError):
            first.orphans.turn()
    first.clock.advance(LOOK_EVERY)
    assert first.turns() == [], "not again in this process: it could be the file"
    assert path.name in first.said[0]
    found = Next(folder).turns()
    assert (len(ids(found)), len(deaths(found))) == (events, 1)
    assert not path.exists()


def test_a_file_that_cannot_be_removed_is_delivered_once(folder, monkeypatch):
    victim = Victim(folder)
    victim.tells(1, "queued")
    victim.lives(START)
    path = victim.killed()
    after = Next(folder)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "unlink", refuse)
    events = after.turns()
    after.clock.advance(LOOK_EVERY)
    events += after.turns()
    assert (len(ids(events)), len(deaths(events))) == (1, 1)
    assert path.exists()


def test_the_oldest_comes_first(folder):
    for age in (2, 3, 1):
        victim = Victim(folder)
        victim.tells(age, "queued")
        path = victim.killed()
        os.utime(path, (START - age, START - age))
    assert ids(Next(folder).turns()) == ["task-3", "task-2", "task-1"]


def test_what_was_overwritten_or_damaged_there_is_counted(folder):
    """The dead one may have known, and told nobody: the API was away."""
    victim = Victim(folder)
    for number in range(1_000):
        victim.tells(number, "queued")
    path = victim.killed()
    content = path.read_bytes()
    path.write_bytes(content.replace(b"task-990", b"task-X90").replace(b"task-999", b"task-X99"))
    after = Next(folder)
    found = ids(after.turns())
    assert after.orphans.lost == {"overwritten": 1_000 - 2 - len(found), "damaged": 2}
    assert len(found) < 500


def test_what_was_overwritten_there_is_counted_by_who_meets_it_and_not_at_the_end(folder):
    """The mark is beyond it at once, so nobody after could tell."""
    victim = Victim(folder, size=4 * SIZE)
    for number in range(2_000):
        victim.tells(number, "queued")
    captured = victim.ring.next_seq
    victim.killed()
    first = Next(folder)
    delivered = len(ids(first.turns(2)))
    first.orphans.let_go()
    assert first.orphans.lost["overwritten"] > 500
    second = Next(folder)
    delivered += len(ids(second.turns(200)))
    assert second.orphans.lost["overwritten"] == 0
    assert delivered + first.orphans.lost["overwritten"] == captured


def test_a_ring_much_larger_than_ours_arrives_whole(folder):
    """Someone made the buffer smaller, or what was full belonged to a larger worker."""
    victim = Victim(folder, size=4 << 20)
    for number in range(5_000):
        victim.tells(number, "queued", name="n" * (number % 500 + 1))
    victim.killed()
    after = Next(folder)
    assert len(ids(after.turns(1_000))) == 5_000
    assert after.ring.skipped == 0


def test_many_small_records_push_nothing_out_either(folder):
    victim = Victim(folder, size=1 << 20)
    for _ in range(3_000):
        victim.ring.append(b'{"a":{"b":{}}}')
    victim.killed()
    after = Next(folder)
    while after.ring.room - 1_000 > after.ring.capacity // 2:
        after.ring.append(b"x" * 400)
    own = after.ring.next_seq
    after.orphans.turn()
    assert after.ring.next_seq > own + 10
    assert Reader(after.ring).read(1, 1000)[0].seq == 0


@pytest.mark.parametrize(("length", "most"), [(1, 1_000), (900, 1_000), (8_000, 70)])
def test_a_turn_takes_a_share_that_is_soon_done(folder, length, most):
    victim = Victim(folder, size=4 << 20)
    for number in range(1_500):
        victim.tells(number, "queued", error="e" * length)
    victim.killed()
    after = Next(folder, size=8 << 20)
    after.orphans.turn()
    assert 0 < after.ring.next_seq <= most


def test_it_stays_where_it_is_until_it_is_in_our_ring(folder):
    """Beside it, while another thread writes, a kill would take it along, and the report too."""
    victim = Victim(folder)
    victim.lives(START)
    for number in range(3):
        victim.tells(number, "queued")
    path = victim.killed()
    after = Next(folder)
    after.ring._token.clear()
    for _ in range(3):
        after.orphans.turn()
    assert (after.orphans.moved, after.ring.next_seq) == (3, 0)
    assert first_page(path.read_bytes()[:4096]).unsettled == 3
    after.ring._token.append(None)
    after.captures_one()
    after.ring._token.clear()
    for _ in range(3):
        after.orphans.turn()
    assert path.exists(), "the death is not reported yet"
    after.ring._token.append(None)
    after.captures_one()
    found = after.turns()
    assert [one.worker.state for one in found if one.worker] == ["offline"]
    assert not path.exists()


def test_a_kill_in_the_middle_of_the_last_commit_costs_nothing(folder):
    """Between its two stores: the record is there, and its number was not counted."""
    victim = Victim(folder)
    victim.lives(START)
    for number in range(3):
        victim.tells(number, "queued")
    victim.ring.shared[0][66] -= 1
    victim.killed()
    after = Next(folder)
    found = after.turns()
    told = [(one.job or one.worker).extensions["eventId"] for one in found]
    assert len(told) == len(set(told)) == 4
    assert after.orphans.lost["damaged"] == 0


@pytest.mark.parametrize("lack", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_a_passing_lack_of_descriptors_or_memory_says_nothing_of_a_file(folder, lack, monkeypatch):
    victim = Victim(folder)
    victim.tells(1, "queued")
    victim.killed()
    after = Next(folder)
    with monkeypatch.context() as patch:

        def fails(*_: object) -> None:
            raise OSError(lack, os.strerror(lack))

        patch.setattr("sluice.spool.mmap.mmap", fails)
        assert after.turns() == []
    after.clock.advance(LOOK_EVERY)
    assert ids(after.turns()) == ["task-1"]
    assert after.said == []


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


@pytest.mark.parametrize("looking", [False, True])
def test_a_forked_child_does_not_keep_it(folder, looking):
    victim = Victim(folder)
    for number in range(50):
        victim.tells(number, "queued")
    path = victim.killed()
    after = Next(folder)
    after.orphans._look()
    held = (
        after.orphans._transfer.reader
    )  # as the frames of the sender's thread do, which never go on
    view = held.ring.shared[1][:8] if looking else None
    after.orphans.let_go()  # what a child does
    after.orphans.turn()
    if looking:
        view.release()
        held.ring.memory.close()  # else it is the child's end that lets go of it
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


@pytest.mark.parametrize("number", [1, 2, 15])
def test_those_who_were_killed_are_named_in_one_line(folder, number):
    for each in range(number):
        victim = Victim(folder, name=f"w{each}")
        victim.lives(START)
        victim.killed()
    after = Next(folder, size=1 << 20)
    assert len(deaths(after.turns(100))) == number
    (line,) = after.told
    assert line.count("celery@w") == min(number, 10)
    if number == 1:
        assert line == (
            "[sluice] The worker celery@w0 (pid 42) was killed before this start;"
            " what it was doing is reported."
        )
    assert ("and 5 more were killed before this start" in line) is (number == 15)


def test_the_death_of_a_worker_whose_ring_made_room_is_told(folder, monkeypatch):
    """As of its last sign: what it captured after that has gone with the ring."""
    monkeypatch.setattr(sluice.folder, "FOLDER_LIMIT", SIZE)
    victim = Victim(folder)
    victim.lives(START, ActiveTask("task-1", "hungry", 1, START - 5))
    victim.tells(2, "active", START + 1)
    ring_id = victim.ring.ring_id
    path = victim.killed()
    after = Next(folder)
    assert not path.exists()
    (death,) = deaths(after.turns())
    assert [task["externalId"] for task in death.worker.extensions["activeTasks"]] == ["task-1"]
    assert death.worker.extensions["eventId"] == f"{ring_id:016x}-1"
    assert after.spool.removed == 1
    assert deaths(after.turns()) == []


def test_nobody_is_taken_over_at_the_end(folder):
    """A script that ends does not wait for another's events, and leaves them to who has time."""
    victim = Victim(folder)
    victim.tells(1, "queued")
    path = victim.killed()
    after = Next(folder)
    after.delivers = False  # what the client answers once it is told to end
    assert after.turns() == []
    assert path.exists()


def test_a_death_counts_all_events_since_the_sign(folder):
    victim = Victim(folder, size=4 << 20)
    victim.lives(START)
    for number in range(2_500):
        victim.tells(number, "queued")
    victim.tells(7, "active", START + 9)
    victim.killed()
    (death,) = deaths(Next(folder, size=4 << 20).turns())
    assert [task["externalId"] for task in death.worker.extensions["activeTasks"]] == ["task-7"]


@pytest.mark.parametrize("at", [1e300, -1e300, 1e12])
def test_a_sign_of_no_time_that_there_is_costs_the_report_and_no_more(folder, at):
    for number in range(3):
        victim = Victim(folder)
        victim.tells(number, "queued")
        victim.lives(at if number == 0 else START)
        path = victim.killed()
        os.utime(path, (number, number))
    after = Next(folder)
    with pytest.raises((OverflowError, ValueError)):
        after.turns()
    after.clock.advance(LOOK_EVERY)
    events = after.turns()
    assert ids(events) == ["task-1", "task-2"]
    assert len(deaths(events)) == 2


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


def test_another_users_file_is_left_alone(folder):
    if os.getuid() != 0:
        missing("Only root can give a file away")
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
    after = Next(folder)
    assert after.turns() == []
    assert after.said == []
    assert elsewhere.exists()


def test_a_link_that_takes_a_files_place_while_we_look_is_left_alone(folder, tmp_path, monkeypatch):
    victim = Victim(folder)
    victim.tells(1, "queued")
    path = victim.killed()
    after = Next(folder)
    files = sluice.folder.ring_files(folder)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    monkeypatch.setattr(sluice.folder, "ring_files", lambda _: files)
    assert after.turns() == []
    (line,) = after.said
    assert path.name in line


@pytest.mark.parametrize("again", [False, True], ids=["gone", "another one"])
def test_a_file_that_its_owner_removes_while_we_look_is_not_ours(folder, monkeypatch, again):
    victim = Victim(folder)
    victim.tells(1, "queued")
    path = victim.killed()
    after = Next(folder)
    lock = fcntl.flock

    def too_late(descriptor: int, operation: int) -> None:
        content = path.read_bytes()
        path.rename(path.with_suffix(".gone"))
        if again:
            path.write_bytes(content)
            path.chmod(0o600)
        lock(descriptor, operation)

    monkeypatch.setattr("sluice.spool.fcntl.flock", too_late)
    assert after.spool.take_orphan() is None
    assert after.said == []


def test_orphans_in_a_folder_that_was_opened_to_others_are_left_alone(folder):
    victim = Victim(folder)
    victim.tells(1, "queued")
    victim.killed()
    after = Next(folder)
    folder.chmod(0o777)
    assert after.turns() == []


def test_the_space_of_an_orphan_is_reserved_before_it_is_looked_at(folder):
    """A hole would be a SIGBUS on a full file system."""
    victim = Victim(folder)
    path = victim.killed()
    header = path.read_bytes()[:4096]
    path.write_bytes(header)
    os.truncate(path, SIZE)
    assert path.stat().st_blocks * 512 < SIZE
    ring = Next(folder).spool.take_orphan()
    assert ring is not None
    assert path.stat().st_blocks * 512 >= SIZE


def test_a_file_larger_than_all_may_be_is_not_even_reserved(folder, monkeypatch):
    path = Victim(folder).killed()
    after = Next(folder)
    monkeypatch.setattr(sluice.folder, "FOLDER_LIMIT", SIZE)
    os.truncate(path, 2 * SIZE)
    assert after.turns() == []
    assert "a ring does not have" in after.said[0]
    assert path.stat().st_blocks * 512 < 2 * SIZE


CUT_OFF = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from tests.test_orphans import Next

after = Next(Path(sys.argv[1]))
events = after.turns(1)
os.truncate(Path(sys.argv[2]), int(sys.argv[4]))
events += after.turns(20)
print(len(events), *after.said)
"""


@pytest.mark.parametrize("left", [0, 4096, 32 * 1024])
def test_a_file_that_is_cut_off_while_it_is_read_kills_nobody(folder, left):
    victim = Victim(folder)
    for number in range(120):
        victim.tells(number, "queued")
    victim.lives(START)
    path = victim.killed()
    done = run_python(CUT_OFF, str(folder), str(path), str(ROOT), str(left))
    number, said = done.stdout.split(maxsplit=1)
    assert 0 < int(number) < 120
    assert "was cut off" in said


def test_a_file_that_grows_while_it_is_read_is_read_on(folder):
    victim = Victim(folder)
    for number in range(120):
        victim.tells(number, "queued")
    path = victim.killed()
    after = Next(folder)
    events = after.turns(1)
    os.truncate(path, 10 * SIZE)
    assert len(ids(events + after.turns())) == 120
    assert not path.exists()


@pytest.mark.parametrize("keep", [0, 1, 100, 4096, 40_000, SIZE - 8])
def test_a_file_that_was_cut_off_is_left_alone(folder, keep):
    victim = Victim(folder)
    victim.tells(1, "queued")
    path = victim.killed()
    os.truncate(path, keep)
    assert Next(folder).turns() == []
    assert path.exists()


@pytest.mark.parametrize("damaged", [0, 4, 8])
def test_one_damaged_record_costs_itself(folder, damaged):
    victim = Victim(folder)
    for number in range(9):
        victim.tells(number, "queued")
    path = victim.killed()
    content = path.read_bytes()
    path.write_bytes(content.replace(b"task-%d" % damaged, b"task-X", 1))
    found = ids(Next(folder).turns())
    assert found == [f"task-{number}" for number in range(9) if number != damaged]


WORDS = (64, 65, 66, 128, 129)  # HEAD, OLDEST, NEXT_SEQ, READ, READ_SEQ
HUGE = 1 << 64


@pytest.mark.parametrize(
    ("start", "seq"), [(0, HUGE - 1), (HUGE - 80, 5), (HUGE - 80, HUGE - 1)], ids=hex
)
def test_positions_and_numbers_that_no_ring_reaches_are_refused(folder, start, seq):
    """A sound record at the end of what a word can hold: there is no mark behind it."""
    victim = Victim(folder)
    capacity = victim.ring.capacity
    path = victim.killed()
    payload = b"{}" * 50
    content = bytearray(path.read_bytes())
    values = (min(start + 80, HUGE - 8), start, min(seq + 1, HUGE - 1), start, 0)
    for word, value in zip(WORDS, values, strict=True):
        content[8 * word : 8 * word + 8] = struct.pack("=Q", value)
    crc = crc32(payload, (seq ^ seq >> 32 ^ len(payload)) & 0xFFFF_FFFF)
    at = 4096 + start % capacity
    record = struct.pack("=IIQ", len(payload), crc, seq) + payload
    content[at : at + len(record)] = record
    path.write_bytes(content)
    after = Next(folder)
    assert after.turns() == []
    assert "impossible" in after.said[0]


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
