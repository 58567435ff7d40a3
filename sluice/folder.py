"""The folder of rings as files: whether it is safely ours, what is in it, and room for one more.

Guarantees
----------
* **Bounded.**  The rings in it never take more than a share of its file system, nor more than
  so many files.  To make room, files whose process is gone are removed, and of these first
  what has nothing more to tell, then the oldest.  What went with them is told (`Room`), and
  none goes where that would not make enough room.
* **Nothing else is touched** but what this package wrote beside a ring that is gone.

Who holds the ``flock`` of a ring file owns it; who finds it free and takes it may remove it.
"""

from __future__ import annotations

import fcntl
import os
import posix  # eventlet replaces open, read and write in `os`: these never touch a hub
import re
import stat
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from sluice.lifesign import LifeSign, decode_sign
from sluice.ring import PAGE, first_page

#: At most this many bytes of ring files in a folder, and at most half of its file system.
FOLDER_LIMIT: Final = 256 * 1024 * 1024
#: And at most this many files.
MOST_FILES: Final = 1_000
#: And at most this many of them go, and are open, at once.
_MOST_AT_ONCE: Final = 512
#: Bytes of a sign of life that are read.
_SIGN_LIMIT: Final = 1024 * 1024
_TMPFS: Final = Path("/dev/shm")  # noqa: S108  a tmpfs is just what is wanted
_STEM: Final = r"[0-9a-f]{1,32}-[0-9a-f]{16}"
_FILE: Final = re.compile(rf"{_STEM}\.ring")
#: A sign of life, one that is being written, and a ring that is being made.
_BESIDE: Final = re.compile(rf"({_STEM})\.(?:alive|new|making)")
#: Seconds after which what lies beside no ring was left there.
_LEFT_AFTER: Final = 60.0
_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class NoFolder(Exception):
    """The folder cannot be used for ring files; the text says why."""


class RingFile(NamedTuple):
    """A file with a ring's name; they sort by when they were last modified."""

    modified: float
    size: int
    path: Path


class Death(NamedTuple):
    """A killed worker whose ring went to make room: its sign, its ring, and the next number."""

    sign: LifeSign
    ring_id: int
    next_seq: int


@dataclass
class Room:
    """What went to make room: events in all, and of one connection's events and deaths."""

    events: int = 0
    own: int = 0
    deaths: list[Death] = field(default_factory=list)


def default_folder() -> Path | None:
    """``/dev/shm/sluice-<uid>`` where there is such a tmpfs, else None."""
    if sys.platform != "linux" or not os.access(_TMPFS, os.W_OK | os.X_OK):
        return None
    return _TMPFS / f"sluice-{os.getuid()}"


def checked(folder: Path | None) -> Path:
    """The folder, made if it is not there.  Raises :class:`NoFolder` and :class:`OSError`."""
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


def make_room(folder: Path, size: int, prefix: str, room: Room) -> None:
    """See that `size` more bytes stay within the folder's share, or raise :class:`NoFolder`.

    `prefix` is that of the names of one connection's rings; what went is added to `room`.
    """
    limit = _share(folder)
    if size > limit:
        raise NoFolder(f"a ring of {size} bytes is more than all in {folder} may take ({limit})")
    files = ring_files(folder)
    used, count = sum(file.size for file in files), len(files)
    if used + size <= limit and count < MOST_FILES:
        return
    _sweep(folder)
    with ExitStack() as locks:
        going: list[tuple[Path, int]] = []
        for file in sorted(files, key=lambda file: (_tells(file.path), file)):
            descriptor = _locked(file.path)
            if descriptor is None:
                continue
            locks.callback(os.close, descriptor)
            going.append((file.path, descriptor))
            used -= file.size
            count -= 1
            if used + size <= limit and count < MOST_FILES:
                break
            if len(going) == _MOST_AT_ONCE:
                break
        if used + size > limit or count >= MOST_FILES:
            raise NoFolder(
                f"the rings in {folder} whose processes live take {used} bytes and are {count};"
                f" all may take {limit} ({MOST_FILES} files)"
            )
        for path, descriptor in going:
            _remove(path, descriptor, prefix, room)


def _remove(path: Path, descriptor: int, prefix: str, room: Room) -> None:
    """Remove a ring file whose lock we have, with its sign, and note what went with it."""
    held = first_page(os.pread(descriptor, PAGE, 0))
    if os.fstat(descriptor).st_nlink == 0:
        return  # another starter was quicker, and has counted them
    death = read_sign(path) if path.name.startswith(prefix) else None
    if not is_removed(path):
        raise NoFolder(f"{path} cannot be removed to make room")
    is_removed(sign_beside(path))
    room.events += held.unsettled
    if path.name.startswith(prefix):
        room.own += held.unsettled
    if death is not None and held.ring_id:
        room.deaths.append(Death(death, held.ring_id, held.next_seq))


def _locked(path: Path) -> int | None:
    """A descriptor of a ring file that has its lock; None: someone else has, or it is gone."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def ring_files(folder: Path) -> list[RingFile]:
    """Each regular file with a ring's name."""
    found: list[RingFile] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if _FILE.fullmatch(entry.name):
                try:
                    facts = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue  # its owner was quicker
                if stat.S_ISREG(facts.st_mode):
                    found.append(RingFile(facts.st_mtime, facts.st_size, Path(entry.path)))
    return found


def read_sign(ring_file: Path) -> LifeSign | None:
    """The sign of life beside a ring, if there is one that can be read."""
    try:
        descriptor = posix.open(sign_beside(ring_file), _READ)
    except OSError:
        return None
    try:
        return decode_sign(posix.read(descriptor, _SIGN_LIMIT))
    except OSError:
        return None
    finally:
        posix.close(descriptor)


def is_removed(path: Path) -> bool:
    """Remove `path`.  False: it cannot be, for whatever reason."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return False
    return True


def sign_beside(ring_file: Path) -> Path:
    """Where the sign of life of a ring is."""
    return ring_file.with_suffix(".alive")


def reason(error: BaseException) -> str:
    """What is in the way, as the end of a sentence."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'the ring folder'}: {error.strerror}"
    return str(error)


def _share(folder: Path) -> int:
    facts = os.statvfs(folder)
    return min(FOLDER_LIMIT, facts.f_frsize * facts.f_blocks // 2)


def _tells(path: Path) -> bool:
    """Whether something would be lost with a ring: events, or that its worker was killed."""
    try:
        descriptor = os.open(path, _READ)
    except OSError:
        return False
    try:
        return first_page(os.pread(descriptor, PAGE, 0)).unsettled > 0 or sign_beside(path).exists()
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _sweep(folder: Path) -> None:
    """Remove what a killed process left beside rings that are gone, or was just writing."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            found = _BESIDE.fullmatch(entry.name)
            if found and not (folder / f"{found[1]}.ring").exists():
                with suppress(OSError):
                    if time.time() - entry.stat(follow_symlinks=False).st_mtime > _LEFT_AFTER:
                        os.unlink(entry.path)  # noqa: PTH108
