"""The buffer is all the memory there is, however many events there are."""

import contextlib
import statistics
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from tests.doubles import run_python
from tests.harness import Worker
from tests.harness.workers import NOBODY_LISTENS

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]
MIB = 1024 * 1024


class Memory(NamedTuple):
    """Resident MiB of a process: its own, and what is mapped from files, others' as well."""

    own: float
    mapped: float

    def less(self, other: "Memory") -> "Memory":
        return Memory(self.own - other.own, self.mapped - other.mapped)


def memory_of(pid: int) -> Memory:
    """Anonymous memory and rings; and code of libraries, which all processes share."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    anonymous, mapped, shared = (
        int(line.split()[1]) / 1024
        for name in ("RssAnon", "RssFile", "RssShmem")
        for line in status.splitlines()
        if line.startswith(name)
    )
    return Memory(anonymous + shared, mapped)


_SCRIPT = """
import resource, sys
import celery.worker, msgspec, requests, tenacity
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
before = resident()
import sluice
sluice.init()
from sluice.events import Job
record = sluice._client.recorder.job
def capture(number):
    for i in range(number):
        record(1e9 + i, Job(external_id=str(i), name="a.task", state="queued", error="x" * 300,
                            extensions={"celeryEvent": "task-sent"}))
capture(100_000)
early = resident()
capture(1_900_000)
late = resident()
stats = sluice.stats()
assert stats.captured == 2_000_000 == stats.delivered + stats.dropped + stats.pending, stats
print(before, early, late)
"""


def test_two_million_events_take_no_more_than_the_first_hundred_thousand(spool_dir):
    done = run_python(_SCRIPT, SLUICE_SPOOL_DIR=str(spool_dir), SLUICE_SHUTDOWN_TIMEOUT="0")
    before, early, late = map(int, done.stdout.split())
    print(f"{(late - early) / MIB:.2f} MiB more, {(late - before) / MIB:.2f} MiB in all")
    assert late - early < MIB
    assert late - before <= 8 * MIB + 10 * MIB


@pytest.mark.pool
@pytest.mark.redis
def test_two_million_events_of_a_prefork_child_take_no_more(redis_broker, start_worker, client):
    start_worker(redis_broker, app="tests.faults.apps", concurrency=1, ingest_url=NOBODY_LISTENS)
    app = client(redis_broker)

    def resident_after(number: int) -> int:
        return app.send_task("faults.capture", (number,)).get(timeout=300)

    early = resident_after(100_000)
    late = resident_after(1_900_000)
    print(f"{(late - early) / MIB:.2f} MiB more in the child")
    assert late - early < MIB


@pytest.mark.pool
@pytest.mark.redis
@pytest.mark.parametrize("api", ["down", "not trusted"])
def test_the_main_process_of_each_pool_takes_its_buffer_and_little_more(
    api, start_fleet, addresses
):
    """With the API down: what a full buffer takes, and two million events on top of that.

    One that is not trusted is asked again and again over TLS, with certifi's certificates at hand.
    """
    url = NOBODY_LISTENS if api == "down" else addresses().url
    without = start_fleet("", init=False, app="tests.harness.apps.basic")
    without.run(500)
    usual = {pool: memory_of(worker.pid) for pool, worker in without.workers.items()}
    without.end()
    fleet = start_fleet(url)
    fleet.run(500)
    early = fleet.capture(100_000)
    taken = {
        pool: memory_of(worker.pid).less(usual[pool]) for pool, worker in fleet.workers.items()
    }
    for _ in range(19):
        late = fleet.capture(100_000)
    for pool, memory in taken.items():
        print(
            f"{pool}, API {api}: {memory.own:.1f} MiB of MAIN's own, 8 of them the buffer, and"
            f" {memory.mapped:.1f} of files that are mapped;"
            f" {(late[pool] - early[pool]) / MIB:+.2f} after two million events"
        )
    for pool, memory in taken.items():
        assert memory.own <= 8 + 10, pool
        assert late[pool] - early[pool] < MIB, pool
    assert all(stats["adds_up"] for stats in fleet.stats().values())


@pytest.mark.pool
@pytest.mark.redis
@pytest.mark.parametrize(
    ("age", "limit"),
    # What it takes, and no more; the goal is 1.5 (docs/reliability.md says why it is not reached).
    # One that replaces another is forked from a MAIN that has loaded the sender's modules by then.
    [((), 2.2), (("--max-tasks-per-child=20",), 3.0)],
    ids=["first", "replaced"],
)
def test_what_sluice_takes_in_a_prefork_child(
    age, limit, redis_broker, start_worker, client, ingest
):
    """What ten more children add to the memory of a worker; a page that is shared counts once."""
    app = client(redis_broker)

    def size(worker: Worker) -> int:
        found = 0
        for process in (psutil.Process(worker.pid), *worker.children()):
            with contextlib.suppress(psutil.NoSuchProcess):  # it has just been replaced
                found += process.memory_full_info().pss
        return found

    def total(children: int, init: bool) -> float:
        worker = start_worker(
            redis_broker,
            concurrency=children,
            args=age,
            ingest_url=ingest.url,
            init=init,
            loglevel="INFO",
        )
        sizes = []
        for done in range(1, 31):  # in turns, so that every child gets its share
            for _ in range(2 * children):  # each sends one more
                app.send_task("basic.sends_others")
            worker.wait_line("succeeded", 30, count=done * 4 * children)
            sizes.append(size(worker))
        assert worker.stop().code == 0
        return statistics.median(sizes[-15:])  # some are young, where they are replaced

    with_sluice, without = ((total(12, init) - total(2, init)) / 10 for init in (True, False))
    print(f"{(with_sluice - without) / MIB:.2f} MiB in a child, whose own is {without / MIB:.1f}")
    assert with_sluice - without <= limit * MIB
