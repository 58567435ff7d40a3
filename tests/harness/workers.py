"""Real Celery workers, as a user starts them: `python -m celery -A app worker -P pool`."""

import json
import os
import socket
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.harness.processes import ROOT, Process

POOLS = ("prefork", "gevent", "eventlet", "threads", "solo")

#: Options of a worker that talks to no other: it starts a second sooner.
QUIET = ("--without-mingle", "--without-gossip")
API_KEY = "sk_test_0123456789abcdef0123456789abcdef"
CONNECTION_ID = "6f1f64a7-6d5e-4f6e-9d0b-2f6f3c1f7a11"
NOBODY_LISTENS = "http://127.0.0.1:9/api"  # connections to the discard port are refused at once

# What a developer may have set, and must not decide how a test ends.
_FOREIGN_PREFIXES = ("CELERY_", "SLUICE_", "TEST_", "PYTEST_")
_FOREIGN = {
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    *("PYTHONWARNINGS", "PYTHONSTARTUP"),
}


def environment(
    broker_url: str = "memory://",
    *,
    result_url: str | None = None,
    ingest_url: str | None = None,
    spool_dir: Path | None = None,
    init: bool = True,
    conf: Mapping[str, Any] | None = None,
    extra: Mapping[str, str | None] | None = None,
) -> dict[str, str]:
    """The environment of a process that imports one of the sample apps.

    Args:
        broker_url: What the app connects to.
        result_url: Its result backend; none without.
        ingest_url: Where Sluice sends to; an address that refuses without.
        spool_dir: SLUICE_SPOOL_DIR; Sluice's own default without.
        init: Whether the app calls `sluice.init()`.
        conf: Celery settings on top of the app's own, in JSON types.
        extra: Variables on top of all these; None removes one.
    """
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_FOREIGN_PREFIXES) and name.upper() not in _FOREIGN
    }
    env |= {
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
        "TEST_BROKER_URL": broker_url,
        "TEST_CONF": json.dumps(dict(conf or {})),
        "SLUICE_TEST_INIT": "1" if init else "0",
        "SLUICE_API_KEY": API_KEY,
        "SLUICE_CONNECTION_ID": CONNECTION_ID,
        "SLUICE_API_URL": ingest_url or NOBODY_LISTENS,
    }
    if result_url:
        env["TEST_RESULT_URL"] = result_url
    if spool_dir:
        env["SLUICE_SPOOL_DIR"] = str(spool_dir)
    for name, value in (extra or {}).items():
        if value is None:
            env.pop(name, None)
        else:
            env[name] = value
    return env


class Worker(Process):
    """A running `celery worker`. `nodename` is what Celery calls it.

    `args` are appended to the command line (`-E`, `-Q`, `--without-gossip`, ...), and `wrap` is a
    command that executes it in its own place; the other keywords are those of `environment`.
    """

    def __init__(
        self,
        broker_url: str,
        *,
        pool: str = "prefork",
        concurrency: int = 2,
        app: str = "tests.harness.apps.basic",
        args: Sequence[str] = (),
        name: str = "",
        loglevel: str = "INFO",
        cwd: Path = ROOT,
        wrap: Sequence[str] = (),
        **env: Any,
    ) -> None:
        name = name or f"{pool}-{uuid.uuid4().hex[:8]}"
        self.pool = pool
        self.nodename = f"{name}@{socket.gethostname()}"
        # `-P pool` in two words: the only spelling, with --pool=, for which Celery patches.
        argv = [*wrap, sys.executable, "-m", "celery", "-A", app, "worker", "-P", pool]
        argv += ["-c", str(concurrency), "-n", f"{name}@%h", "-l", loglevel, *args]
        super().__init__(argv, env=environment(broker_url, **env), cwd=cwd, name=name)

    def wait_ready(self, timeout: float = 30.0) -> "Worker":
        """Wait until the worker says that it takes tasks."""
        self.wait_line(f"{self.nodename} ready.", timeout)
        return self
