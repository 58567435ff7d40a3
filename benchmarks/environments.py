"""One environment per variant, made once, with the same Celery in all of them.

    python -m benchmarks.environments FOLDER [NAME ...]

The peers cannot share one: two of them have the same import name, and each would be measured
with the others' dependencies installed (sentry-sdk, for one, hooks into whatever it finds).
What they must share is all that is measured beneath them: Celery, kombu, redis, gevent and
eventlet are in every environment, in the versions of ``constraints.txt``, which also pins what
else it names.  What a peer draws in beyond that is pip's choice, and :func:`versions` tells it.

An environment is found again by a hash of what went into it, so that variants which need the
same share one, "nothing" and "nothing, again" down to the paths of their files.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.peers import PEERS, Peer, named
from tests.harness.processes import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

#: What every environment has, whatever runs in it, with the extras that it needs there.
SAME: Final = {"celery": "[redis]", "kombu": "", "redis": "", "gevent": "", "eventlet": ""}

_LAST_LINES: Final = 6


class Unavailable(Exception):
    """A peer cannot be had here; the text says what was tried and what can be done."""


def pins(constraints: str) -> list[str]:
    """The exact versions of :data:`SAME` in the text of a constraints file.

    Raises :class:`ValueError` where one is missing: the variants would not be comparable.
    """
    parts = [line.strip().partition("==") for line in constraints.splitlines()]
    found = {name.lower(): version for name, _, version in parts if version}
    missing = [name for name in SAME if name not in found]
    if missing:
        raise ValueError(f"constraints.txt does not pin {', '.join(missing)}")
    return [f"{name}{extra}=={found[name]}" for name, extra in SAME.items()]


def digest(root: Path, folders: Sequence[str] = ("sluice",), more: str = "") -> str:
    """What an installed checkout depends on: the package's files and how it is built."""
    total = hashlib.sha256(more.encode())
    sources = (path for folder in folders for path in sorted((root / folder).rglob("*.py")))
    for path in [root / "pyproject.toml", *sources]:
        total.update(f"{path.relative_to(root)}\0".encode())
        total.update(path.read_bytes())
    return total.hexdigest()


def key(peer: Peer, constraints: str, python_version: str, checkout: str = "") -> str:
    """The name of a peer's environment: another one wherever something else is installed.

    `checkout` is the :func:`digest` of the tree, and counts only for who installs it.
    """
    parts = [
        python_version,
        pins(constraints),
        constraints,
        sorted(peer.requirements),
        checkout if peer.checkout else "",
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


class Environments:
    """The environments in one folder, made when they are asked for.

    `python` is the interpreter that they are made with, this one by default.
    """

    def __init__(self, folder: Path, *, python: str = sys.executable, root: Path = ROOT) -> None:
        self.folder = folder.resolve()  # workers are started in another one
        self._python = python
        self._root = root
        self._constraints = root / "constraints.txt"
        self._version = _version(python)

    def __repr__(self) -> str:
        return f"<Environments {self.folder} Python {self._version}>"

    def path(self, peer: Peer) -> Path:
        """Where the peer's environment is, or would be."""
        checkout = digest(self._root) if peer.checkout else ""
        constraints = self._constraints.read_text()
        name = _first_alike(peer).name
        return self.folder / f"{name}-{key(peer, constraints, self._version, checkout)}"

    def python(self, peer: Peer) -> Path:
        """The interpreter of the peer's environment, which is made if it is not there.

        Takes some seconds to a minute then.  Raises :class:`Unavailable`.
        """
        path = self.path(peer)
        python = path / "bin" / "python"
        self.folder.mkdir(parents=True, exist_ok=True)
        with _locked(self.folder / ".lock"):
            if not (path / ".ready").exists():
                shutil.rmtree(path, ignore_errors=True)
                self._make(peer, path)
                (path / ".ready").write_text("")
        return python

    def all(self, peers: Iterable[Peer]) -> tuple[dict[str, Path], dict[str, str]]:
        """The interpreters by name, and why those that are missing could not be made."""
        pythons, failures = {}, {}
        for peer in peers:
            try:
                pythons[peer.name] = self.python(peer)
            except Unavailable as why:
                failures[peer.name] = str(why)
        return pythons, failures

    def _make(self, peer: Peer, path: Path) -> None:
        wanted = [*pins(self._constraints.read_text()), *peer.requirements]
        if peer.checkout:
            wanted.append(str(self._root))
        pip = [sys.executable, "-m", "pip", "--python", str(path / "bin" / "python")]
        quiet = ["--quiet", "--disable-pip-version-check", "--no-input"]
        for command in (
            # pip's own parts are not in the way of what is measured, and not made nine times.
            [self._python, "-m", "venv", "--without-pip", str(path)],
            [*pip, "install", *quiet, "--constraint", str(self._constraints), *wanted],
        ):
            self._run(peer, command)

    def _run(self, peer: Peer, command: list[str]) -> None:
        done = subprocess.run(
            command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
        )
        if done.returncode:
            said = "\n".join((done.stderr or done.stdout).strip().splitlines()[-_LAST_LINES:])
            raise Unavailable(
                f"{peer.title} is not to be had here: this failed with {done.returncode}:\n"
                f"    {shlex.join(command)}\n{said}\n"
                f"See that pip can install {', '.join(peer.requirements) or 'Celery'} (its "
                "index is its own configuration's business), or leave this variant out."
            )


def versions(python: Path) -> dict[str, str]:
    """Names and versions of all that is installed beside this interpreter."""
    found = {}
    for info in sorted((python.parents[1] / "lib").glob("python*/site-packages/*.dist-info")):
        name, _, version = info.name.removesuffix(".dist-info").rpartition("-")
        found[name.lower().replace("_", "-")] = version
    return found


def _first_alike(peer: Peer) -> Peer:
    """The first variant that has the same installed, so that both have the same paths."""
    return next(
        (
            other
            for other in PEERS
            if (other.requirements, other.checkout) == (peer.requirements, peer.checkout)
        ),
        peer,
    )


def _version(python: str) -> str:
    if python == sys.executable:
        return platform.python_version()
    code = "import platform; print(platform.python_version())"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Only one process makes an environment at a time."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main() -> int:
    """Make what is asked for and say where it is.  1 if something could not be made."""
    parser = argparse.ArgumentParser(description="Make the environments of the variants.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*")
    given = parser.parse_args()
    peers = [named(name) for name in given.names] or PEERS
    pythons, failures = Environments(given.folder).all(peers)
    for name, python in pythons.items():
        print(f"{name}: {python}")
    for why in failures.values():
        print(why, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
