"""The folder of rings: where the memory of a ring comes from, and where it goes.

Guarantees
----------
* **Never a SIGBUS.**  A file's space is reserved before it is mapped, and a mapped file is
  never shrunk, only unlinked.
* **Never a disk without being told.**  The default is a folder on tmpfs, whose pages have
  no writeback to wait for.  Where there is none, or no room, or it is not safely ours, the
  ring lives in anonymous shared memory instead: everything but surviving the death of the
  process stays the same, and one line of log says so.
* **Bounded.**  The folder never takes more than a share of its file system, nor more than
  so many files.  Files whose process is gone are removed first, the oldest first, and the
  events in them are counted.
* **Nothing strange is touched.**  A file that is another user's, open to others, of another
  connection or version, cut off or damaged in its header stays where it is.

A ring file belongs to whoever holds its ``flock``.  The lock is taken on the descriptor
that the mapping keeps open, goes with the last process that has the mapping (a pool child
inherits it), and says nothing about process ids, so that a reused one fools nobody.  A
file that nobody holds is an orphan: `take_orphan` takes its lock and so its place.

Beside the ring of a worker's MAIN lies its sign of life (:mod:`sluice.lifesign`), replaced
in one step and removed at a proper end.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import posix  # eventlet replaces open, read and write in `os`: these never touch a hub
import re
import secrets
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sluice.lifesign import LifeSign, decode_sign
from sluice.ring import PAGE, SMALLEST_RING, NotARing, Ring, unsettled

#: At most this many bytes of ring files in a folder, and at most half of its file system.
FOLDER_LIMIT: Final = 256 * 1024 * 1024
#: And at most this many files.
MOST_FILES: Final = 1_000
#: Bytes of a sign of life that are read.
_SIGN_LIMIT: Final = 1024 * 1024
_TMPFS: Final = Path("/dev/shm")  # noqa: S108  a tmpfs is just what is wanted
_FILE: Final = re.compile(r"[0-9a-f]{1,32}-[0-9a-f]{16}\.ring")


#: What is said, by kind.
NO_FOLDER: Final = "no folder"
STRANGE: Final = "strange file"
ROOM: Final = "room made"


class NoFolder(Exception):
    """The folder cannot be used for ring files; the text says why."""


def default_folder() -> Path | None:
    """``/dev/shm/sluice-<uid>`` where there is such a tmpfs, else None."""
    if sys.platform != "linux" or not os.access(_TMPFS, os.W_OK | os.X_OK):
        return None
    return _TMPFS / f"sluice-{os.getuid()}"


class Spool:
    """Makes rings for one connection, in `folder` if possible.

    `say` gets a kind and a text: `NO_FOLDER`, once, when the folder cannot be used,
    `STRANGE`, once for each file in it that is left alone, and `ROOM` when events went.
    """

    def __init__(
        self, folder: Path | None, connection_id: str, say: Callable[[str, str], None]
    ) -> None:
        self.folder = folder
        self._prefix = connection_id.replace("-", "") + "-"
        self._say = say
        self._warned = False
        self._paths: dict[int, Path] = {}
        self._strange: set[Path] = set()
        #: Events of this connection that were in rings removed to make room.
        self.removed = 0

    def create(self, size: int, *, writer_pid: int) -> Ring:
        """A new, empty ring of `size` bytes.  `writer_pid` 0: a child that is yet to begin.

        Raises :class:`OSError` only when not even anonymous memory can be had.
        """
        ring_id = secrets.randbits(63) | 1
        try:
            memory = self._map_file(ring_id, size)
        except (NoFolder, OSError) as error:
            if not self._warned:
                self._warned = True
                self._say(
                    NO_FOLDER,
                    f"events wait in memory only, because {_reason(error)};"
                    " they are lost if this process is killed",
                )
            memory = mmap.mmap(-1, size)
        return Ring(memory, ring_id=ring_id, writer_pid=writer_pid)

    def discard(self, ring: Ring) -> None:
        """Remove the ring's file.  The memory goes with the last who looks at it.

        Not before: `sluice.stats()` may be counting on another thread just now.
        """
        self.unlink(ring)

    def unlink(self, ring: Ring) -> None:
        """Remove the ring's file, if it has one; the memory stays."""
        self.remove_sign(ring)
        path = self._paths.pop(ring.ring_id, None)
        if path is not None and not _is_removed(path):
            self._strange.add(path)  # or it would be an orphan again and again

    def leave_alone(self, ring: Ring, why: str) -> None:
        """The ring is not ours any more, and we do not want it again; its file stays."""
        path = self._paths.pop(ring.ring_id, None)
        if path is not None:
            self._leave_alone(path, why)

    def _leave_alone(self, path: Path, why: str) -> None:
        self._strange.add(path)
        self._say(STRANGE, f"{path} is left alone: {why}; it can be deleted")

    def path_of(self, ring: Ring) -> Path | None:
        """The ring's file, or None where it is anonymous."""
        return self._paths.get(ring.ring_id)

    # Signs of life.

    def keep_sign(self, ring: Ring, sign: bytes) -> None:
        """Put `sign` beside the ring's file, in place of the last one.  May fail in silence."""
        path = self.path_of(ring)
        if path is None:
            return
        new = path.with_suffix(".new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            descriptor = posix.open(new, flags, 0o600)
            try:
                complete = posix.write(descriptor, sign) == len(sign)
            finally:
                posix.close(descriptor)
            if complete:
                new.replace(_sign_beside(path))
            else:
                new.unlink()
        except OSError:
            pass  # no room: the last one stays

    def sign_of(self, ring: Ring) -> LifeSign | None:
        """The sign of life of the worker that had this ring, if it did not end properly."""
        path = self.path_of(ring)
        if path is None:
            return None
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            descriptor = posix.open(_sign_beside(path), flags)
        except OSError:
            return None
        try:
            return decode_sign(posix.read(descriptor, _SIGN_LIMIT))
        except OSError:
            return None
        finally:
            posix.close(descriptor)

    def remove_sign(self, ring: Ring) -> None:
        """The worker has ended, or its death is reported."""
        path = self.path_of(ring)
        if path is not None:
            _is_removed(_sign_beside(path))

    # Orphans.

    def take_orphan(self) -> Ring | None:
        """The oldest ring of this connection that nobody owns; from now on it is ours."""
        try:
            files = sorted(_ring_files(self._checked_folder()))
        except (NoFolder, OSError):
            return None
        for *_, path in files:
            if path in self._strange or not path.name.startswith(self._prefix):
                continue
            try:
                return self._take(path)
            except (BlockingIOError, FileNotFoundError):
                continue  # it is somebody's, or was a moment ago
            except (ValueError, OSError) as error:  # one of them: it is no ring
                self._leave_alone(path, _reason(error))
        return None

    def _take(self, path: Path) -> Ring:
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = posix.open(path, flags)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            facts = os.fstat(descriptor)
            if facts.st_ino != path.lstat().st_ino:
                raise FileNotFoundError  # its owner removed it just before we had the lock
            if facts.st_uid != os.getuid() or facts.st_mode & 0o077:
                raise NotARing("it belongs to another user, or is open to others")
            if not SMALLEST_RING <= facts.st_size <= FOLDER_LIMIT:
                raise NotARing(f"a ring does not have {facts.st_size} bytes")
            os.posix_fallocate(descriptor, 0, facts.st_size)  # a hole would be a SIGBUS
            ring = Ring(mmap.mmap(descriptor, facts.st_size))
        finally:
            posix.close(descriptor)
        if f"-{ring.ring_id:016x}." not in path.name:
            raise NotARing("its name is another ring's")
        self._paths[ring.ring_id] = path
        return ring

    # Files.

    def _map_file(self, ring_id: int, size: int) -> mmap.mmap:
        if not hasattr(os, "posix_fallocate"):
            raise NoFolder("this platform cannot reserve space for a file")
        folder = self._checked_folder()
        self._make_room(folder, size)
        path = folder / f"{self._prefix}{ring_id:016x}.ring"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(path, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.posix_fallocate(descriptor, 0, size)
            memory = mmap.mmap(descriptor, size)  # keeps a duplicate, and so the lock
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)
        self._paths[ring_id] = path
        return memory

    def _checked_folder(self) -> Path:
        folder = self.folder
        if folder is None:
            raise NoFolder("this platform has no tmpfs folder (/dev/shm)")
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            pass
        except FileNotFoundError:
            folder.mkdir(mode=0o700, parents=True)
        facts = folder.lstat()
        if not stat.S_ISDIR(facts.st_mode):
            raise NoFolder(f"{folder} is not a folder")
        if facts.st_uid != os.getuid():
            raise NoFolder(f"{folder} belongs to another user")
        if facts.st_mode & 0o077:
            raise NoFolder(f"{folder} is open to other users (chmod 700 it)")
        return folder

    def _make_room(self, folder: Path, size: int) -> None:
        """See that `size` more bytes stay within the folder's share, or raise `NoFolder`."""
        limit = _share(folder)
        files = _ring_files(folder)
        used, count = sum(size for _, size, _ in files), len(files)
        gone = 0
        for _, file_size, path in sorted(files):
            if used + size <= limit and count < MOST_FILES:
                break
            events = _remove_if_nobodys(path)
            if events is not None:
                used -= file_size
                count -= 1
                gone += events
                if path.name.startswith(self._prefix):
                    self.removed += events
        if gone:
            self._say(
                ROOM, f"{gone} events that ended processes left in {folder} went to make room"
            )
        if used + size > limit or count >= MOST_FILES:
            raise NoFolder(
                f"the {count} rings in {folder} take {used} bytes already,"
                f" and may take {limit} ({MOST_FILES} files)"
            )


def _share(folder: Path) -> int:
    facts = os.statvfs(folder)
    return min(FOLDER_LIMIT, facts.f_frsize * facts.f_blocks // 2)


def _ring_files(folder: Path) -> list[tuple[float, int, Path]]:
    """(modified, bytes, path) of each regular file with a ring's name."""
    found: list[tuple[float, int, Path]] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if _FILE.fullmatch(entry.name):
                try:
                    facts = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue  # its owner was quicker
                if stat.S_ISREG(facts.st_mode):
                    found.append((facts.st_mtime, facts.st_size, Path(entry.path)))
    return found


def _remove_if_nobodys(path: Path) -> int | None:
    """Remove a file whose lock nobody holds; the events that went with it.

    None: someone holds it, or it was not to be had.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        events = unsettled(os.pread(descriptor, PAGE, 0))
        if os.fstat(descriptor).st_nlink == 0:
            return 0  # another starter was quicker, and has counted them
        if not _is_removed(path):
            return None
        _is_removed(_sign_beside(path))
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return events


def _is_removed(path: Path) -> bool:
    """Remove `path`.  False: it cannot be, for whatever reason."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return False
    return True


def _sign_beside(ring_file: Path) -> Path:
    return ring_file.with_suffix(".alive")


def _reason(error: BaseException) -> str:
    """What is in the way, as the end of a sentence."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'the ring folder'}: {error.strerror}"
    return str(error)
