"""In a patched process the sender is a native thread on unpatched modules, and nobody waits.

Every test runs the probe in a process of its own, over TLS, against a server that is found by
name.
"""

import json
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from sluice.events import Job
from sluice.lifesign import LifeSign, encode_sign
from sluice.notices import Notices
from sluice.recorder import Recorder
from sluice.spool import Spool
from sluice.testing import Answer, IngestServer
from tests.harness import missing
from tests.harness.workers import CONNECTION_ID, environment
from tests.pools.timeline import subject

pytestmark = [pytest.mark.pool, pytest.mark.alone]

#: The longest time the loop may be held up.  A loaded machine of two cores does not run a
#: thread for tens of milliseconds; a loop that waits for the API stands for seconds.
LONGEST_GAP = 0.25


@pytest.fixture(params=["gevent", "eventlet"])
def library(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    """A server's TLS context for "localhost", and the bundle that a client needs."""
    ca = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost", "slow.sluice.test").configure_cert(context)
    bundle = tmp_path_factory.mktemp("ca") / "ca.pem"
    ca.cert_pem.write_to_path(str(bundle))
    return context, bundle


@pytest.fixture
def server(authority: tuple[ssl.SSLContext, Path]) -> Iterator[IngestServer]:
    with IngestServer(tls=authority[0]) as server:
        yield server


class Result:
    """What the probe said, and how long it took to end after that."""

    def __init__(self, report: dict[str, Any], seconds_to_exit: float, output: str) -> None:
        self.report = report
        self.seconds_to_exit = seconds_to_exit
        self.output = output


@pytest.fixture
def probe(
    library: str, server: IngestServer, authority: tuple[ssl.SSLContext, Path], spool_dir: Path
) -> Any:
    def run(
        *options: str, host: str = "localhost", wrap: tuple[str, ...] = (), **extra: str
    ) -> Result:
        env = environment(
            ingest_url=server.url.replace("127.0.0.1", host),
            spool_dir=spool_dir,
            extra={
                "REQUESTS_CA_BUNDLE": str(authority[1]),
                "SLUICE_FLUSH_INTERVAL": "0.1",
                "SLUICE_SHUTDOWN_TIMEOUT": "1",
                **extra,
            },
        )
        command = [*wrap, sys.executable, "-W", "ignore", "-m", "tests.transports.probe"]
        with subprocess.Popen(
            [*command, library, *options],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                assert process.stdout is not None
                line = process.stdout.readline()
                begun = time.monotonic()
                _, errors = process.communicate(timeout=60)
                seconds = time.monotonic() - begun
            finally:
                process.kill()
        assert process.returncode == 0, errors
        assert line, errors
        return Result(json.loads(line), seconds, errors)

    return run


def test_the_sender_is_native_and_has_no_hub(probe: Any, library: str) -> None:
    result = probe("1")
    assert (
        result.report["transport"]
        == {
            "gevent": "gevent threadpool",
            "eventlet": "eventlet tpool",
        }[library]
    )
    assert result.report["hubs"] == ["None"]
    assert result.report["threads"] == 1
    assert result.report["main_thread"] is False
    assert result.report["delivered"] > 0
    assert result.report["faults"] == 0
    assert result.report["imported"] == [], "the sender imported the application's modules"


def test_taking_over_what_a_killed_process_left_makes_no_hub(
    probe: Any, server: IngestServer, spool_dir: Path
) -> None:
    """eventlet's `os.open` would make one, in whatever thread."""
    spool = Spool(spool_dir, CONNECTION_ID, print)
    ring = spool.create(64 * 1024, writer_pid=1)
    recorder = Recorder(CONNECTION_ID, None, Notices(), lambda: None)
    recorder.ring = ring
    extensions: dict[str, Any] = {"celeryEvent": "task-sent"}
    recorder.job(1e9, Job(external_id="left", name="n", state="queued", extensions=extensions))
    sign = LifeSign("w@h", "h", 1, 1e9, (0, 0), [])
    spool.keep_sign(ring, encode_sign(sign))
    ring.close()
    result = probe("1")
    assert result.report["hubs"] == ["None"]
    assert result.report["faults"] == 0
    assert {"left", "w@h"} <= {subject(event)["externalId"] for event in server.events()}


def test_the_loop_goes_on_while_the_api_takes_ten_seconds(probe: Any, server: IngestServer) -> None:
    """From before the first request until after its answer."""
    server.answer = Answer(delay=10)
    result = probe("11", SLUICE_REQUEST_TIMEOUT="5,20")
    assert result.report["delivered"] > 0
    assert result.report["longest_gap"] < LONGEST_GAP
    assert result.report["ticks"] > 500
    assert result.seconds_to_exit < 2.5


def test_the_loop_goes_on_and_the_process_ends_while_the_api_never_answers(
    probe: Any, server: IngestServer
) -> None:
    server.answer = Answer(fault="hang")
    result = probe("1")
    assert server.requests, "it was asked, and hangs"
    assert result.report["longest_gap"] < LONGEST_GAP
    assert result.seconds_to_exit < 2.5


def test_events_leave_while_the_hub_is_full(probe: Any) -> None:
    result = probe("1.5", "--busy")
    assert result.report["delivered"] > 0
    assert result.report["faults"] == 0
    assert result.report["longest_gap"] < LONGEST_GAP
    assert result.report["ticks"] > 20


def test_events_leave_while_the_hub_is_blocked(probe: Any) -> None:
    """The proof that the thread is native: a greenlet could not run here at all."""
    result = probe("0.5", "--block")
    assert result.report["posted_while_blocked"] > 0


def test_the_application_keeps_its_thread_pool_and_its_dns(
    probe: Any, server: IngestServer
) -> None:
    server.answer = Answer(delay=10)
    result = probe("0.5", "--pool")
    assert server.requests, "the sender was waiting for an answer"
    assert result.report["pool_seconds"] < 0.95
    assert result.report["dns_seconds"] < 0.3


def test_gevent_wait_returns_as_if_there_were_no_sender(probe: Any, library: str) -> None:
    if library != "gevent":
        pytest.skip("gevent's own")
    # The probe's greenlets run for ever, so only a process that does not wait for them ends.
    result = probe("0.2", "--wait", "--no-greenlets")
    assert result.seconds_to_exit < 2.5


_SLOW_DNS = """
ip link set lo up
echo 'nameserver 127.0.0.53' > "$1"
mount --bind "$1" /etc/resolv.conf
python -m tests.transports.slow_dns "$2" & server=$!
until [ -e "$2" ]; do sleep 0.01; done
shift 2
"$@"; status=$?
kill $server
exit $status
"""


def test_the_loop_goes_on_while_dns_is_slow(probe: Any, library: str, tmp_path: Path) -> None:
    """A name server that takes three seconds, in a network namespace of the test's own."""
    allowed = subprocess.run(["unshare", "--net", "--mount", "true"], check=False).returncode == 0
    if os.getuid() != 0 or not allowed:
        missing("Only root may have a network namespace with a name server in it")
    script = tmp_path / "slow_dns.sh"
    script.write_text(_SLOW_DNS.replace("python", sys.executable))
    resolv, asked = tmp_path / "resolv.conf", tmp_path / "asked"
    result = probe(
        "4",
        host="slow.sluice.test",
        wrap=("unshare", "--net", "--mount", "sh", str(script), str(resolv), str(asked)),
    )
    assert asked.read_bytes(), "the name server was asked"
    assert result.report["delivered"] == 0  # the API is in another network
    assert result.report["longest_gap"] < LONGEST_GAP
    assert result.seconds_to_exit < 2.5
