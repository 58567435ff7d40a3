"""Thousands of forks of a process whose sender is busy: no child hangs, nothing captured is lost.

A worker's children write into rings that MAIN reads, whatever their end. Any other child sends for
itself, at an end by `sys.exit`; what one that ends by `os._exit` leaves behind is taken by the next
Sluice process, which here is started for it.
"""

import json
import os
import ssl
import sys

import pytest
import trustme

from sluice.testing import IngestServer
from tests.faults.ledger import event_ids
from tests.harness import environment, wait_for

FORKS = int(os.environ.get("FAULTS_FORKS", "10000"))

HEIR = """
import celery, signal, sluice
sluice.init()
app = celery.Celery(broker="memory://")
@app.task(name="forks.heir")
def heir(): pass
heir.delay()
signal.pause()
"""


@pytest.fixture
def https(tmp_path):
    """An ingest API with TLS, and the environment in which it is trusted."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with IngestServer(tls=context) as server:
        yield server


@pytest.mark.parametrize("kind", ["script", "worker"])
@pytest.mark.parametrize(
    "total",
    [120, pytest.param(FORKS, marks=[pytest.mark.long, pytest.mark.timeout(1800)], id="many")],
)
def test_forks_under_load(kind, total, https, spool_dir, tmp_path, start_process):
    extra = {
        "REQUESTS_CA_BUNDLE": str(tmp_path / "ca.pem"),
        "SLUICE_FLUSH_INTERVAL": "0.1",
        "SLUICE_BUFFER_BYTES": str(256 * 1024),  # of each child of a script, too
        "SLUICE_SHUTDOWN_TIMEOUT": "10",
    }
    env = environment(ingest_url=https.url, spool_dir=spool_dir, extra=extra)
    argv = [sys.executable, "-W", "ignore::DeprecationWarning"]
    script = start_process([*argv, "-m", "tests.faults.forks", kind, str(total)], env=env)
    assert script.wait(60 + total) == 0, script.output()
    report = json.loads(script.lines[-1])
    assert report["wrong"] == [], "each ended in its own way, and in time"
    assert report["flushed"]
    assert report["faults"] == report["dropped"] == 0
    assert report["requests"] >= report["seconds"], "the sender was busy"

    def sent():
        jobs = [event["job"] for event in https.events() if "job" in event]
        return sum(job["name"] == "forks.sent" for job in jobs)

    expected = len(range(0, total, 3))
    if kind == "script":
        heir = start_process([*argv, "-c", HEIR], env=env)
        wait_for(lambda: sent() >= expected, 60, lambda: f"{expected}, and there are {sent()}")
        heir.kill()
    assert sent() == expected
    assert set(event_ids(https).values()) == {1}
    if kind == "worker":
        assert list(spool_dir.iterdir()) == []
    print(f"{total} forks in {report['seconds']:.0f} s, {report['requests']} requests meanwhile")
