"""Opening a database: whose it is, who can read it, and what is left behind."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy as sa

from sluice.collector import database
from sluice.collector.database import Database
from sluice.collector.options import BadOption, Options
from sluice.collector.schema import facts
from tests.collector.wire import job
from tests.harness import Process, environment, wait_for

#: A collector's database, open until its process is killed.
_HOLDS = """
import sys, time
from pathlib import Path
from sluice.collector import database
from sluice.collector.options import Options
database._MEMORY = Path(sys.argv[1])
one = database.Database(Options())
print("open", one._folder, flush=True)
time.sleep(600)
"""


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the place of tmpfs."""
    folder = tmp_path / "shm"
    folder.mkdir()
    monkeypatch.setattr(database, "_MEMORY", folder)
    return folder


def folders(parent: Path) -> list[Path]:
    return sorted(parent.glob("sluice-dev-*"))


# --- in memory ------------------------------------------------------------------------------------


def test_in_memory_it_has_a_folder_of_its_own_that_goes_with_it(memory):
    one = Database(Options())
    (folder,) = folders(memory)
    assert one.where == "in memory"
    assert mode(folder) == 0o700
    assert {mode(path) for path in folder.iterdir()} == {0o600}
    one.close()
    one.close()
    assert folders(memory) == []


def test_what_a_killed_collector_left_is_removed_and_what_a_living_one_has_is_not(memory):
    killed, living = (
        Process([sys.executable, "-c", _HOLDS, str(memory)], env=environment(), name=name)
        for name in ("killed", "living")
    )
    with killed, living:
        (left,) = killed.wait_line("open")
        (used,) = living.wait_line("open")
        killed.stop(signal.SIGKILL)
        assert len(folders(memory)) == 2
        one = Database(Options())
        found = [str(folder) for folder in folders(memory)]
        assert left.split()[1] not in found
        assert used.split()[1] in found
        assert len(found) == 2
        one.close()
        assert living.running


def test_what_is_not_a_collectors_is_not_swept(memory, tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "lock").touch()
    (memory / "sluice-dev-link").symlink_to(theirs)
    (memory / "sluice-dev-file").touch()
    (memory / "sluice-dev-empty").mkdir()
    (memory / "other").mkdir()
    Database(Options()).close()
    assert (theirs / "lock").exists()
    assert len(list(memory.iterdir())) == 4


def test_a_folder_that_is_being_made_is_not_swept(memory, monkeypatch):
    """Another collector looks between the making of the lock and its being taken."""
    flock = database.fcntl.flock
    seen = []

    def sweeping(descriptor: int, operation: int) -> None:
        if operation == database.fcntl.LOCK_EX:
            monkeypatch.setattr(database.fcntl, "flock", flock)
            database._sweep(memory)
            seen.append(len(folders(memory)))
        flock(descriptor, operation)

    monkeypatch.setattr(database.fcntl, "flock", sweeping)
    one = Database(Options())
    assert seen == [1]
    assert len(folders(memory)) == 1
    one.close()


def test_where_tmpfs_has_no_room_another_folder_is_taken(memory, tmp_path, monkeypatch):
    """As in a container, which has 64 MB there."""
    roomy = tmp_path / "roomy"
    roomy.mkdir()
    free = {memory: 64 * 2**20, roomy: 100 * 2**30}
    monkeypatch.setattr(database.tempfile, "gettempdir", lambda: str(roomy))
    monkeypatch.setattr(
        database.shutil, "disk_usage", lambda path: SimpleNamespace(free=free[Path(path)])
    )
    one = Database(Options())
    assert (len(folders(memory)), len(folders(roomy))) == (0, 1)
    other = Database(Options(max_bytes=10 * 2**20))
    assert (len(folders(memory)), len(folders(roomy))) == (1, 1)
    free[roomy] = 1
    third = Database(Options())
    assert (len(folders(memory)), len(folders(roomy))) == (2, 1)
    for opened in (one, other, third):
        opened.close()


def test_a_system_without_such_a_folder_has_another(tmp_path, monkeypatch):
    monkeypatch.setattr(database, "_MEMORY", tmp_path / "none")
    monkeypatch.setattr(database.tempfile, "gettempdir", lambda: str(tmp_path))
    one = Database(Options())
    assert len(folders(tmp_path)) == 1
    one.close()


# --- in a file ------------------------------------------------------------------------------------


def test_a_file_is_its_owners_alone_and_stays(tmp_path, open_store):
    path = tmp_path / "events.db"
    kept = open_store({"db": path})
    kept.take(job("t", "queued"))
    assert kept.database.where == str(path)
    files = ("events.db", "events.db-wal", "events.db-shm")
    assert {one.name: mode(one) for one in tmp_path.iterdir()} == dict.fromkeys(files, 0o600)
    kept.close()
    assert [one.name for one in tmp_path.iterdir()] == ["events.db"]


def test_a_file_that_is_there_keeps_its_mode(tmp_path):
    path = tmp_path / "events.db"
    path.touch()
    path.chmod(0o644)
    Database(Options(db=path)).close()
    assert mode(path) == 0o644


def test_a_file_of_another_version_is_refused_and_not_touched(tmp_path):
    path = tmp_path / "events.db"
    one = Database(Options(db=path))
    with one.write() as connection:
        connection.execute(facts.update().where(facts.c.name == "version").values(n=999))
    one.close()
    before = path.read_bytes()
    with pytest.raises(BadOption, match=r"version 999, and this collector writes version \d"):
        Database(Options(db=path))
    assert path.read_bytes() == before


@pytest.mark.parametrize("kind", ["text", "folder", "nowhere", "folder in it"])
def test_what_is_no_database_is_refused_with_its_name(tmp_path, kind):
    path = tmp_path / "it"
    if kind == "text":
        path.write_text("this is not a database\n" * 100)
    elif kind == "nowhere":
        path = tmp_path / "no" / "folder"
    else:
        path.mkdir()
    with pytest.raises(BadOption) as found:
        Database(Options(db=path))
    told = str(found.value)
    assert str(path) in told
    assert "\n" not in told
    if kind == "text":
        assert "not a database" in told
        assert path.read_text().startswith("this is not")


def test_the_name_that_sqlite_has_for_memory_is_refused_with_what_to_do():
    with pytest.raises(BadOption, match="Leave it out"):
        Options(db=Path(":memory:"))


def test_a_file_with_tables_of_others_keeps_them(tmp_path):
    path = tmp_path / "mixed.db"
    with sqlite3.connect(path) as theirs:
        theirs.execute("CREATE TABLE theirs (x)")
    theirs.close()
    one = Database(Options(db=path))
    assert "theirs" in sa.inspect(one.reading).get_table_names()
    one.close()


def test_two_open_one_new_file_at_once(tmp_path):
    path = tmp_path / "events.db"
    one, other = Database(Options(db=path)), Database(Options(db=path))
    with other.reading.begin() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(facts)) > 0
    one.close()
    other.close()


# --- both -----------------------------------------------------------------------------------------


def test_the_engine_for_readers_cannot_write(kept):
    with (
        pytest.raises(sa.exc.DBAPIError, match=r"(?i)read.?only"),
        kept.database.reading.begin() as connection,
    ):
        connection.execute(facts.update().values(n=0))
    assert kept.facts()["version"] > 0


def test_a_transaction_that_fails_leaves_nothing(kept):
    def fail() -> None:
        with kept.database.write() as connection:
            connection.execute(facts.update().values(n=77))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert 77 not in kept.facts().values()


def test_readers_do_not_wait_for_who_writes(kept):
    with kept.database.write() as connection:
        connection.execute(facts.update().where(facts.c.name == "bytes").values(n=1))
        assert kept.facts()["bytes"] == 0
    assert kept.facts()["bytes"] == 1


def test_a_closed_one_in_memory_holds_no_descriptor(memory):
    def held() -> set[str]:
        found = set()
        for descriptor in Path("/proc/self/fd").iterdir():
            try:
                found.add(str(descriptor.readlink()))
            except OSError:
                continue
        return {one for one in found if str(memory) in one}

    one = Database(Options())
    assert held()
    one.close()
    wait_for(lambda: not held(), what="no descriptor")
    assert os.listdir(memory) == []
