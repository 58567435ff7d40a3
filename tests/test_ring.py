"""The ring's promises: bounded, oldest first, nothing torn, everything accounted for."""

import functools
import gc
import itertools
import mmap
import multiprocessing
import os
import signal
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, TypeVar
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import sluice.ring as ring_module
from sluice.ring import (
    PAGE,
    SIDE_LIMIT,
    SMALLEST_RING,
    NotARing,
    Reader,
    Record,
    Ring,
    first_page,
)

T = TypeVar("T")
TraceFunction = Callable[[FrameType, str, Any], Any]
EVERYTHING = (1_000_000, 1 << 40)


def make_ring(size: int = SMALLEST_RING) -> Ring:
    return Ring(mmap.mmap(-1, size), ring_id=7, writer_pid=1)


def payload(number: int, size: int) -> bytes:
    """`size` bytes that say which number they are, so that a mix-up cannot go unseen."""
    return (b"%08d" % number * (size // 8 + 1))[:size]


def test_what_is_appended_is_read_in_order() -> None:
    ring = make_ring()
    for number in range(100):
        ring.append(payload(number, number))
    records = Reader(ring).read(*EVERYTHING)
    assert [record.payload for record in records] == [payload(n, n) for n in range(100)]
    assert [record.seq for record in records] == list(range(100))


def test_records_are_unknown_to_the_collector_of_garbage() -> None:
    """Or it, and the application's finalisers, would run on the reader's thread every batch."""
    ring = make_ring()
    for number in range(100):
        ring.append(payload(number, number))
    gc.collect()
    before = gc.get_count()[0]
    records = Reader(ring).read(*EVERYTHING)
    assert gc.get_count()[0] - before < 20
    assert not any(gc.is_tracked(record) for record in records)


def test_a_read_takes_no_more_than_asked_and_at_least_one() -> None:
    ring = make_ring()
    for number in range(10):
        ring.append(payload(number, 100))
    reader = Reader(ring)
    assert len(reader.read(3, 10_000)) == 3
    assert len(reader.read(100, 250)) == 2
    assert len(reader.read(100, 1)) == 1


def test_only_settled_records_are_gone_for_the_next_reader() -> None:
    ring = make_ring()
    for number in range(10):
        ring.append(payload(number, 50))
    reader = Reader(ring)
    records = reader.read(*EVERYTHING)
    reader.settle(records[3])
    assert [r.seq for r in Reader(ring).read(*EVERYTHING)] == [4, 5, 6, 7, 8, 9]


def test_the_largest_record_fits_and_a_larger_one_is_counted() -> None:
    ring = make_ring()
    ring.append(payload(1, ring.largest_record))
    ring.append(payload(2, ring.largest_record + 1))
    assert [len(r.payload) for r in Reader(ring).read(*EVERYTHING)] == [ring.largest_record]
    assert ring.skipped_by["too_large"] == 1
    assert ring.captured == 2


def test_true_comes_back_once_per_quarter() -> None:
    ring = make_ring()
    size = 1000
    rings = sum(ring.append(payload(n, size)) for n in range(4 * ring.capacity // (size + 16)))
    assert 14 <= rings <= 16


class WriteAndRead(RuleBasedStateMachine):
    """Any order of appends and reads, against a list; small enough to wrap all the time."""

    def __init__(self) -> None:
        super().__init__()
        self.ring = make_ring()
        self.reader = Reader(self.ring)
        self.written: list[bytes] = []
        self.settled = 0

    @rule(sizes=st.lists(st.integers(0, 7_500), min_size=1, max_size=30))
    def append(self, sizes: list[int]) -> None:
        for size in sizes:
            data = payload(len(self.written), size)
            self.ring.append(data)
            self.written.append(data)

    @rule(most=st.integers(1, 50), most_bytes=st.integers(1, 100_000), settle=st.booleans())
    def read(self, most: int, most_bytes: int, settle: bool) -> None:
        before = self.reader.next_seq
        records = self.reader.read(most, most_bytes)
        for record in records:
            assert record.payload == self.written[record.seq]
            assert record.seq >= before
            before = record.seq + 1
        if records and settle:
            self.reader.settle(records[-1])
            self.settled += len(records)
        elif records:
            self.settled += len(records)

    @invariant()
    def everything_is_accounted_for(self) -> None:
        assert self.ring.captured == len(self.written)
        assert self.settled + self.reader.overwritten + self.reader.unread == len(self.written)
        assert self.reader.damaged == 0

    @precondition(lambda self: self.written)
    @rule()
    def the_newest_is_never_lost(self) -> None:
        records = Reader(self.ring).read(*EVERYTHING)
        if records:
            assert records[-1].payload == self.written[-1]


TestWriteAndRead = WriteAndRead.TestCase
TestWriteAndRead.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@given(sizes=st.lists(st.integers(0, 8_000), min_size=1, max_size=200))
@settings(max_examples=60, deadline=None)
def test_a_full_ring_keeps_the_newest_that_fit(sizes: list[int]) -> None:
    ring = make_ring()
    for number, size in enumerate(sizes):
        ring.append(payload(number, min(size, ring.largest_record)))
    kept = [r.seq for r in Reader(ring).read(*EVERYTHING)]
    assert kept == list(range(len(sizes) - len(kept), len(sizes)))
    # What one more would have needed: at the least the record before, and what a wrap wastes.
    used = sum(min(sizes[seq], ring.largest_record) + 16 + 7 & ~7 for seq in kept)
    if len(kept) < len(sizes):
        assert used > ring.capacity - 2 * (ring.largest_record + 24) - ring.largest_record


@given(sizes=st.lists(st.integers(0, 8_000), max_size=60), settled=st.integers(0, 60))
@settings(max_examples=60, deadline=None)
def test_the_first_page_alone_says_how_many_are_unsettled(sizes: list[int], settled: int) -> None:
    ring = make_ring()
    for number, size in enumerate(sizes):
        ring.append(payload(number, min(size, ring.largest_record)))
    records = Reader(ring).read(*EVERYTHING)[:settled]
    if records:
        Reader(ring).settle(records[-1])
    unsettled = ring.next_seq - ring.settled_seq
    assert first_page(ring.memory[:PAGE]) == (ring.ring_id, ring.next_seq, unsettled)


@pytest.mark.parametrize(
    ("word", "value", "expected"),
    [
        (128, 1, 5),  # nothing that counts
        (0, 7, 0),  # another magic
        (1, 99, 0),  # another version
        (66, 2**64 - 1, 0),  # more than any ring lives to see
        (129, 6, 0),  # more settled than written
    ],
)
def test_a_first_page_that_cannot_be_true_holds_nothing(
    word: int, value: int, expected: int
) -> None:
    ring = make_ring()
    for number in range(5):
        ring.append(payload(number, 10))
    ring.shared[0][word] = value
    assert first_page(ring.memory[:PAGE]).unsettled == expected
    assert first_page(ring.memory[: PAGE - 8]) == (0, 0, 0)


@given(
    damage=st.lists(st.tuples(st.integers(0, 60_000), st.binary(min_size=1, max_size=64))),
    sizes=st.lists(st.integers(0, 900), min_size=1, max_size=100),
)
@settings(max_examples=400, deadline=None)
def test_damage_is_skipped_never_believed_and_never_looped_on(
    damage: list[tuple[int, bytes]], sizes: list[int]
) -> None:
    ring = make_ring()
    for number, size in enumerate(sizes):
        ring.append(payload(number, size))
    for offset, garbage in damage:
        at = PAGE + offset % ring.capacity
        fits = garbage[: len(ring.memory) - at]
        ring.memory[at : at + len(fits)] = fits
    reader = Reader(ring)
    records = reader.read(*EVERYTHING)
    records += reader.read(*EVERYTHING)  # a damaged record gets a second look, then is skipped
    for record in records:
        assert record.payload == payload(record.seq, sizes[record.seq])
    assert len(records) + reader.damaged + reader.overwritten + reader.unread == len(sizes)


def test_one_damaged_record_costs_only_itself() -> None:
    ring = make_ring()
    for number in range(10):
        ring.append(payload(number, 100))
    ring.memory[PAGE + 3 * 120 + 50] ^= 0xFF
    reader = Reader(ring)
    first = reader.read(*EVERYTHING)
    assert [r.seq for r in first] == [0, 1, 2]
    assert [r.seq for r in reader.read(*EVERYTHING)] == [4, 5, 6, 7, 8, 9]
    assert (reader.damaged, reader.overwritten) == (1, 0)


def test_a_record_that_becomes_visible_late_is_not_damaged() -> None:
    """On ARM another process can see HEAD before the record it belongs to."""
    ring = make_ring()
    ring.append(payload(1, 100))
    intact = bytes(ring.memory[PAGE : PAGE + 120])
    ring.memory[PAGE + 16 : PAGE + 120] = bytes(104)
    reader = Reader(ring)
    assert reader.read(*EVERYTHING) == []
    ring.memory[PAGE : PAGE + 120] = intact
    assert [r.payload for r in reader.read(*EVERYTHING)] == [payload(1, 100)]
    assert reader.damaged == 0


def test_a_reader_that_is_lapped_while_it_copies_throws_the_copy_away() -> None:
    ring = make_ring()
    ring.append(payload(0, 100))

    memory = ring.memory

    class LappingMemory:
        lapped = False

        def __getitem__(self, index: slice) -> bytes:
            copy = memory[index]
            if not LappingMemory.lapped:
                LappingMemory.lapped = True
                for number in range(1, 200):
                    ring.append(payload(number, 1000))
            return copy

    ring._memory = LappingMemory()  # type: ignore[assignment]
    reader = Reader(ring)
    records = reader.read(*EVERYTHING)
    records += reader.read(*EVERYTHING)
    assert 0 not in [r.seq for r in records]
    assert all(r.payload == payload(r.seq, 1000) for r in records)
    assert len(records) + reader.overwritten == 200


@pytest.mark.parametrize("switch_interval", [1e-6, 0.005])
def test_threads_lose_nothing_and_mix_nothing(switch_interval: float) -> None:
    ring = make_ring(8 << 20)
    before = sys.getswitchinterval()
    sys.setswitchinterval(switch_interval)
    try:
        threads = [
            threading.Thread(
                target=lambda thread=thread: [
                    ring.append(payload(thread * 100_000 + n, 24)) for n in range(5_000)
                ]
            )
            for thread in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    records = Reader(ring).read(*EVERYTHING)
    assert ring.captured == 20_000
    assert len(records) + ring.skipped_by["contended"] == 20_000
    by_thread: dict[int, list[int]] = {}
    for record in records:
        number = int(record.payload[:8])
        assert record.payload == payload(number, 24)
        by_thread.setdefault(number // 100_000, []).append(number)
    assert all(numbers == sorted(numbers) for numbers in by_thread.values())


def test_an_append_from_within_an_append_is_written_after_it() -> None:
    """As from a signal handler or a finaliser that runs in the middle of one."""
    ring = make_ring()
    give_up = ring._give_up_oldest

    def interrupted(limit: int) -> None:
        ring._give_up_oldest = give_up  # type: ignore[method-assign]
        ring.append(b"inner")
        give_up(limit)

    while ring.next_seq < 70:
        ring.append(payload(1, 900))
    ring._give_up_oldest = interrupted  # type: ignore[method-assign]
    while ring._give_up_oldest is interrupted:
        ring.append(b"outer" * 100)
    assert [r.payload[:5] for r in Reader(ring).read(*EVERYTHING)][-2:] == [b"outer", b"inner"]


def at_line(number: int, action: Callable[[], object], call: Callable[[], T]) -> T:
    """Do something before the `number`th line that `call` runs in the ring's module."""
    lines = itertools.count(1)

    def before_a_line(_frame: FrameType, event: str, _: object) -> TraceFunction:
        if event == "line" and next(lines) == number:
            action()  # which is not traced
        return before_a_line

    def before_a_call(frame: FrameType, _event: str, _: object) -> TraceFunction | None:
        return before_a_line if frame.f_code.co_filename == ring_module.__file__ else None

    before = sys.gettrace()
    sys.settrace(before_a_call)
    try:
        return call()
    finally:
        sys.settrace(before)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["append", "read"]),
            st.integers(8, 7_000),  # bytes of a record, and how many more are read at least
            st.integers(1, 60),  # the line at which it is interrupted
            st.sampled_from(["append", "read"]),
            st.integers(1, 12),  # how often the other thing is done then
        ),
        min_size=5,
        max_size=60,
    )
)
@settings(max_examples=150, deadline=None)
def test_whatever_comes_in_the_middle_of_whatever_all_is_accounted_for(
    steps: list[tuple[str, int, int, str, int]],
) -> None:
    """Appends from signal handlers and finalisers, and a reader in another process: at any line."""
    ring = make_ring()
    reader = Reader(ring)
    sizes: list[int] = []
    read: list[Record] = []

    def append(size: int) -> None:
        sizes.append(size)
        ring.append(payload(len(sizes) - 1, size))

    def take(most: int) -> None:
        records = reader.read(max(1, most // 1000), 1 << 40)
        read.extend(records)
        if records:
            reader.settle(records[-1])

    kinds = {"append": append, "read": take}
    for kind, size, line, other, times in steps:
        reading = kind == other == "read"  # there is one reader

        def interrupt(other: str = other, size: int = size, times: int = times) -> None:
            for _ in range(times):
                kinds[other](size)

        do = functools.partial(kinds[kind], size)
        do() if reading else at_line(line, interrupt, do)
    take(10**9)
    assert [record.seq for record in read] == sorted({record.seq for record in read})
    for record in read:
        number = int(record.payload[:8])
        assert record.payload == payload(number, sizes[number])
    assert reader.damaged == 0
    assert len(read) + reader.overwritten == ring.next_seq
    assert ring.captured == len(sizes) == ring.next_seq + ring.skipped_by["contended"]


def test_an_exception_out_of_a_signal_handler_leaves_a_sound_ring() -> None:
    """A soft time limit is such an exception; it lands anywhere, and goes through."""

    class Limit(Exception):
        pass

    def handler(*_: object) -> None:
        raise Limit

    ring = make_ring(1 << 20)
    calls = limits = 0
    before = signal.signal(signal.SIGALRM, handler)
    try:
        while limits < 300:
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.00001 + (limits % 50) * 0.000002)
                while True:
                    calls += 1
                    ring.append(b"x" * 40)
            except Limit:
                limits += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    ring.append(b"the last")
    # The exception lands before, in or after an append: at most the one call is not there.
    assert calls - limits < ring.captured <= calls + 1
    records = Reader(ring).read(*EVERYTHING)
    assert records[-1].payload == b"the last"
    assert {record.payload for record in records[:-1]} == {b"x" * 40}
    assert ring._token == [None]


def test_an_exception_out_of_an_append_comes_after_its_record() -> None:
    class Limit(Exception):
        pass

    ring = make_ring()
    give_up = ring._give_up_oldest

    def interrupted(limit: int) -> None:
        ring._give_up_oldest = give_up  # type: ignore[method-assign]
        raise Limit

    while not ring._words[65]:  # until the first record was given up: the next needs room too
        ring.append(payload(1, 900))
    ring._give_up_oldest = interrupted  # type: ignore[method-assign]
    with pytest.raises(Limit):
        ring.append(b"the last" * 200)
    assert Reader(ring).read(*EVERYTHING)[-1].payload == b"the last" * 200
    assert not ring._side


def test_the_side_queue_is_bounded_and_its_overflow_is_counted() -> None:
    ring = make_ring()
    ring._token.clear()  # a writer that never comes to its end
    for number in range(SIDE_LIMIT + 5):
        ring.append(b"%d" % number)
    assert ring.skipped_by["contended"] == 5
    assert ring.next_seq == 0
    ring._token.append(None)
    ring.append(b"still one too many, but it sees that nobody writes")
    assert ring.skipped_by["contended"] == 6
    assert ring.next_seq == SIDE_LIMIT


def _write_in_child(memory: mmap.mmap, count: int) -> None:
    ring = Ring(memory)
    for number in range(count):
        ring.append(payload(number, 20 + number % 400))
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_parent_reads_while_a_child_writes_and_keeps_all_after_its_kill() -> None:
    ring = make_ring(512 * 1024)
    reader = Reader(ring)
    child = multiprocessing.get_context("fork").Process(
        target=_write_in_child, args=(ring.memory, 30_000)
    )
    child.start()
    seen = 0
    try:
        while child.is_alive() or reader.behind:
            for record in reader.read(500, 1 << 20):
                assert record.payload == payload(record.seq, 20 + record.seq % 400)
                seen += 1
                reader.settle(record)
    finally:
        child.join()
    assert child.exitcode == -signal.SIGKILL
    assert seen + reader.overwritten == ring.next_seq == 30_000
    assert reader.damaged == 0


def headers() -> Iterator[tuple[str, int, int]]:
    yield "magic", 0, 1
    yield "version", 1, 99
    yield "capacity", 2, 1 << 40
    yield "head before oldest", 65, 8
    yield "head beyond the ring", 64, 1 << 60
    yield "crooked head", 64, 13


@pytest.mark.parametrize(
    ("word", "value"), [h[1:] for h in headers()], ids=[h[0] for h in headers()]
)
def test_a_header_that_makes_no_sense_is_refused(word: int, value: int) -> None:
    ring = make_ring()
    struct.pack_into("=Q", ring.memory, word * 8, value)
    with pytest.raises(NotARing):
        Ring(ring.memory)


def test_memory_that_is_too_small_is_refused() -> None:
    with pytest.raises(NotARing):
        Ring(mmap.mmap(-1, 4096), ring_id=1)


def test_the_crc_covers_the_sequence_number() -> None:
    ring = make_ring()
    ring.append(b"data")
    _, crc, seq = struct.unpack_from("=IIQ", ring.memory, PAGE)
    assert (crc, seq) == (crc32(b"data", 4), 0)
    struct.pack_into("=Q", ring.memory, PAGE + 8, 5)
    assert Reader(ring).read(*EVERYTHING) == []


def test_the_repr_says_what_is_in_it() -> None:
    ring = make_ring()
    ring.append(b"one")
    assert repr(ring) == f"<Ring {7:016x} {ring.capacity} bytes, 1 written, 0 settled>"


def test_records_in_the_wrong_order_are_not_believed() -> None:
    """Each is sound by itself, but the second is older than the first."""
    ring = make_ring()
    for _ in range(3):
        ring.append(b"x" * 24)
    _, data = ring.shared
    data[:40], data[40:80] = bytes(data[40:80]), bytes(data[:40])
    reader = Reader(ring)
    records = [record for _ in range(3) for record in reader.read(10, 1000)]
    assert [record.seq for record in records] == [1, 2]


def test_records_beyond_the_last_number_are_not_believed() -> None:
    ring = make_ring()
    for _ in range(5):
        ring.append(b"x")
    words, _ = ring.shared
    words[66] = 2  # NEXT_SEQ: a kill in a commit leaves it one behind, nothing two
    reader = Reader(ring)
    records = [record for _ in range(3) for record in reader.read(10, 1000)]
    assert [record.seq for record in records] == [0, 1, 2]


@pytest.mark.parametrize("position", [-(1 << 70), -8, 3, 1 << 70])
def test_a_mark_that_is_none_is_survived(position: int) -> None:
    ring = make_ring()
    ring.append(b"x")
    reader = Reader(ring, (position, 0))
    records = [record for _ in range(3) for record in reader.read(10, 1000)]
    expected = [b"x"] if position < 1 << 60 else []
    assert [record.payload for record in records] == expected
