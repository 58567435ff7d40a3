"""The folder of rings: where the memory of a ring comes from, and where it goes.

Guarantees
----------
* **Never a SIGBUS.**  A file's space is reserved before it is mapped, and a mapped file is
  never shrunk, only unlinked.
* **Never a disk without being told.**  The default is a folder on tmpfs, whose pages have
  no writeback to wait for.  Where there is none, or no room, or it is not safely ours, the
  ring lives in anonymous shared memory instead: everything but surviving the death of the
  process stays the same, and one line of log says so.
* **Bounded**, see :mod:`sluice.folder`; what went to make room is counted and told.
* **Nothing strange is touched.**  A file that is another user's, open to others, of another
  connection or version, cut off or damaged in its header stays where it is.

A ring file belongs to whoever holds its ``flock``.  The lock is taken on the descriptor
that the mapping keeps open, goes with the last process that has the mapping (a pool child
inherits it), and says nothing about process ids, so that a reused one fools nobody.  A
file that nobody holds is an orphan: `take_orphan` takes its lock and so its place.  It gets
a ring's name when it is locked and has its space, so that nobody takes one that is being made.

Beside the ring of a worker's MAIN lies its sign of life (:mod:`sluice.lifesign`), replaced
in one step and removed at a proper end.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import posix  # eventlet replaces open, read and write in `os`: these never touch a hub
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sluice import folder as files
from sluice.descriptors import above_standard
from sluice.folder import Death, NoFolder, reason
from sluice.lifesign import LifeSign
from sluice.ring import SMALLEST_RING, NotARing, Ring

#: A lack of descriptors or memory, which says nothing of a file.
_PASSING: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM))

#: What is said, by kind.
NO_FOLDER: Final = "no folder"
STRANGE: Final = "strange file"
ROOM: Final = "room made"
GONE: Final = "file gone"


class Spool:
    """Makes rings for one connection, in `folder` if possible.

    `say` gets a kind and a text: `NO_FOLDER`, once, when the folder cannot be used,
    `STRANGE` for each file in it that is left alone, `ROOM` when events went, and `GONE`
    when somebody removed the file of a worker's ring.  Where it answers False, nothing was
    said, and a strange file is told of again.
    """

    def __init__(
        self, folder: Path | None, connection_id: str, say: Callable[[str, str], object]
    ) -> None:
        self.folder = folder
        self._prefix = connection_id.replace("-", "") + "-"
        self._say = say
        self._warned = False
        self._paths: dict[int, Path] = {}
        self._strange: set[Path] = set()
        self.forget()

    def forget(self) -> None:
        """Begin to count anew: what was found so far is another process's to tell."""
        #: Events of this connection that were in rings removed to make room.
        self.removed = 0
        #: And the workers whose rings these were.
        self.deaths: list[Death] = []

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
                    f"events wait in memory only, because {reason(error)};"
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
        if path is not None and not files.is_removed(path):
            self._strange.add(path)  # or it would be an orphan again and again

    def leave_alone(self, ring: Ring, why: str) -> None:
        """The ring is not ours any more, and we do not want it again; its file stays."""
        path = self._paths.pop(ring.ring_id, None)
        if path is not None:
            self._strange.add(path)
            self._leave_alone(path, why)

    def _leave_alone(self, path: Path, why: str) -> bool:
        """Say so.  False: it could not be said now."""
        return self._say(STRANGE, f"{path} is left alone: {why}; it can be deleted") is not False

    def path_of(self, ring: Ring) -> Path | None:
        """The ring's file, or None where it is anonymous."""
        return self._paths.get(ring.ring_id)

    # Signs of life.

    def keep_sign(self, ring: Ring, sign: bytes) -> None:
        """Put `sign` beside the ring's file, in place of the last one.  May fail in silence."""
        path = self.path_of(ring)
        if path is None:
            return
        if not path.exists():
            del self._paths[ring.ring_id]
            text = f"somebody removed {path}: events of this worker are lost if it is killed"
            self._say(GONE, text)
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
                new.replace(files.sign_beside(path))
            else:
                new.unlink()
        except OSError:
            pass  # no room: the last one stays

    def sign_of(self, ring: Ring) -> LifeSign | None:
        """The sign of life of the worker that had this ring, if it did not end properly."""
        path = self.path_of(ring)
        return files.read_sign(path) if path is not None else None

    def remove_sign(self, ring: Ring) -> None:
        """The worker has ended, or its death is reported."""
        path = self.path_of(ring)
        if path is not None:
            files.is_removed(path.with_suffix(".new"))
            files.is_removed(files.sign_beside(path))

    # Orphans.

    def take_orphan(self) -> Ring | None:
        """The oldest ring of this connection that nobody owns; from now on it is ours."""
        try:
            found = sorted(files.ring_files(files.checked(self.folder)))
        except (NoFolder, OSError):
            return None
        for *_, path in found:
            if path in self._strange or not path.name.startswith(self._prefix):
                continue
            try:
                return self._take(path)
            except (BlockingIOError, FileNotFoundError):
                continue  # it is somebody's, or was a moment ago
            except (ValueError, OSError) as error:  # one of them: it is no ring
                if isinstance(error, OSError) and error.errno in _PASSING:
                    continue  # this process has no descriptor or memory left just now
                if self._leave_alone(path, reason(error)):
                    self._strange.add(path)
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
            if not SMALLEST_RING <= facts.st_size <= files.FOLDER_LIMIT:
                raise NotARing(f"a ring does not have {facts.st_size} bytes")
            os.posix_fallocate(descriptor, 0, facts.st_size)  # a hole would be a SIGBUS
            with above_standard():
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
        folder = files.checked(self.folder)
        self._make_room(folder, size)
        path = folder / f"{self._prefix}{ring_id:016x}.ring"
        if path.exists():
            raise FileExistsError(errno.EEXIST, "a ring of this number is there", str(path))
        making = path.with_suffix(".making")
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(making, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.posix_fallocate(descriptor, 0, size)
            with above_standard():
                memory = mmap.mmap(descriptor, size)  # keeps a duplicate, and so the lock
            making.rename(path)
        except BaseException:
            making.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)
        self._paths[ring_id] = path
        return memory

    def _make_room(self, folder: Path, size: int) -> None:
        room = files.Room()
        try:
            files.make_room(folder, size, self._prefix, room)
        finally:
            self.removed += room.own
            self.deaths += room.deaths
            if room.events:
                self._say(
                    ROOM,
                    f"{room.events} events that ended processes left in {folder} went to make room",
                )
