"""A folder for rings, where they are in production."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def ring_folder() -> Iterator[Path]:
    """An empty folder, on tmpfs where there is one; removed with all that is in it."""
    tmpfs = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(
        prefix="sluice-test-", dir=tmpfs, ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder)
