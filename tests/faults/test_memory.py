"""The buffer is all the memory there is, however many events there are."""

import pytest

from tests.doubles import run_python

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]
MIB = 1024 * 1024

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
