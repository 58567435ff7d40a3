"""A bounded ring of records in shared memory: one writing process, one reader.

Guarantees
----------
* **An append never waits.**  No lock, no I/O, no clock.  A second thread, a signal
  handler or a finaliser that finds another append under way leaves its record in a
  side queue; whoever is writing writes that one too before it leaves.
* **Bounded, oldest first.**  The ring never grows.  When it is full the oldest records
  are overwritten, and each record's sequence number tells the reader how many.
* **Nothing is lost by a kill.**  A record counts from the moment its ``HEAD`` is stored;
  the memory outlives the process that wrote it.
* **Every record is accounted for**: ``captured == settled + overwritten + pending``.
* **The reader never trusts what it reads.**  Lengths are checked, every payload has a
  CRC over itself, its length and its sequence number, and damage is skipped, never looped on.

What this relies on (each has a test in ``tests/test_ring_reliances.py``)
-------------------------------------------------------------------------
* ``memoryview.cast("Q")[i] = n`` is one aligned 8-byte store (``struct.pack_into("<Q")``
  is eight single bytes): another process sees the old number or the new one.
* CPython runs signal handlers, switches threads and, from 3.12, collects garbage only at
  calls, backward jumps and function starts.  ``del token[0]``, the three stores that
  commit a record, and the ``try`` that follows a taken token have none between them.
* Stores become visible to another process in the order they were made.  x86 promises
  that.  ARM does not, so a record that fails its CRC gets a second look later, before it
  is given up as damaged.

Layout: one page of 8-byte words (the writer's and the reader's on separate cache lines),
then ``capacity`` bytes of records.  A record is ``length | crc | sequence`` (4 + 4 + 8
bytes), the payload, and zero to seven bytes of padding.  It never wraps: a record that
would not fit before the end leaves a pad mark there and starts again at the front.
Positions count bytes ever written, so that ``position % capacity`` is the place and a
later position is always a larger number.

Writer and reader stay in one file of more than 350 lines: each is half of the protocol.
"""

from __future__ import annotations

import struct
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple
from zlib import crc32

import msgspec

if TYPE_CHECKING:
    from mmap import mmap

PAGE: Final = 4096
MAGIC: Final = 0x0065_6369_756C_7301
LAYOUT_VERSION: Final = 1
#: No ring is smaller than this (bytes, header page included).
SMALLEST_RING: Final = 64 * 1024
#: Records that can wait beside the ring while one is being written.  A writer that is
#: interrupted in its two microseconds meets at most as many as there are threads, and what
#: others move here, which is half of this at most (`room_beside`).
SIDE_LIMIT: Final = 1024

#: How often, at most, a reader looks at as many bytes as the ring has in its searches for
#: sound records.  Only a file that someone made for it gets there.
_MOST_WORK: Final = 16

# Words of the header page.
_MAGIC, _VERSION, _CAPACITY, _RING_ID, _WRITER_PID = range(5)
_HEAD, _OLDEST, _NEXT_SEQ, _SKIP_ENCODE, _SKIP_SIZE, _SKIP_SIDE = range(64, 70)
_READ, _READ_SEQ = range(128, 130)

_RECORD: Final = struct.Struct("=IIQ")
_PAD: Final = 0xFFFF_FFFF
#: Set in a record's length when its event id is already part of the payload.
_RELAYED: Final = 0x8000_0000
_LENGTH_MASK: Final = 0x7FFF_FFFF
_CRC_MASK: Final = 0xFFFF_FFFF
#: No ring lives to see such a position or number; the sums with one still fit into a word.
_NEVER_REACHED: Final = 1 << 63


class NotARing(ValueError):
    """The memory does not hold a ring of this version, or holds a damaged header."""


class FirstPage(NamedTuple):
    """What the first page of a ring file says; zeros where it is no ring."""

    ring_id: int = 0
    #: The number that the next record would get.
    next_seq: int = 0
    #: Events still to deliver, with those that were overwritten since the last that was.
    unsettled: int = 0


def first_page(page: bytes) -> FirstPage:
    """Read a first page that anybody may have written."""
    if len(page) != PAGE:
        return FirstPage()
    words = memoryview(page).cast("Q")
    if words[_MAGIC] != MAGIC or words[_VERSION] != LAYOUT_VERSION:
        return FirstPage()
    next_seq = words[_NEXT_SEQ]
    if next_seq >= _NEVER_REACHED:
        return FirstPage()
    return FirstPage(words[_RING_ID], next_seq, max(0, next_seq - words[_READ_SEQ]))


class Record(msgspec.Struct, gc=False):
    """One record as the reader copied it.

    Unknown to the collector of garbage, which would otherwise run on the reader's thread
    after every batch or two, and with it the finalisers of the application, where a green
    lock is of another thread's hub.
    """

    payload: bytes
    seq: int
    #: The position behind this record: settle up to here once it is dealt with.
    end: int
    #: The payload was relayed from another ring and carries that ring's event id.
    relayed: bool


class Ring:
    """The writer's side of a ring over `memory`, a shared mapping of at least 64 KiB.

    `ring_id` is a random 63-bit number that names this ring in event ids.  With
    `existing` the header must already be there (:class:`NotARing` otherwise).
    """

    def __init__(self, memory: mmap, *, ring_id: int = 0, writer_pid: int = 0) -> None:
        if len(memory) < SMALLEST_RING:
            raise NotARing(f"a ring needs {SMALLEST_RING} bytes, this memory has {len(memory)}")
        self._memory = memory
        view = memoryview(memory)
        self._words = view[:PAGE].cast("Q")
        self._data = view[PAGE : PAGE + (len(memory) - PAGE) // 8 * 8]
        self._lengths = self._data.cast("I")  # a record's length, at a quarter of its place
        self.capacity: Final = len(self._data)
        #: The largest payload that is accepted, in bytes.
        self.largest_record: Final = self.capacity // 8
        self._wake_every = self.capacity // 4
        self._wake_at = self._wake_every
        self._side: deque[tuple[bytes, int]] = deque()
        # Holding the one element of this list is the right to write.  `del token[0]`
        # either takes it or raises, as one step that nothing can come between.
        self._token: list[None] = [None]
        if ring_id:
            words = self._words
            words[_VERSION] = LAYOUT_VERSION
            words[_CAPACITY] = self.capacity
            words[_RING_ID] = ring_id
            words[_WRITER_PID] = writer_pid
            words[_MAGIC] = MAGIC
        self.ring_id: Final = self._checked_header()

    def _checked_header(self) -> int:
        words = self._words
        if words[_MAGIC] != MAGIC or words[_VERSION] != LAYOUT_VERSION:
            raise NotARing("no ring of this version")
        if words[_CAPACITY] != self.capacity:
            raise NotARing("the header's capacity is not the memory's")
        head, oldest = words[_HEAD], words[_OLDEST]
        if not (oldest <= head and head - oldest <= self.capacity and head % 8 == oldest % 8 == 0):
            raise NotARing("the header's positions contradict each other")
        if max(head, words[_NEXT_SEQ]) >= _NEVER_REACHED:
            raise NotARing("the header's numbers are impossible")
        return words[_RING_ID]

    def append(self, payload: bytes, *, relayed: bool = False) -> bool:
        """Write `payload`.  True when a quarter of the ring was filled since the last True.

        Never waits and never raises for want of room.  An exception that a signal handler
        raises in here (a soft time limit, say) goes through, after the record is written.
        """
        if len(payload) > self.largest_record:
            self._words[_SKIP_SIZE] += 1
            return False
        side = self._side
        if len(side) < SIDE_LIMIT:
            side.append((payload, _RELAYED if relayed else 0))
        else:
            self._words[_SKIP_SIDE] += 1
        while side:
            try:
                del self._token[0]
            except IndexError:
                break  # someone is writing, and looks at the side queue before leaving
            try:
                try:
                    self._write_side()
                except BaseException:
                    self._write_side()
                    raise
            finally:
                self._token.append(None)
        head = self._words[_HEAD]
        if head < self._wake_at:
            return False
        self._wake_at = head + self._wake_every
        return True

    def _write_side(self) -> None:
        """Write what waits in the side queue.  Only the holder of the token comes here."""
        side, words, data, capacity = self._side, self._words, self._data, self.capacity
        while side:
            payload, flag = side[0]
            size = len(payload) + 16
            head = words[_HEAD]
            seq = words[_NEXT_SEQ]
            at = head % capacity
            end = head + (size + 7 & ~7)
            if end - head > capacity - at:  # does not fit before the edge
                end += capacity - at
                if end - words[_OLDEST] > capacity:
                    self._give_up_oldest(end - capacity)
                self._lengths[at >> 2] = _PAD
                at = 0
            elif end - words[_OLDEST] > capacity:
                self._give_up_oldest(end - capacity)
            length = len(payload) | flag
            crc = crc32(payload, (seq ^ seq >> 32 ^ length) & _CRC_MASK)
            data[at : at + size] = _RECORD.pack(length, crc, seq) + payload
            next_seq = seq + 1
            # The commit: from the first store on the record exists.  No call in between,
            # so no signal handler can see, or leave behind, half of it.
            words[_HEAD] = end
            words[_NEXT_SEQ] = next_seq
            del side[0]

    def _give_up_oldest(self, limit: int) -> None:
        """Move the oldest-intact mark to `limit` or beyond, before it is overwritten."""
        words, lengths, capacity = self._words, self._lengths, self.capacity
        head = words[_HEAD]
        if limit <= words[_READ] <= head:
            # What is settled nobody reads again: one step for a whole batch.
            words[_OLDEST] = words[_READ]
            return
        oldest = words[_OLDEST]
        if not limit - 2 * capacity <= oldest <= head:  # somebody else wrote into this page
            words[_OLDEST] = head
            return
        while oldest < limit:
            at = oldest % capacity
            length = lengths[at >> 2]
            if length == _PAD:
                oldest += capacity - at
            else:
                oldest += (length & _LENGTH_MASK) + 23 & ~7
        words[_OLDEST] = min(oldest, head)

    def count_unencodable(self) -> None:
        """Count an event that was captured but could not be made into a record."""
        self._words[_SKIP_ENCODE] += 1

    def close(self) -> None:
        """Let go of the memory.  The ring must not be used afterwards."""
        self._words.release()
        self._lengths.release()
        self._data.release()
        self._memory.close()

    def let_go(self) -> None:
        """As `close`, where somebody may still look at it, who never goes on."""
        try:
            self.close()
        except BufferError:
            pass  # a frame that was interrupted: a little stays

    # What the counters say; safe to read from anywhere at any time.

    @property
    def memory(self) -> mmap:
        """The mapping this ring lives in."""
        return self._memory

    @property
    def is_whole(self) -> bool:
        """Whether its file still has every page: to touch one that is gone is a SIGBUS."""
        return self._memory.size() >= len(self._memory)

    @property
    def shared(self) -> tuple[memoryview, memoryview]:
        """For the reader: the words of the header, and the bytes of the records."""
        return self._words, self._data

    @property
    def mark(self) -> tuple[int, int]:
        """Where the next record will be, and its number: for a reader that is to begin there."""
        words = self._words
        while True:
            head, seq = words[_HEAD], words[_NEXT_SEQ]
            if words[_HEAD] == head:
                return head, seq

    @property
    def room(self) -> int:
        """Bytes that can be written before something is overwritten that was not settled."""
        return self.capacity - min(self.capacity, self._words[_HEAD] - self._words[_READ])

    @property
    def room_beside(self) -> int:
        """How many records may be appended in a burst: another writer may be interrupted."""
        return max(0, SIDE_LIMIT // 2 - len(self._side))

    @property
    def is_behind(self) -> bool:
        """Whether something that was appended waits beside the ring: a kill takes that along."""
        return bool(self._side)

    @property
    def captured(self) -> int:
        """Events that came to this ring, also those that never got a record."""
        return self._words[_NEXT_SEQ] + self.skipped

    @property
    def writer_pid(self) -> int:
        """The process that writes here, as it said itself; 0 if it has not begun."""
        return self._words[_WRITER_PID]

    @writer_pid.setter
    def writer_pid(self, pid: int) -> None:
        self._words[_WRITER_PID] = pid

    @property
    def next_seq(self) -> int:
        """The sequence number that the next record gets; the number of records so far."""
        return self._words[_NEXT_SEQ]

    @property
    def skipped(self) -> int:
        """Events that never got a record, for whatever reason."""
        return sum(self.skipped_by.values())

    @property
    def skipped_by(self) -> dict[str, int]:
        """Events that never got a record, by reason."""
        words = self._words
        return {
            "unencodable": words[_SKIP_ENCODE],
            "too_large": words[_SKIP_SIZE],
            "contended": words[_SKIP_SIDE],
        }

    @property
    def settled_seq(self) -> int:
        """All records before this sequence number are delivered, dropped or relayed."""
        return self._words[_READ_SEQ]

    def __repr__(self) -> str:
        words = self._words
        return (
            f"<Ring {self.ring_id:016x} {self.capacity} bytes,"
            f" {words[_NEXT_SEQ]} written, {words[_READ_SEQ]} settled>"
        )


class Reader:
    """The one reader of a ring: copies records out, and settles them when dealt with.

    It may live in another process than the writer.  Reading moves a private cursor; only
    :meth:`settle` moves the mark in the ring, so that what a dead reader had not settled
    is read again by the next one.  `mark` begins elsewhere (see :attr:`Ring.mark`); what is
    no longer there is left out.
    """

    def __init__(self, ring: Ring, mark: tuple[int, int] | None = None) -> None:
        self.ring: Final = ring
        self._words, self._data = ring.shared
        self._capacity = ring.capacity
        head = self._words[_HEAD]
        position, seq = mark or (self._words[_READ], self._words[_READ_SEQ])
        self._pos = max(0, min(position, head)) & ~7
        #: The sequence number that the next record should have.
        self.next_seq = seq
        #: Records that were overwritten before they were read.
        self.overwritten = 0
        #: Records that were there but damaged.
        self.damaged = 0
        self._suspect = -1
        self._skipping = False
        self._work = _MOST_WORK * ring.capacity

    @property
    def behind(self) -> bool:
        """Whether there is something to read."""
        return self._pos < self._words[_HEAD]

    @property
    def unread(self) -> int:
        """Records not read yet, including those already overwritten unseen."""
        return max(0, self._words[_NEXT_SEQ] - self.next_seq)

    def read(self, most: int, most_bytes: int) -> list[Record]:
        """Copy up to `most` records of up to `most_bytes` together; the first may be larger."""
        words, data, memory, capacity = self._words, self._data, self.ring.memory, self._capacity
        unpack = _RECORD.unpack_from
        records: list[Record] = []
        head = words[_HEAD]
        last = words[_NEXT_SEQ]  # after HEAD: no record before `head` has a later number
        pos, next_seq = self._pos, self.next_seq
        while pos < head and len(records) < most:
            at = pos % capacity
            room = capacity - at
            length = seq = crc = 0
            if room >= 16:
                length, crc, seq = unpack(data, at)
            size = length & _LENGTH_MASK
            sound = next_seq <= seq <= last and size <= room - 16
            begin = PAGE + at + 16
            payload = memory[begin : begin + size] if sound else b""
            if pos < words[_OLDEST]:
                pos = words[_OLDEST]  # lapped; the next sequence number says by how many
                continue
            if room < 16 or length == _PAD:
                pos += room
                continue
            if not sound or crc32(payload, (seq ^ seq >> 32 ^ length) & _CRC_MASK) != crc:
                if self._suspect != pos:
                    self._suspect = pos  # perhaps only not visible yet: look again next time
                    break
                pos = self._next_sound_position(pos, head)
                self._skipping = True
                continue
            if size > most_bytes and records:
                break
            if seq != next_seq:
                self._count_missed(seq - next_seq)
            self.next_seq = next_seq = seq + 1
            pos += size + 23 & ~7
            records.append(Record(payload, seq, pos, length != size))
            most_bytes -= size
        self._pos = pos
        if self._skipping and pos >= head:  # damage up to the very end
            self._count_missed(max(0, words[_NEXT_SEQ] - self.next_seq))
            self.next_seq = max(self.next_seq, words[_NEXT_SEQ])
        return records

    def _count_missed(self, missed: int) -> None:
        if self._skipping:
            self.damaged += missed
            self._skipping = False
        else:
            self.overwritten += missed

    def _next_sound_position(self, pos: int, head: int) -> int:
        """The next position after a damaged record where a whole record begins, or `head`."""
        data, capacity = self._data, self._capacity
        first, last = self.next_seq, self._words[_NEXT_SEQ]
        for candidate in range(pos + 8, head, 8):
            at = candidate % capacity
            room = capacity - at
            if room < 16:
                continue
            length, crc, seq = _RECORD.unpack_from(data, at)
            size = length & _LENGTH_MASK
            if first <= seq < last and size <= room - 16:
                payload = data[at + 16 : at + 16 + size]
                if crc32(payload, (seq ^ seq >> 32 ^ length) & _CRC_MASK) == crc:
                    return candidate
                self._work -= size
                if self._work < 0:
                    break
        return head

    def settle(self, record: Record) -> None:
        """Everything up to and including `record` is dealt with and need not be read again."""
        self._words[_READ] = record.end
        self._words[_READ_SEQ] = record.seq + 1
