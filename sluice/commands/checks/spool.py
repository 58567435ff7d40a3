"""The folder of rings: could a worker of this user keep its events there."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Final

from sluice import folder as files
from sluice.commands.checks import Check
from sluice.config import Settings
from sluice.folder import NoFolder

_MIB: Final = 1024 * 1024
_MOUNTS: Final = Path("/proc/self/mountinfo")
_NAME: Final = "spool folder"
_MEMORY: Final = "events wait in memory only, and are lost if the process is killed"


def look(settings: Settings) -> Check:
    """Look, and leave the folder as it was: one that is made for this goes again.

    It would be this user's, and the worker's user may be another.
    """
    folder = Path(settings.spool_dir) if settings.spool_dir else files.default_folder()
    missing = _missing(folder) if folder is not None else []
    try:
        found = files.checked(folder)
        try:
            return _examined(found, settings.buffer_bytes)
        finally:
            with contextlib.suppress(OSError):  # somebody has begun to use it
                for each in missing:
                    each.rmdir()
    except (NoFolder, OSError) as error:
        return Check(_NAME, "failed", f"{files.reason(error)}: {_MEMORY}", _fix(folder))


def _missing(folder: Path) -> list[Path]:
    """The folder and those above it that are not there, from the innermost."""
    return [each for each in (folder, *folder.parents) if not each.exists()]


def _fix(folder: Path | None) -> str:
    other = "set SLUICE_SPOOL_DIR to a folder on tmpfs that only this user can open"
    return other if folder is None else f"run this as the worker's user, or {other}"


def _examined(folder: Path, size: int) -> Check:
    rings = files.ring_files(folder)
    used = sum(ring.size for ring in rings)
    mode = folder.stat().st_mode & 0o777
    kind = _file_system(folder)
    text = (
        f"{folder} ({kind or 'unknown file system'}, mode {mode:o}, of user {os.getuid()}):"
        f" {len(rings)} rings of {used / _MIB:.1f} MiB, a ring of {size / _MIB:g} MiB fits"
    )
    share = files._share(folder)  # noqa: SLF001  just what a worker goes by
    if size > share:
        return Check(
            _NAME,
            "failed",
            f"a ring of {size / _MIB:g} MiB is more than all in {folder} may take"
            f" ({share / _MIB:g} MiB): {_MEMORY}",
            f"set SLUICE_BUFFER_BYTES to {share // 4} or less, or enlarge it (docker: --shm-size)",
        )
    with tempfile.TemporaryFile(dir=folder) as trial:
        os.posix_fallocate(trial.fileno(), 0, size)  # as a ring is made: the space is really there
    if used + size > share or len(rings) >= files.MOST_FILES:
        return Check(
            _NAME,
            "warning",
            f"{text} only in the place of others: what ended processes left goes first",
            "start a worker whose API can be reached: it delivers what they left",
        )
    if kind not in (None, "tmpfs", "ramfs"):
        return Check(
            _NAME,
            "warning",
            f"{text}; a write to a disk can make a task wait",
            "set SLUICE_SPOOL_DIR to a folder on tmpfs, such as one below /dev/shm",
        )
    return Check(_NAME, "ok", text)


def _file_system(folder: Path) -> str | None:
    """The type of the file system that holds a folder; None where that cannot be known.

    By its device, as ``/proc/self/mountinfo`` has it (proc(5)).
    """
    device = folder.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = _MOUNTS.read_text(errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        before, _, behind = line.partition(" - ")
        if before.split()[2:3] == [wanted] and behind:
            return behind.split()[0]
    return None
