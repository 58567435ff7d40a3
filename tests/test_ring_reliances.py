"""What the ring relies on in CPython, the processor and the operating system."""

import dis
import mmap
import multiprocessing
import os
from types import CodeType

import pytest

from sluice.ring import Ring

#: Where CPython looks for signals and lets other threads run: after calls, at backward jumps
#: and at the start of functions.
_CHECKPOINTS = ("CALL", "JUMP_BACKWARD", "RESUME", "SEND", "YIELD")


def instructions(function: CodeType) -> list[dis.Instruction]:
    return [i for i in dis.get_instructions(function) if i.opname != "CACHE"]


def checkpoints(between: list[dis.Instruction]) -> list[str]:
    return [i.opname for i in between if i.opname.startswith(_CHECKPOINTS)]


def test_nothing_comes_between_taking_the_token_and_the_try_that_gives_it_back() -> None:
    code = instructions(Ring.append.__code__)
    taken = next(n for n, i in enumerate(code) if i.opname == "DELETE_SUBSCR")
    protected = [
        entry
        for entry in dis.Bytecode(Ring.append).exception_entries  # type: ignore[attr-defined]
        if entry.start > code[taken].offset
    ]
    begin = min(entry.start for entry in protected)
    between = [i for i in code if code[taken].offset < i.offset < begin]
    assert checkpoints(between) == []


def test_nothing_comes_between_the_stores_that_commit_a_record() -> None:
    code = instructions(Ring._write_side.__code__)
    stores = [n for n, i in enumerate(code) if i.opname in ("STORE_SUBSCR", "DELETE_SUBSCR")]
    head, next_seq, side = stores[-3:]
    assert [code[n].opname for n in (head, next_seq, side)] == [
        "STORE_SUBSCR",
        "STORE_SUBSCR",
        "DELETE_SUBSCR",
    ]
    assert checkpoints(code[head:side]) == []


def test_deleting_the_only_element_of_a_list_is_one_step() -> None:
    token: list[None] = [None]
    del token[0]
    with pytest.raises(IndexError):
        del token[0]


def _count(memory: mmap.mmap, rounds: int) -> None:
    words = memoryview(memory).cast("Q")
    # Each value has eight equal bytes: a store in pieces would show as a mix of two.
    values = [int.from_bytes(bytes([n]) * 8, "little") for n in range(256)]
    for n in range(rounds):
        words[0] = values[n % 256]
    os._exit(0)


def test_a_store_of_a_word_is_seen_whole_by_another_process() -> None:
    memory = mmap.mmap(-1, 4096)
    words = memoryview(memory).cast("Q")
    child = multiprocessing.get_context("fork").Process(target=_count, args=(memory, 1_000_000))
    child.start()
    try:
        while child.is_alive():
            for _ in range(1000):
                assert len(set(words[0].to_bytes(8, "little"))) == 1
    finally:
        child.kill()
        child.join()


def _number_cells(memory: mmap.mmap, rounds: int) -> None:
    words = memoryview(memory).cast("Q")
    for n in range(1, rounds):
        words[64 + n % 64 * 8] = n
        words[0] = n
    os._exit(0)


def test_stores_are_seen_by_another_process_in_the_order_they_were_made() -> None:
    """Promised by x86.  Elsewhere a record's CRC and the second look stand in for it."""
    if os.uname().machine not in ("x86_64", "AMD64"):
        pytest.skip("only x86 promises this")
    memory = mmap.mmap(-1, 8192)
    words = memoryview(memory).cast("Q")
    child = multiprocessing.get_context("fork").Process(
        target=_number_cells, args=(memory, 500_000)
    )
    child.start()
    try:
        while child.is_alive():
            for _ in range(1000):
                head = words[0]
                if head:
                    assert words[64 + head % 64 * 8] >= head
    finally:
        child.kill()
        child.join()
