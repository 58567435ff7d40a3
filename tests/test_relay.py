"""Children's rings -> their parent's: every record once, with the child's id, all accounted for."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.relay import Relay
from sluice.ring import SIDE_LIMIT, Reader, Ring
from sluice.spool import Spool
from sluice.testing import FakeClock
from tests.doubles import LAW, NO_PROCESS, memory_ring
from tests.harness import CONNECTION_ID

ALIVE = os.getpid()
MIB = 1024 * 1024


class Family:
    """A parent's ring, the rings of its children, and what became of the latter."""

    def __init__(self, size: int = 8 * MIB) -> None:
        self.ring = memory_ring(size, ring_id=1, writer_pid=ALIVE)
        self.discarded: list[Ring] = []
        self.clock = FakeClock()
        self.relay = Relay(self.ring, self.discarded.append, monotonic=self.clock.monotonic)
        self._reader = Reader(self.ring)
        self.children = 0

    def child(self, pid: int = ALIVE) -> Ring:
        self.children += 1
        ring = memory_ring(ring_id=0xC0 + self.children, writer_pid=pid)
        self.relay.add(ring)
        return ring

    def arrived(self) -> list[tuple[int, str]]:
        """(number, event id) of what has come since the last call."""
        records = self._reader.read(100_000, 2**40)
        assert all(record.relayed for record in records)
        jobs = [json.loads(record.payload)["job"] for record in records]
        return [(job["n"], job["extensions"]["eventId"]) for job in jobs]

    @property
    def balance(self) -> int:
        relay = self.relay
        return relay.captured - relay.moved - relay.waiting - sum(relay.lost.values())


@pytest.fixture
def family():
    return Family()


def write(ring: Ring, *numbers: int, size: int = 0) -> None:
    for n in numbers:
        ring.append(b'{"job":{"n":%d,"x":"%b","extensions":{"a":1}}}' % (n, b"x" * size))


# --- moving ---------------------------------------------------------------------------------------


def test_records_arrive_with_the_id_of_the_ring_they_were_captured_in(family):
    first, second = family.child(), family.child()
    write(first, 10, 11)
    write(second, 20)
    family.relay.move()
    assert family.arrived() == [
        (10, "00000000000000c1-0"),
        (11, "00000000000000c1-1"),
        (20, "00000000000000c2-0"),
    ]
    assert family.relay.moved == 3


def test_records_arrive_once(family):
    child = family.child()
    write(child, 1)
    family.relay.move()
    family.relay.move()
    write(child, 2)
    family.relay.move()
    assert [n for n, _ in family.arrived()] == [1, 2]
    assert child.settled_seq == 2


def test_many_records_arrive_at_one_turn_in_order(family):
    child = family.child()
    write(child, *range(1000))
    family.relay.move()
    arrived = [n for n, _ in family.arrived()]
    assert arrived == list(range(1000 - len(arrived), 1000))
    assert len(arrived) == family.relay.moved > 500


def test_a_burst_waits_while_our_own_ring_is_being_written(family):
    """A writer that lost its turn in the middle: beside the ring there is room for some only."""
    child = family.child(pid=NO_PROCESS)
    write(child, *range(600))
    family.ring._token.clear()
    family.relay.move()
    assert family.relay.moved == SIDE_LIMIT // 2
    assert child.settled_seq == 0, "a kill takes along what is beside our ring"
    assert family.discarded == []
    family.relay.move()
    assert family.relay.moved == SIDE_LIMIT // 2
    write(family.ring, 1000)  # of others: what is beside is theirs too
    family.ring._token.append(None)
    write(family.ring, 1001)
    family.relay.move()
    assert family.discarded == [child]
    assert family.relay.moved == 600
    assert family.ring.skipped_by["contended"] == 0
    assert family.ring.next_seq == 602


def test_a_dead_childs_ring_stays_until_its_last_record_is_in_ours(family):
    child = family.child(pid=NO_PROCESS)
    write(child, *range(10))
    family.ring._token.clear()
    for _ in range(3):
        family.relay.move()
    assert (family.relay.moved, child.settled_seq, family.discarded) == (10, 0, [])
    family.ring._token.append(None)
    write(family.ring, 10)
    family.relay.move()
    assert family.discarded == [child]
    assert family.ring.next_seq == 11


def test_a_system_that_cannot_be_asked_for_a_childs_end_sees_that_it_is_gone(family, monkeypatch):
    monkeypatch.delattr(os, "waitid")
    living, dead = family.child(pid=os.getpid()), family.child(pid=NO_PROCESS)
    write(living, 1)
    write(dead, 2)
    family.relay.move()
    assert [n for n, _ in family.arrived()] == [1, 2]
    assert family.discarded == [dead]


def test_a_child_may_come_while_others_are_there(family):
    write(family.child(), 1)
    family.relay.move()
    write(family.child(), 2)
    family.relay.move()
    assert [n for n, _ in family.arrived()] == [1, 2]


def test_a_record_that_the_parent_cannot_take_is_counted_there():
    family = Family(size=64 * 1024)  # the id makes it longer than it was in the child's ring
    child = family.child()
    write(child, 1, size=child.largest_record - 60)
    assert child.skipped == 0
    family.relay.move()
    assert family.ring.skipped_by["too_large"] == 1
    assert family.balance == 0


# --- letting go -----------------------------------------------------------------------------------


def test_the_ring_of_a_dead_child_is_drained_and_discarded(family):
    child = family.child(NO_PROCESS)
    write(child, 1, 2, 3)
    family.relay.move()
    assert [n for n, _ in family.arrived()] == [1, 2, 3]
    assert family.discarded == [child]
    assert family.relay.rings == []
    family.relay.move()
    assert family.discarded == [child]


def test_a_long_ring_of_a_dead_child_is_drained_to_its_end(family):
    ring = memory_ring(2 * MIB, ring_id=9, writer_pid=NO_PROCESS)
    family.relay.add(ring)
    write(ring, *range(10_000))
    family.relay.move()
    assert len(family.arrived()) == 10_000
    assert family.discarded == [ring]


def test_the_ring_of_a_living_child_stays(family):
    child = family.child()
    family.relay.move()
    assert family.discarded == []
    assert family.relay.rings == [child]


def test_a_ring_that_nobody_writes_yet_stays(family):
    child = family.child(pid=0)
    family.relay.move()
    assert family.discarded == []
    child.writer_pid = ALIVE
    write(child, 1)
    family.relay.move()
    assert [n for n, _ in family.arrived()] == [1]


def test_a_child_that_nobody_has_reaped_has_ended_and_can_still_be_reaped(family):
    process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    child = family.child(process.pid)
    write(child, 1)
    family.relay.move()
    assert family.discarded == [child]
    assert [n for n, _ in family.arrived()] == [1]
    assert process.wait() == 3


def test_a_process_number_that_belongs_to_someone_else_by_now_is_not_our_child(family, monkeypatch):
    def not_yours(pid, signal):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("sluice.relay.os.kill", not_yours)
    child = family.child(4242)
    write(child, 1)
    family.relay.move()
    assert family.discarded == [child]
    assert [n for n, _ in family.arrived()] == [1]


def test_what_a_child_wrote_while_it_was_found_dead_is_not_lost(family, monkeypatch):
    """The end is looked for before the last read: nothing is written after it."""
    child = family.child(4242)
    write(child, 1)

    def last_words(pid, signal):
        write(child, 2)
        raise ProcessLookupError

    monkeypatch.setattr("sluice.relay.os.kill", last_words)
    family.relay.move()
    assert [n for n, _ in family.arrived()] == [1, 2]
    assert family.discarded == [child]


def test_a_child_that_never_began_is_not_waited_for_for_ever(family):
    """The fork failed: there is a ring, and nobody to write his number into it."""
    born, unborn = family.child(), family.child(0)
    family.relay.move()
    family.clock.advance(59)
    family.relay.move()
    assert family.discarded == []
    family.clock.advance(2)
    family.relay.move()
    assert family.discarded == [unborn]
    assert family.relay.rings == [born]


def test_a_forked_child_lets_go_of_its_siblings_rings_and_of_nothing_else(family):
    """Or the memory of those that end stays for as long as the last of them."""
    moved, held, own, new = family.child(), family.child(), family.child(), family.child()
    family.relay.move()
    look = held.shared[1][:8]  # as a frame of the sender's thread does, which never goes on
    family.relay.add(new)
    family.relay.let_go(own)
    for ring, closed in ((moved, True), (held, False), (own, False), (new, True)):
        assert ring.memory.closed is closed
    write(own, 1)
    assert own.next_seq == 1
    family.ring.append(b"{}")
    look.release()


# --- counts ---------------------------------------------------------------------------------------


def test_counts_of_children_that_have_ended_remain(family):
    child = family.child(NO_PROCESS)
    write(child, *range(10), size=7000)  # a ring of 60 KiB holds eight of these
    child.count_unencodable()
    write(child, 0, size=10_000)
    family.relay.move()
    assert family.relay.captured == 12
    assert family.relay.moved == 8
    assert family.relay.waiting == 0
    assert family.relay.lost == {
        "overwritten": 2,
        "damaged": 0,
        "unencodable": 1,
        "too_large": 1,
        "contended": 0,
    }


def test_counts_of_a_living_child_are_there_at_once(family):
    child = family.child()
    write(child, *range(10), size=7000)
    child.count_unencodable()
    family.relay.move()
    assert family.relay.lost["overwritten"] == 2
    assert family.relay.lost["unencodable"] == 1
    assert family.balance == 0


def test_what_waits_in_a_child_is_counted_before_it_is_moved(family):
    write(family.child(), 1, 2)
    assert (family.relay.captured, family.relay.waiting, family.relay.moved) == (2, 2, 0)
    family.relay.move()
    assert (family.relay.captured, family.relay.waiting, family.relay.moved) == (2, 0, 2)


def test_a_record_that_could_not_be_copied_is_still_the_childs(family, monkeypatch):
    child = family.child()
    write(child, 1, 2)

    def fail(*_: object, **__: object) -> bool:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(family.ring, "append", fail)
        with pytest.raises(MemoryError):
            family.relay.move()
    assert [record.seq for record in Reader(child).read(10, 1000)] == [0, 1]


def test_a_child_that_writes_faster_than_it_is_read_holds_nobody_up(family, monkeypatch):
    busy, other = family.child(), family.child()
    write(busy, 1)
    write(other, 2)
    append = family.ring.append

    def slow(payload: bytes, *, relayed: bool) -> bool:
        if family.ring.next_seq < 5_000:
            write(busy, 3)
        return append(payload, relayed=relayed)

    monkeypatch.setattr(family.ring, "append", slow)
    family.relay.move()
    assert family.relay.moved < 100
    assert 2 in [n for n, _ in family.arrived()]


def test_a_child_that_runs_is_neither_waited_for_nor_let_go(family):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        child = family.child(process.pid)
        write(child, 1)
        family.relay.move()
        assert process.poll() is None
        assert family.discarded == []
        process.stdin.close()
        process.wait()
        family.relay.move()
    assert family.discarded == [child]


def test_what_never_got_a_record_adds_up_over_children_that_have_ended(family):
    for _ in range(3):
        family.child(NO_PROCESS).count_unencodable()
    family.relay.move()
    assert family.relay.lost["unencodable"] == 3


def test_a_child_killed_in_the_middle_of_a_commit_is_accounted_for(family):
    """Its last record is there, its count is not."""
    child = family.child(NO_PROCESS)
    write(child, 1, 2, 3)
    words, _ = child.shared
    words[66] -= 1  # NEXT_SEQ
    family.relay.move()
    assert [n for n, _ in family.arrived()] == [1, 2, 3]
    assert family.balance == 0


def test_damage_in_the_ring_of_a_living_child_is_counted_at_once(family):
    child = family.child()
    write(child, 1, 2, 3)
    child.memory[4096 + 20] ^= 0xFF  # in the payload of the first
    family.relay.move()
    family.relay.move()
    assert family.relay.lost["damaged"] == 1


def test_without_children_nothing_is_counted(family):
    family.relay.move()
    assert (family.relay.captured, family.relay.waiting, family.relay.moved) == (0, 0, 0)
    assert sum(family.relay.lost.values()) == 0


@pytest.mark.parametrize("count", ["captured", "waiting", "lost"])
def test_a_child_may_be_let_go_while_another_thread_counts(count):
    parent = memory_ring(MIB, ring_id=1, writer_pid=ALIVE)
    relay = Relay(parent, Spool(None, CONNECTION_ID, print).discard)

    class Interrupted(Ring):
        """The sender's thread gets its turn when this ring has been counted."""

        @property
        def captured(self):
            relay.move()
            return super().captured

        @property
        def settled_seq(self):
            relay.move()
            return super().settled_seq

        @property
        def skipped_by(self):
            relay.move()
            return super().skipped_by

    first = Interrupted(memory_ring().memory, ring_id=2, writer_pid=ALIVE)
    second = memory_ring(ring_id=3, writer_pid=NO_PROCESS)
    relay.add(first)
    relay.add(second)
    getattr(relay, count)


STEPS = st.one_of(
    st.tuples(st.just("new"), st.just(0), st.just(0)),
    st.tuples(st.just("write"), st.integers(0, 30), st.sampled_from([0, 1000, 7000, 10_000])),
    st.tuples(st.just("unencodable"), st.integers(0, 30), st.just(0)),
    st.tuples(st.just("die"), st.integers(0, 30), st.just(0)),
    st.tuples(st.just("move"), st.just(0), st.just(0)),
)


@LAW
@given(steps=st.lists(STEPS, max_size=40))
def test_the_counts_add_up_at_every_step(steps):
    family = Family()
    living: list[Ring] = []
    captured = 0
    for step, n, size in steps:
        if step == "new":
            living.append(family.child())
        elif step == "move":
            family.relay.move()
        elif living:
            ring = living[n % len(living)]
            if step == "write":
                write(ring, *range(n), size=size)
                captured += n
            elif step == "unencodable":
                ring.count_unencodable()
                captured += 1
            else:
                ring.writer_pid = NO_PROCESS
                living.remove(ring)
        assert family.relay.captured == captured
        assert family.balance == 0
    family.relay.move()
    assert family.balance == family.relay.waiting == 0
    arrived = family.arrived()
    assert len(arrived) == family.relay.moved
    assert len({event_id for _, event_id in arrived}) == len(arrived)
    assert len(family.discarded) == family.children - len(living)


def test_damage_in_a_dead_childs_ring_costs_what_is_damaged(family):
    child = family.child(NO_PROCESS)
    write(child, 1, 2, 3)
    child.memory[4096 + 20] ^= 0xFF  # in the payload of the first
    family.relay.move()
    assert [n for n, _ in family.arrived()] == [2, 3]
    assert family.relay.lost["damaged"] == 1
