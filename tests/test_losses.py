"""What was lost before it came to a ring of this process: counted here, and told to the API."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sluice.testing import IngestServer
from tests.doubles import run_python
from tests.pools.timeline import drops_reported

HEADER = """
import json, os, sys
import celery, sluice, sluice.folder
sluice.folder.FOLDER_LIMIT = int(sys.argv[1])
sluice.init(flush_interval=0.05, buffer_bytes=int(sys.argv[2]), shutdown_timeout=30)
app = celery.Celery(broker="memory://")
@app.task
def task(): pass
client = sluice._client
"""
#: Sends so many tasks and is killed before it delivers any.
KILLED = """
pid = os.fork()
if not pid:
    client.start_sender = lambda: None
    for _ in range(int(sys.argv[3])): task.delay()
    os.kill(os.getpid(), 9)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -9
"""
#: A task sent while another thread is in the middle of making the ring.
TOO_SOON = """
token = client._opening.pop()
task.delay()
client._opening.append(token)
"""
#: Delivers until nothing is left in the folder but its own ring, and says its counts.
HEIR = """
import time
task.delay()
until = time.monotonic() + 20
while len(os.listdir(os.environ["SLUICE_SPOOL_DIR"])) > 1 and time.monotonic() < until:
    time.sleep(0.05)
task.delay()
assert sluice.flush(10)
stats = sluice.stats()
assert stats.captured == stats.delivered + stats.dropped + stats.pending, stats
print(json.dumps([stats.captured, stats.delivered, stats.pending, stats.dropped_by]))
"""
#: Sends a task, and has a child that sends another.
FORK = """
task.delay()
if os.fork() == 0:
    task.delay()
    sys.exit()
assert os.wait()[1] == 0
"""
RING = 64 * 1024
ROOMY = 1 << 30


@pytest.fixture
def script(ingest: IngestServer, spool_dir: os.PathLike[str]) -> Callable[..., str]:
    def run(code: str, *args: object) -> str:
        env = {"SLUICE_API_URL": ingest.url, "SLUICE_SPOOL_DIR": str(spool_dir)}
        return run_python(HEADER + code, *map(str, args), **env).stdout

    return run


def counts(output: str) -> tuple[int, int, int, dict[str, int]]:
    captured, delivered, pending, dropped_by = json.loads(output)
    return captured, delivered, pending, dropped_by


def test_what_a_killed_process_had_overwritten_is_told_by_the_next(
    script: Callable[..., str], ingest: IngestServer
) -> None:
    script(KILLED, ROOMY, RING, 1_000)
    captured, delivered, pending, dropped_by = counts(script(HEIR, ROOMY, RING))
    assert (captured, pending) == (1_002, 0)
    assert set(dropped_by) == {"overwritten"}
    assert 0 < dropped_by["overwritten"] == 1_002 - delivered
    assert len(ingest.events()) == delivered
    assert drops_reported(ingest.events()) == dropped_by["overwritten"]


def test_what_went_to_make_room_is_told(
    script: Callable[..., str], ingest: IngestServer, spool_dir: os.PathLike[str]
) -> None:
    script(KILLED, ROOMY, RING, 30)
    script(KILLED, ROOMY, RING, 20)
    assert len(list(Path(spool_dir).iterdir())) == 2
    output = script(HEIR, 2 * RING, RING)  # room for one beside its own
    assert counts(output) == (52, 22, 0, {"no_room": 30})
    assert drops_reported(ingest.events()) == 30


def test_a_script_that_ends_leaves_what_others_left_to_who_has_time(
    script: Callable[..., str], ingest: IngestServer, spool_dir: os.PathLike[str]
) -> None:
    script(KILLED, ROOMY, RING, 30)
    script("task.delay()", ROOMY, RING)
    assert len(ingest.events()) == 1
    assert len(list(Path(spool_dir).iterdir())) == 1


def test_what_came_while_another_thread_made_the_ring_is_told(
    script: Callable[..., str], ingest: IngestServer
) -> None:
    output = script(TOO_SOON + HEIR, ROOMY, RING)
    assert counts(output) == (3, 2, 0, {"no_buffer": 1})
    assert drops_reported(ingest.events()) == 1


def test_a_forked_process_does_not_tell_of_its_parents_losses(
    script: Callable[..., str], ingest: IngestServer
) -> None:
    script(TOO_SOON + FORK, ROOMY, RING)
    assert len(ingest.events()) == 2
    assert drops_reported(ingest.events()) == 1
