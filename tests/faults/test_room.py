"""No room for rings: a worker runs on, says so once, and everything arrives."""

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness import QUIET, missing, wait_for
from tests.pools.timeline import timelines
from tests.pools.waiting import PLAIN, wait_lives

pytestmark = [pytest.mark.pool, pytest.mark.redis]
IN_MEMORY = "Events wait in memory only"
MIB = 1024 * 1024


@pytest.fixture
def tmpfs(tmp_path) -> Iterator[Callable[..., Path]]:
    """Mount a tmpfs of so many bytes, with options; a file system of the test's own."""
    mounted: list[Path] = []

    def mount(size: int, options: str = "rw") -> Path:
        folder = tmp_path / f"tmpfs{len(mounted)}"
        folder.mkdir()
        argv = ["mount", "-t", "tmpfs", "-o", f"size={size},{options}", "none", str(folder)]
        if os.getuid() != 0 or subprocess.run(argv, check=False).returncode:
            missing("Only root may mount a small tmpfs")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def start(redis_broker, start_worker, ingest):
    """Start a prefork worker that has its rings in a folder, and a new child for every task."""

    def start(spool: Path, *args: str, **more):
        return start_worker(
            redis_broker,
            app="tests.faults.apps",
            args=(*QUIET, *(args or ["--max-tasks-per-child=1"])),
            ingest_url=ingest.url,
            spool_dir=spool,
            # Children are mostly replaced before MAIN looks, and so before there is room again.
            extra={"SLUICE_FLUSH_INTERVAL": "1"},
            **more,
        )

    return start


def run_tasks(app, ingest, number: int) -> dict[str, tuple[str, ...]]:
    """Run tasks that send one other each, and see that all of both is told."""
    lives = {app.send_task("faults.send_one").id: PLAIN for _ in range(number)}
    wait_lives(ingest, lives, timeout=40)

    def sent() -> list[str]:
        return [
            line.sent[0]["job"]["parentId"]
            for line in timelines(ingest.events()).values()
            if line.sent
        ]

    wait_for(lambda: set(lives) <= set(sent()), 20, "what the tasks sent")
    return lives


def fill(folder: Path) -> None:
    """Take every byte that is free."""
    with contextlib.suppress(OSError), (folder / "filler").open("ab", buffering=0) as filler:
        while filler.write(b"x" * MIB):
            pass


def assert_ended_well(worker, lines: int) -> None:
    assert worker.stop().code == 0
    assert len(worker.matching(IN_MEMORY)) == lines
    assert not worker.matching("Traceback")
    assert not worker.matching("signal 7")


def test_the_file_system_fills_up_while_the_worker_runs(tmpfs, start, client, redis_broker, ingest):
    folder = tmpfs(24 * MIB)
    worker = start(folder / "rings")
    app = client(redis_broker)
    run_tasks(app, ingest, 4)
    until = time.monotonic() + 60
    while not worker.matching(IN_MEMORY):
        assert time.monotonic() < until
        fill(folder)  # again, if the rings of children that have ended made room meanwhile
        run_tasks(app, ingest, 2)
    fill(folder)
    run_tasks(app, ingest, 6)
    assert_ended_well(worker, lines=1)
    assert worker.matching("No space left on device")


def test_the_file_system_is_full_before_the_worker_starts(
    tmpfs, start, client, redis_broker, ingest
):
    folder = tmpfs(24 * MIB)
    fill(folder)
    worker = start(folder / "rings")
    run_tasks(client(redis_broker), ingest, 4)
    assert_ended_well(worker, lines=1)
    assert worker.matching("No space left on device")


def test_a_folder_of_somebody_elses(tmp_path, start, client, redis_broker, ingest):
    if os.getuid() != 0:
        missing("Only root may give a folder away")
    folder = tmp_path / "rings"
    folder.mkdir(mode=0o700)
    os.chown(folder, 65534, 65534)
    worker = start(folder)
    run_tasks(client(redis_broker), ingest, 4)
    assert_ended_well(worker, lines=1)
    assert list(folder.iterdir()) == []


def test_the_folder_disappears_while_the_worker_runs(tmp_path, start, client, redis_broker, ingest):
    folder = tmp_path / "rings"
    worker = start(folder)
    app = client(redis_broker)
    run_tasks(app, ingest, 4)
    shutil.rmtree(folder)
    run_tasks(app, ingest, 8)
    worker.wait_line("Somebody removed ", 20)
    assert_ended_well(worker, lines=0)


def test_a_file_system_that_is_read_only(tmpfs, start, client, redis_broker, ingest):
    worker = start(tmpfs(MIB, "ro") / "rings")
    run_tasks(client(redis_broker), ingest, 4)
    assert_ended_well(worker, lines=1)
    assert worker.matching("Read-only file system")


@pytest.mark.long
def test_a_hundred_children_and_a_container_of_64_mib(tmpfs, start, client, redis_broker, ingest):
    """Half of it is for rings: that of MAIN and of about fifty children; the others have memory."""
    folder = tmpfs(64 * MIB)
    worker = start(folder / "rings", "--prefetch-multiplier=1", concurrency=100)
    run_tasks(client(redis_broker), ingest, 300)
    used = shutil.disk_usage(folder).used
    assert 24 * MIB < used <= 33 * MIB
    assert_ended_well(worker, lines=1)
    assert list((folder / "rings").iterdir()) == []
