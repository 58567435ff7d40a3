"""The folder of rings: private, bounded, on pages that exist; and what happens where it is not."""

from __future__ import annotations

import fcntl
import gc
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import sluice.folder
import sluice.spool
from sluice.folder import default_folder
from sluice.ring import Reader, Ring
from sluice.spool import NO_FOLDER, STRANGE, Spool
from tests.doubles import run_python
from tests.harness import CONNECTION_ID, missing

SIZE = 64 * 1024
LINUX = sys.platform == "linux"
pytestmark = pytest.mark.skipif(not LINUX, reason="elsewhere rings are always in plain memory")


class Folder:
    """A spool over a folder, and what it said."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.said: list[str] = []
        self.spool = Spool(path, CONNECTION_ID, lambda _, text: self.said.append(text))

    def create(self, size: int = SIZE) -> Ring:
        return self.spool.create(size, writer_pid=os.getpid())

    def files(self) -> list[str]:
        return sorted(entry.name for entry in self.path.iterdir())


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "rings")


def orphan(folder: Folder, age: int, events: int = 0) -> Path:
    """The file of a ring whose process is gone; larger `age`: older."""
    ring = folder.create()
    for _ in range(events):
        ring.append(b"x" * 100)
    path = folder.spool.path_of(ring)
    ring.close()  # the lock goes with the last mapping
    os.utime(path, (1_000_000 - age, 1_000_000 - age))
    return path


def assert_works(ring: Ring) -> None:
    assert ring.append(b"payload") is False
    assert [record.payload for record in Reader(ring).read(10, 1000)] == [b"payload"]


# --- a file ---------------------------------------------------------------------------------------


def test_a_ring_is_a_private_file_in_a_private_folder(folder):
    before = os.umask(0)
    try:
        ring = folder.create()
    finally:
        os.umask(before)
    path = folder.spool.path_of(ring)
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.stat().st_size == SIZE
    assert path.name == f"{CONNECTION_ID.replace('-', '')}-{ring.ring_id:016x}.ring"
    assert folder.said == []
    assert_works(ring)


def test_what_is_written_is_in_the_file(folder):
    ring = folder.create()
    ring.append(b"to be found after a kill")
    assert b"to be found after a kill" in folder.spool.path_of(ring).read_bytes()


def test_the_space_of_a_ring_is_reserved_when_it_is_made(folder):
    path = folder.spool.path_of(folder.create(4 * SIZE))
    assert path.stat().st_blocks * 512 >= 4 * SIZE


def test_a_ring_knows_its_writer_and_every_ring_has_a_number_of_its_own(folder):
    rings = [folder.spool.create(SIZE, writer_pid=pid) for pid in (0, 4242)]
    assert [ring.writer_pid for ring in rings] == [0, 4242]
    assert len({ring.ring_id for ring in rings}) == 2
    assert all(0 < ring.ring_id < 2**63 for ring in rings)


def test_missing_folders_above_are_made(tmp_path):
    folder = Folder(tmp_path / "a" / "b" / "rings")
    assert folder.spool.path_of(folder.create()) is not None
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700


def test_the_one_descriptor_of_a_ring_is_not_inherited_by_other_programs(folder):
    ring = folder.create()
    path = folder.spool.path_of(ring)
    gc.collect()  # what other tests have left may have some too
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    ours = [int(link.name) for link in links if link.readlink() == path]
    assert [os.get_inheritable(descriptor) for descriptor in ours] == [False]


def test_unlink_removes_the_file_and_leaves_the_memory(folder):
    ring = folder.create()
    folder.spool.unlink(ring)
    assert folder.files() == []
    assert folder.spool.path_of(ring) is None
    assert_works(ring)
    folder.spool.unlink(ring)


def test_discard_removes_the_file_and_whoever_counts_may_go_on(folder):
    ring = folder.create()
    folder.spool.discard(ring)
    assert folder.files() == []
    assert ring.captured == 0


def test_a_file_that_somebody_removed_is_no_error(folder):
    ring = folder.create()
    folder.spool.path_of(ring).unlink()
    folder.spool.discard(ring)


# --- no file --------------------------------------------------------------------------------------


def plain_memory(folder: Folder) -> str:
    """Expect two rings in memory, that work, and one text; return it."""
    for _ in range(2):
        ring = folder.create()
        assert folder.spool.path_of(ring) is None
        assert_works(ring)
        folder.spool.unlink(ring)
        folder.spool.discard(ring)
    (text,) = folder.said
    assert "in memory only" in text
    assert "lost if this process is killed" in text
    return text


@pytest.mark.parametrize("mode", [0o701, 0o710, 0o740, 0o707, 0o777, 0o1777])
def test_a_folder_that_is_open_to_others_is_not_used(folder, mode):
    folder.path.mkdir()
    folder.path.chmod(mode)
    assert "chmod 700" in plain_memory(folder)
    assert folder.files() == []


def test_a_folder_of_another_user_is_not_used(folder, monkeypatch):
    folder.path.mkdir(mode=0o700)
    me = os.getuid()
    monkeypatch.setattr("sluice.folder.os.getuid", lambda: me + 1)
    assert "belongs to another user" in plain_memory(folder)
    assert folder.files() == []


def test_a_link_to_a_folder_is_not_followed(folder, tmp_path):
    real = tmp_path / "real"
    real.mkdir(mode=0o700)
    folder.path.symlink_to(real)
    assert "is not a folder" in plain_memory(folder)
    assert list(real.iterdir()) == []


def test_a_file_in_the_place_of_the_folder_is_left_alone(folder):
    folder.path.write_text("mine")
    assert "is not a folder" in plain_memory(folder)
    assert folder.path.read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_said_by_name(tmp_path):
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in plain_memory(Folder(tmp_path / "file" / "rings"))


def test_no_folder_at_all_is_memory():
    assert "no tmpfs" in plain_memory(Folder(None))


def test_a_platform_that_cannot_reserve_space_gets_memory(folder, monkeypatch):
    monkeypatch.delattr("sluice.spool.os.posix_fallocate")
    assert "cannot reserve space" in plain_memory(folder)
    assert not folder.path.exists()


@pytest.mark.parametrize("step", ["fcntl.flock", "os.posix_fallocate", "mmap.mmap"])
def test_a_file_that_failed_half_way_is_not_left_behind(folder, monkeypatch, step):
    real = sluice.spool.mmap.mmap

    def fail(descriptor, *args):
        if descriptor == -1:
            return real(descriptor, *args)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"sluice.spool.{step}", fail)
    assert "No space left on device" in plain_memory(folder)
    assert folder.files() == []


# --- a full file system ---------------------------------------------------------------------------


@pytest.fixture
def small_tmpfs(tmp_path):
    """A tmpfs of one MiB, full but for 100 KiB."""
    mount = tmp_path / "small"
    mount.mkdir()
    done = (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", str(mount)],
            capture_output=True,
            check=False,
        )
        if os.getuid() == 0
        else None
    )
    if done is None or done.returncode != 0:
        missing("Only root may mount a small tmpfs")
    try:
        (mount / "filler").write_bytes(b"x" * 924 * 1024)
        yield mount
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)


FILL_A_RING = """
import sys
from pathlib import Path
from sluice.spool import Spool

said = []
spool = Spool(Path(sys.argv[1]), "6f1f64a7", lambda kind, text: said.append(text))
ring = spool.create(256 * 1024, writer_pid=1)
for _ in range(1000):
    ring.append(b"x" * 1000)
print("file" if spool.path_of(ring) else "memory", *said)
"""
DO_NOT_RESERVE = """
import os
os.posix_fallocate = lambda descriptor, start, size: os.ftruncate(descriptor, size)
"""


def test_a_full_tmpfs_kills_nobody(small_tmpfs):
    done = run_python(FILL_A_RING, str(small_tmpfs))  # a SIGBUS is an exit code of its own
    assert done.stdout.startswith("memory ")
    assert "No space left on device" in done.stdout
    assert [entry.name for entry in small_tmpfs.iterdir()] == ["filler"]


def test_a_full_tmpfs_would_kill_whoever_did_not_reserve(small_tmpfs):
    """The fact behind the design: without the reservation the same program is gone."""
    with pytest.raises(AssertionError, match=f"exit code {-signal.SIGBUS}"):
        run_python(DO_NOT_RESERVE + FILL_A_RING, str(small_tmpfs))


# --- the limit ------------------------------------------------------------------------------------


@pytest.fixture
def three(monkeypatch):
    """There is room for three small rings in a folder."""
    monkeypatch.setattr(sluice.folder, "FOLDER_LIMIT", 3 * SIZE)


def test_the_oldest_orphans_make_room(folder, three):
    middle, oldest, youngest = orphan(folder, 2), orphan(folder, 3), orphan(folder, 1)
    ring = folder.create()
    assert not oldest.exists()
    assert middle.exists()
    assert youngest.exists()
    assert folder.spool.path_of(ring) is not None
    assert folder.said == []


def test_what_has_nothing_more_to_tell_goes_first(folder, three):
    """The rings of children, most of the time; or the dead worker's would go, which is large."""
    oldest, killed, empty = orphan(folder, 9, events=1), orphan(folder, 5), orphan(folder, 1)
    killed.with_suffix(".alive").write_bytes(b"{}")
    first = folder.create()
    assert [path.exists() for path in (oldest, killed, empty)] == [True, True, False]
    folder.create()
    assert folder.spool.path_of(first).exists()
    assert [path.exists() for path in (oldest, killed)] == [False, True]


def test_what_lies_beside_no_ring_goes_when_there_is_no_room(folder, three):
    held = [folder.create() for _ in range(3)]
    stem = folder.spool.path_of(held[0]).with_suffix("").name[:-1]
    kept, left = [], []
    for digit, ending in zip("024", ("alive", "new", "making"), strict=True):  # no ring is even
        old = folder.path / f"{stem}{digit}.{ending}"
        old.write_bytes(b"{}")
        os.utime(old, (1, 1))
        left.append(old)
    for name in ("something.alive", f"{stem}a.alive", held[1] and "notes.txt"):
        kept.append(folder.path / name)
        kept[-1].write_bytes(b"{}")
    folder.create()
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in kept), "another's, or of this minute"


def test_as_many_orphans_go_as_must(folder, three):
    paths = [orphan(folder, age) for age in (3, 2, 1)]
    ring = folder.create(2 * SIZE)
    assert [path.exists() for path in paths] == [False, False, True]
    assert folder.spool.path_of(ring) is not None


def test_the_events_that_go_to_make_room_are_counted_and_told(folder, three):
    """Also those that were overwritten there: nobody else will say so."""
    paths = [orphan(folder, age, events) for age, events in ((3, 4), (2, 2_000), (1, 50))]
    folder.create(2 * SIZE)
    assert [path.exists() for path in paths] == [False, False, True]
    assert folder.spool.removed == 2_004
    (text,) = folder.said
    assert text == f"2004 events that ended processes left in {folder.path} went to make room"


def test_what_was_delivered_or_is_no_ring_counts_nothing(folder, three):
    done = folder.create()
    path = folder.spool.path_of(done)
    done.append(b"delivered")
    reader = Reader(done)
    reader.settle(reader.read(1, 1000)[0])
    done.close()
    strange, short = orphan(folder, 2), orphan(folder, 1)
    strange.write_bytes(b"x" * SIZE)
    short.write_bytes(b"")
    os.utime(short, (1, 1))  # it takes no room: once there is some, it would stay
    folder.create(3 * SIZE)
    assert not any(one.exists() for one in (path, strange, short))
    assert folder.spool.removed == 0
    assert folder.said == []


def test_who_finds_that_another_was_quicker_counts_nothing(folder, three, monkeypatch):
    """Both make room; one waits for the lock while the other removes the file."""
    lock = fcntl.flock
    paths = [orphan(folder, age, events=5) for age in (3, 2, 1)]

    def too_late(descriptor: int, operation: int) -> None:
        paths[0].unlink(missing_ok=True)
        lock(descriptor, operation)

    monkeypatch.setattr("sluice.folder.fcntl.flock", too_late)
    ring = folder.create()
    assert folder.spool.path_of(ring) is not None
    assert [path.exists() for path in paths] == [False, True, True]
    assert folder.spool.removed == 0


def test_nothing_goes_for_a_ring_that_is_larger_than_the_folder_may_be(folder, three):
    paths = [orphan(folder, age, events=5) for age in (2, 1)]
    assert folder.spool.path_of(folder.create(4 * SIZE)) is None
    assert all(path.exists() for path in paths)
    assert folder.spool.removed == 0
    (text,) = folder.said
    assert f"a ring of {4 * SIZE} bytes is more than all" in text


def test_nothing_goes_where_it_would_not_make_enough_room(folder, three):
    held = folder.create(2 * SIZE)
    left = orphan(folder, 1, events=5)
    assert folder.spool.path_of(folder.create(2 * SIZE)) is None
    assert left.exists()
    assert folder.spool.path_of(held).exists()
    assert folder.spool.removed == 0


def test_what_went_is_counted_also_where_the_next_one_could_not_go(folder, three, monkeypatch):
    """Somebody takes the right to remove files away in the middle of it."""
    paths = [orphan(folder, age, events=5) for age in (2, 1)]
    remove = sluice.folder.is_removed
    monkeypatch.setattr(sluice.folder, "is_removed", lambda path: path != paths[1] and remove(path))
    assert folder.spool.path_of(folder.create(3 * SIZE)) is None
    assert [path.exists() for path in paths] == [False, True]
    assert folder.spool.removed == 5


def test_orphans_stay_while_there_is_room(folder, three):
    paths = [orphan(folder, age) for age in (1, 2)]
    folder.create()
    assert all(path.exists() for path in paths)


def test_a_ring_in_use_never_makes_room_however_old_it_is(folder, three):
    held = folder.create()
    path = folder.spool.path_of(held)
    os.utime(path, (1, 1))
    orphans = [orphan(folder, age) for age in (1, 2)]
    folder.create()
    assert path.exists()
    assert [one.exists() for one in orphans] == [True, False]
    assert_works(held)


def test_a_folder_full_of_rings_in_use_means_memory(folder, three):
    held = [folder.create() for _ in range(3)]
    ring = folder.create()
    assert folder.spool.path_of(ring) is None
    assert_works(ring)
    assert all(folder.spool.path_of(one).exists() for one in held)
    (text,) = folder.said
    assert f"whose processes live take {3 * SIZE} bytes and are 3; all may take {3 * SIZE} " in text


def test_the_number_of_files_has_a_limit_too(folder, monkeypatch):
    monkeypatch.setattr(sluice.folder, "MOST_FILES", 3)
    left = [orphan(folder, age) for age in (2, 1)]
    held = [folder.create(), folder.create()]
    assert [path.exists() for path in left] == [False, True]
    held.append(folder.create())
    assert [path.exists() for path in left] == [False, False]
    assert folder.spool.path_of(folder.create()) is None
    assert all(folder.spool.path_of(one).exists() for one in held)
    (text,) = folder.said
    assert "and are 3; all may" in text


def test_the_sign_of_life_goes_with_its_ring(folder, three):
    oldest = orphan(folder, 3)
    oldest.with_suffix(".alive").write_bytes(b"{}")
    for age in (1, 2):
        orphan(folder, age, events=1)
    folder.create()
    assert not oldest.with_suffix(".alive").exists()


@pytest.mark.parametrize("number", [0, 7])
def test_no_ring_takes_the_place_of_another(folder, monkeypatch, number):
    """Should chance ever give the same name twice, or none."""
    monkeypatch.setattr("sluice.spool.secrets.randbits", lambda _: number)
    first = folder.create()
    path = folder.spool.path_of(first)
    assert_works(first)
    first.append(b"more")
    second = Folder(folder.path).create()
    assert_works(second)
    assert path.exists()
    assert first.next_seq == 2


def test_the_limit_is_half_of_a_small_file_system(folder, monkeypatch):
    real = os.statvfs

    def small(path):
        facts = real(path)
        return os.statvfs_result((facts.f_bsize, SIZE, 4, *facts[3:]))

    monkeypatch.setattr("sluice.folder.os.statvfs", small)
    rings = [folder.create() for _ in range(3)]
    assert [folder.spool.path_of(ring) is not None for ring in rings] == [True, True, False]


def test_rings_of_other_connections_count_and_go_as_well(folder, three):
    other = Folder(folder.path)
    other.spool = Spool(folder.path, "00000000-0000", lambda _, text: other.said.append(text))
    oldest = orphan(other, 9, events=3)
    for age in (1, 2):
        orphan(folder, age, events=1)
    folder.create()
    assert not oldest.exists()
    assert folder.spool.removed == 0, "theirs are not reported to our connection"
    assert "3 events" in folder.said[0]


def test_files_that_are_no_rings_are_left_alone(folder, three, tmp_path):
    folder.path.mkdir(mode=0o700)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"x" * 5 * SIZE)
    ours = "00000000-0000000000000001.ring"
    others = [folder.path / name for name in ("notes.txt", "x.ring", ours + ".bak", ours)]
    for path in others[:3]:
        path.write_bytes(b"x" * 5 * SIZE)
    others[3].symlink_to(elsewhere)
    ring = folder.create()
    assert folder.spool.path_of(ring) is not None
    assert all(path.exists() for path in others)


def test_a_file_that_vanishes_while_the_folder_is_read_is_no_error(folder, three, monkeypatch):
    gone = [orphan(folder, age) for age in (1, 2, 3)]
    real = sluice.folder.ring_files

    def read(path):
        files = real(path)
        for one in gone:
            one.unlink()
        return files

    monkeypatch.setattr(sluice.folder, "ring_files", read)
    assert_works(folder.create())


# --- who holds a ring -----------------------------------------------------------------------------


def test_a_child_that_inherited_a_ring_holds_it_after_its_parent_let_go(folder):
    run_python(
        """
        import os, sys
        from pathlib import Path
        from sluice.folder import _locked
        from sluice.spool import Spool

        spool = Spool(Path(sys.argv[1]), "6f1f64a7", print)
        ring = spool.create(64 * 1024, writer_pid=0)
        path = spool.path_of(ring)
        read_end, write_end = os.pipe()
        child = os.fork()
        if not child:
            os.close(write_end)
            os.read(read_end, 1)  # until the parent has looked
            os._exit(0)
        ring.close()
        assert _locked(path) is None
        os.close(write_end)
        os.waitpid(child, 0)
        assert _locked(path) is not None
        """,
        str(folder.path),
    )


def test_the_ring_of_a_killed_process_is_nobodys_and_can_be_read(folder):
    code = """
        import os, signal, sys
        from pathlib import Path
        from sluice.spool import Spool

        ring = Spool(Path(sys.argv[1]), "6f1f64a7", print).create(64 * 1024, writer_pid=0)
        ring.append(b"last words")
        os.kill(os.getpid(), signal.SIGKILL)
    """
    with pytest.raises(AssertionError, match="exit code -9"):
        run_python(code, str(folder.path))
    (name,) = folder.files()
    with (folder.path / name).open("r+b") as file:
        ring = Ring(sluice.spool.mmap.mmap(file.fileno(), 0))
    assert [record.payload for record in Reader(ring).read(10, 1000)] == [b"last words"]
    assert sluice.folder._locked(folder.path / name) is not None


def test_the_default_is_a_folder_of_this_user_on_tmpfs():
    if os.access("/dev/shm", os.W_OK | os.X_OK):
        assert default_folder() == Path(f"/dev/shm/sluice-{os.getuid()}")
    else:
        assert default_folder() is None


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_elsewhere_there_is_no_default(monkeypatch, platform):
    monkeypatch.setattr("sluice.folder.sys.platform", platform)
    assert default_folder() is None


def test_what_it_says_is_of_two_kinds(tmp_path):
    """Or one strange file would hide that there is no room, for as long as the process lives."""
    kinds = []
    folder = Folder(tmp_path / "rings")
    folder.spool = Spool(folder.path, CONNECTION_ID, lambda kind, _: kinds.append(kind))
    strange = orphan(folder, age=1)
    strange.write_bytes(b"x" * SIZE)
    assert folder.spool.take_orphan() is None
    folder.path.chmod(0o755)
    folder.create()
    assert kinds == [STRANGE, NO_FOLDER]
