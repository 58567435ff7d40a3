"""`sluice doctor`: each thing that can be wrong is told, with the line that mends it."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import textwrap

import msgspec
import pytest
import trustme

from sluice import folder as files
from sluice.commands.checks import delivery, settings, spool
from sluice.config import resolve
from sluice.events import Envelope
from sluice.folder import FOLDER_LIMIT
from sluice.spool import Spool
from sluice.testing import IngestServer
from tests.harness import environment as process_environment
from tests.harness.processes import ROOT

KEY = "sk_live_51NobodyShouldSeeThis"
CONNECTION = "123e4567-e89b-12d3-a456-426614174000"


@pytest.fixture(autouse=True)
def rings(monkeypatch, spool_dir):
    """A folder for rings of the test's own."""
    monkeypatch.setenv("SLUICE_SPOOL_DIR", str(spool_dir))
    return spool_dir


@pytest.fixture
def doctor(run):
    """Run it, and return its exit code and its checks by name."""

    def call(*arguments):
        code, out, _ = run("doctor", "--json", *arguments)
        assert KEY not in out
        document = json.loads(out)
        assert document["ok"] is all(one["status"] != "failed" for one in document["checks"])
        return code, {one["name"]: one for one in document["checks"]}

    return call


@pytest.fixture
def collector(stub):
    """A collector that takes events under any key, and shows them."""

    def ingest(asked):
        if not asked.headers.get("Authorization", "").startswith("Bearer sk_"):
            return 401, {}
        events = json.loads(asked.body)["events"]
        jobs.update({event["job"]["externalId"]: event["job"] for event in events})
        return {"accepted": len(events), "duplicates": 0}

    jobs = {}
    stub.answers |= {
        "ingest": ingest,
        "tick": {"seq": 3},
        "jobs/*": lambda asked: jobs.get(asked.path.removeprefix("jobs/")),
    }
    return stub


@pytest.fixture
def hosted(monkeypatch):
    """An API that is no collector, with its key in the environment."""
    with IngestServer(api_key=KEY) as server:
        monkeypatch.setenv("SLUICE_API_URL", server.url)
        monkeypatch.setenv("SLUICE_API_KEY", KEY)
        monkeypatch.setenv("SLUICE_CONNECTION_ID", CONNECTION)
        yield server


def posted(stub):
    """The events that came, decoded as a receiver does it."""
    bodies = [asked.body for asked in stub.asked if asked.path == "ingest"]
    return [event for body in bodies for event in msgspec.json.decode(body, type=Envelope).events]


def statuses(checks):
    return {name: check["status"] for name, check in checks.items()}


# --- when all is well -----------------------------------------------------------------------------


def test_with_a_collector_all_is_ok_and_the_test_event_is_seen(doctor, collector, monkeypatch):
    monkeypatch.setenv("SLUICE_DEV", collector.page)
    monkeypatch.setenv("SLUICE_API_KEY", KEY)
    code, checks = doctor()
    assert code == 0
    assert set(statuses(checks).values()) <= {"ok", "warning"}
    for name in ("dev", "detector", "DNS", "TCP", "health", "key", "test event", "seen"):
        assert checks[name]["status"] == "ok", name
    (event,) = posted(collector)
    assert (event.job.name, event.job.state) == ("sluice.doctor", "completed")
    assert event.job.extensions["eventId"]
    assert event.job.external_id in checks["test event"]["found"]
    keys = {asked.headers.get("Authorization") for asked in collector.asked}
    assert keys == {None, "Bearer sk_dev"}


def test_a_collector_that_is_named_as_an_api_is_known_as_one(doctor, collector, monkeypatch):
    monkeypatch.setenv("SLUICE_API_URL", collector.api)
    monkeypatch.setenv("SLUICE_API_KEY", "sk_team")
    monkeypatch.setenv("SLUICE_CONNECTION_ID", CONNECTION)
    code, checks = doctor()
    assert (code, checks["seen"]["status"]) == (0, "ok")


def test_another_api_is_sent_no_event_unless_it_is_asked_for(doctor, hosted):
    code, checks = doctor()
    assert (code, checks["key"]["status"], hosted.events()) == (0, "ok", [])
    assert "--send" in checks["test event"]["found"]
    assert "seen" not in checks
    code, checks = doctor("--send")
    assert code == 0
    (event,) = hosted.events()
    assert event["job"]["name"] == "sluice.doctor"
    assert "was taken" in checks["test event"]["found"]


def test_it_prints_lines_for_people_with_what_mends_a_thing_below_it(run, collector, monkeypatch):
    monkeypatch.setenv("SLUICE_DEV", collector.page)
    monkeypatch.setenv("SLUICE_APIKEY", "x")
    code, out, err = run("doctor")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    (place,) = [i for i, line in enumerate(lines) if "SLUICE_APIKEY" in line]
    assert lines[place].startswith("  warning  SLUICE_APIKEY")
    assert lines[place + 1].strip() == "→ did you mean SLUICE_API_KEY?"
    assert "0 failed, 1 warnings" in lines[-2]


# --- the configuration ----------------------------------------------------------------------------


def test_every_bad_setting_is_told_and_the_rest_is_looked_at(doctor, hosted, monkeypatch):
    monkeypatch.delenv("SLUICE_API_KEY")
    monkeypatch.setenv("SLUICE_FLUSH_INTERVAL", "soon")
    monkeypatch.setenv("SLUICE_CONNECTION_ID", "production")
    code, checks = doctor()
    assert code == 2
    assert {name for name, status in statuses(checks).items() if status == "failed"} == {
        *("api_key", "connection_id", "flush_interval")
    }
    assert "SLUICE_API_KEY" in checks["api_key"]["fix"]
    assert "0.05 to 60" in checks["flush_interval"]["fix"]
    assert checks["health"]["status"] == "ok"
    assert checks["key"] == {
        "name": "key",
        "status": "warning",
        "found": "not tried: there is no whole configuration",
        "fix": None,
    }


def test_a_key_is_told_by_its_length_and_its_place_alone(doctor, hosted):
    _, checks = doctor()
    assert checks["api_key"]["found"] == f"set, {len(KEY)} characters (SLUICE_API_KEY)"
    assert checks["api_url"]["found"] == f"{hosted.url} (SLUICE_API_URL)"


def test_a_bad_key_is_not_repeated(doctor, hosted, monkeypatch):
    monkeypatch.setenv("SLUICE_API_KEY", f"'{KEY}'")
    code, checks = doctor()
    assert (code, checks["api_key"]["status"]) == (2, "failed")


def test_two_receivers_are_one_failed_check(doctor, hosted, monkeypatch):
    monkeypatch.setenv("SLUICE_DEV", "1")
    code, checks = doctor()
    assert (code, checks["dev"]["status"]) == (2, "failed")
    assert "Drop SLUICE_API_URL" in checks["dev"]["fix"]
    assert checks["network"]["status"] == "warning"
    assert hosted.requests == []


def test_switched_off_is_a_warning(doctor, hosted, monkeypatch):
    monkeypatch.setenv("SLUICE_ENABLED", "0")
    code, checks = doctor()
    assert (code, checks["enabled"]["status"]) == (0, "warning")
    assert checks["enabled"]["fix"] == "unset SLUICE_ENABLED"
    assert checks["key"]["status"] == "ok"


def test_a_switch_that_is_none_is_told(doctor, hosted, monkeypatch):
    monkeypatch.setenv("SLUICE_ENABLED", "perhaps")
    code, checks = doctor()
    assert (code, checks["enabled"]["status"]) == (2, "failed")


def test_the_settings_looked_further_with_are_those_that_init_would_have():
    given = {"before_send": dict, "flush_interval": 2}
    environ = {
        "SLUICE_API_KEY": KEY,
        "SLUICE_CONNECTION_ID": CONNECTION,
        "SLUICE_REQUEST_TIMEOUT": "1,2",
        "SLUICE_DEBUG": "yes",
    }
    found = settings.look(given, environ)
    wanted = resolve(given, environ)
    assert found.settings.api_key.reveal() == wanted.api_key.reveal()
    names = [name for name in wanted.__dataclass_fields__ if name != "api_key"]
    for name in names:
        assert getattr(found.settings, name) == getattr(wanted, name), name
    told = {check.name: check.found for check in found.checks}
    assert told["before_send"] == "a function (parameter before_send of init())"
    assert told["debug"] == "True (SLUICE_DEBUG)"


@pytest.mark.parametrize("name", ["SLUICE_COLLECTOR_TOKEN", "SLUICE_DEV", "SLUICE_DEBUG"])
def test_variables_that_something_reads_are_no_mistake(name):
    checks = settings.look(None, {name: "1"}).checks
    assert not [check for check in checks if check.name == name]


# --- the way to the API ---------------------------------------------------------------------------


def test_a_collector_that_does_not_run_is_told_with_its_command(doctor, stub, monkeypatch):
    monkeypatch.setenv("SLUICE_DEV", stub.page)
    stub.stop()
    code, checks = doctor()
    stub.start()
    assert (code, checks["TCP"]["status"]) == (1, "failed")
    assert checks["TCP"]["fix"] == "start the collector: sluice dev"
    assert "health" not in checks


def test_a_name_without_an_address_is_dns(doctor, hosted, monkeypatch):
    def nowhere(*args, **kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    code, checks = doctor()
    assert (code, checks["DNS"]["status"]) == (1, "failed")
    assert "Name or service not known" in checks["DNS"]["found"]
    assert "TCP" not in checks


@pytest.fixture
def encrypted(monkeypatch, tmp_path):
    """An API with a certificate of a CA that nobody knows; the file of that CA."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    bundle = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    with IngestServer(tls=context) as server:
        monkeypatch.setenv("SLUICE_API_URL", f"https://localhost:{server.port}/api")
        monkeypatch.setenv("SLUICE_API_KEY", KEY)
        monkeypatch.setenv("SLUICE_CONNECTION_ID", CONNECTION)
        yield bundle


def test_a_certificate_of_an_unknown_authority_is_tls(doctor, encrypted):
    code, checks = doctor()
    assert (code, checks["TCP"]["status"], checks["TLS"]["status"]) == (1, "ok", "failed")
    assert "certificate" in checks["TLS"]["found"]
    assert "REQUESTS_CA_BUNDLE" in checks["TLS"]["fix"]


def test_with_its_bundle_it_is_accepted(doctor, encrypted, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(encrypted))
    code, checks = doctor()
    assert (code, checks["TLS"]["status"], checks["key"]["status"]) == (0, "ok", "ok")


def test_a_bundle_that_is_not_there_is_told(doctor, encrypted, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem")
    code, checks = doctor()
    assert (code, checks["TLS"]["status"]) == (1, "failed")
    assert "REQUESTS_CA_BUNDLE" in checks["TLS"]["found"]


def test_a_port_without_tls_is_told_apart(doctor, hosted, monkeypatch):
    monkeypatch.setenv("SLUICE_API_URL", hosted.url.replace("http:", "https:"))
    code, checks = doctor()
    assert (code, checks["TLS"]["status"]) == (1, "failed")
    assert "does not speak TLS" in checks["TLS"]["found"]


def test_an_address_that_is_no_api_is_told(doctor, hosted, monkeypatch):
    monkeypatch.setenv("SLUICE_API_URL", hosted.url + "/else")
    code, checks = doctor()
    assert (code, checks["health"]["status"]) == (1, "failed")
    assert "404" in checks["health"]["found"]


def test_a_proxy_for_this_machine_is_a_warning(doctor, hosted, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", f"http://user:secret@127.0.0.1:{hosted.port}")
    _, checks = doctor()
    assert checks["proxy"]["status"] == "warning"
    assert "NO_PROXY=127.0.0.1" in checks["proxy"]["fix"]
    assert "secret" not in repr(checks)


def test_no_proxy_is_asked_for_a_collector_on_this_machine(doctor, collector, monkeypatch):
    """As the SDK itself does it."""
    monkeypatch.setenv("SLUICE_DEV", collector.page)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    code, checks = doctor()
    assert (code, "proxy" in checks) == (0, False)
    assert checks["key"]["status"] == checks["seen"]["status"] == "ok"


# --- the key, and the event -----------------------------------------------------------------------


def test_a_refused_key_is_told_and_no_event_is_sent(doctor, hosted, monkeypatch):
    monkeypatch.setenv("SLUICE_API_KEY", "sk_another")
    code, checks = doctor("--send")
    assert (code, checks["key"]["status"]) == (1, "failed")
    assert "401" in checks["key"]["found"]
    assert "SLUICE_API_KEY" in checks["key"]["fix"]
    assert "test event" not in checks


def test_a_collector_with_a_key_of_its_own_is_told_how_to_use(doctor, collector, monkeypatch):
    monkeypatch.setenv("SLUICE_DEV", collector.page)
    collector.answers["ingest"] = (401, {})
    code, checks = doctor()
    assert (code, checks["key"]["status"]) == (1, "failed")
    assert "in the place of SLUICE_DEV" in checks["key"]["fix"]


@pytest.mark.parametrize("status", [400, 422])
def test_an_api_that_refuses_an_empty_batch_has_taken_the_key(
    doctor, collector, monkeypatch, status
):
    monkeypatch.setenv("SLUICE_DEV", collector.page)
    take = collector.answers["ingest"]
    collector.answers["ingest"] = lambda asked: (
        take(asked) if len(asked.body) > 20 else (status, {})
    )
    code, checks = doctor()
    assert (code, checks["key"]["status"], checks["seen"]["status"]) == (0, "ok", "ok")


@pytest.mark.parametrize(("status", "place"), [(500, "key"), (503, "key"), (404, "key")])
def test_an_api_in_trouble_is_told_at_once(doctor, collector, monkeypatch, status, place):
    monkeypatch.setenv("SLUICE_DEV", collector.page)
    collector.answers["ingest"] = (status, {})
    code, checks = doctor()
    assert (code, checks[place]["status"]) == (1, "failed")
    assert str(status) in checks[place]["found"]
    assert len([asked for asked in collector.asked if asked.path == "ingest"]) == 1


def test_an_event_that_does_not_come_is_told(doctor, collector, monkeypatch):
    monkeypatch.setenv("SLUICE_DEV", collector.page)
    monkeypatch.setattr(delivery, "_SEEN_WITHIN", 0.0)
    collector.answers["jobs/*"] = None
    code, checks = doctor()
    assert (code, checks["test event"]["status"], checks["seen"]["status"]) == (1, "ok", "failed")


def test_without_the_token_it_is_said_that_nobody_looked(doctor, collector, monkeypatch):
    monkeypatch.setenv("SLUICE_DEV", collector.page)
    collector.answers["jobs/*"] = (401, {})
    code, checks = doctor()
    assert (code, checks["test event"]["status"], checks["seen"]["status"]) == (0, "ok", "warning")
    assert "SLUICE_COLLECTOR_TOKEN" in checks["seen"]["fix"]


def test_an_event_that_takes_its_time_is_waited_for(doctor, collector, monkeypatch):
    monkeypatch.setenv("SLUICE_DEV", collector.page)
    show, asked_before = collector.answers["jobs/*"], []
    collector.answers["jobs/*"] = lambda asked: (
        show(asked) if len(asked_before) >= 2 else asked_before.append(1)
    )
    code, checks = doctor()
    assert (code, checks["seen"]["status"], len(asked_before)) == (0, "ok", 2)


def test_reading_is_with_the_token_and_sending_with_the_key(doctor, collector, monkeypatch):
    monkeypatch.setenv("SLUICE_DEV", collector.page)
    doctor("--token", "tok-1")
    shown = {
        asked.path.split("/")[0]: asked.headers.get("Authorization") for asked in collector.asked
    }
    assert (shown["ingest"], shown["jobs"]) == ("Bearer sk_dev", "Bearer tok-1")


# --- the folder -----------------------------------------------------------------------------------


def of(folder, **more):
    return resolve({"dev": True, "spool_dir": str(folder), **more}, {})


def test_a_folder_that_is_not_there_is_not_there_afterwards(tmp_path):
    folder = tmp_path / "a" / "b"
    check = spool.look(of(folder))
    assert check.status in ("ok", "warning")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_open_to_others_is_told(tmp_path):
    tmp_path.chmod(0o755)
    check = spool.look(of(tmp_path))
    assert check.status == "failed"
    assert "chmod 700" in check.found
    assert "in memory only" in check.found


def test_a_file_in_its_place_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    assert spool.look(of(tmp_path / "file")).status == "failed"


def test_a_platform_without_a_folder_is_told(monkeypatch):
    monkeypatch.setattr(files, "default_folder", lambda: None)
    check = spool.look(resolve({"dev": True}, {}))
    assert check.status == "failed"
    assert "SLUICE_SPOOL_DIR" in check.fix


def test_a_ring_that_is_larger_than_all_may_be_is_told(rings):
    check = spool.look(of(rings, buffer_bytes=FOLDER_LIMIT + 4096))
    assert check.status == "failed"
    assert "SLUICE_BUFFER_BYTES" in check.fix


def test_a_file_system_without_room_is_told(rings, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device", str(rings))

    monkeypatch.setattr(os, "posix_fallocate", full)
    check = spool.look(of(rings))
    assert check.status == "failed"
    assert "No space left" in check.found


def test_a_full_folder_is_a_warning_and_loses_nothing(rings, monkeypatch):
    kept = Spool(rings, CONNECTION, lambda *_: None)
    ring = kept.create(1024 * 1024, writer_pid=0)
    path = kept.path_of(ring)
    monkeypatch.setattr(files, "MOST_FILES", 1)
    check = spool.look(of(rings))
    assert (check.status, path.exists()) == ("warning", True)
    assert list(rings.iterdir()) == [path]
    kept.unlink(ring)


@pytest.mark.parametrize(("kind", "status"), [("ext4", "warning"), ("tmpfs", "ok"), (None, "ok")])
def test_a_disk_is_a_warning(rings, monkeypatch, kind, status):
    monkeypatch.setattr(spool, "_file_system", lambda _: kind)
    assert spool.look(of(rings)).status == status


def test_the_file_system_is_that_of_the_device(rings, monkeypatch, tmp_path):
    device = rings.stat().st_dev
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "1 0 9:9 / / rw - ext4 /dev/x rw\n"
        f"2 1 {os.major(device)}:{os.minor(device)} / /a rw shared:1 - zfs pool rw\n"
    )
    monkeypatch.setattr(spool, "_MOUNTS", mounts)
    assert spool._file_system(rings) == "zfs"
    monkeypatch.setattr(spool, "_MOUNTS", tmp_path / "none")
    assert spool._file_system(rings) is None


# --- the app --------------------------------------------------------------------------------------


@pytest.fixture
def with_app(tmp_path, rings, stub):
    """Run it on an app of this source, in a process of its own, as ``celery -A`` would."""
    stub.answers |= {
        "ingest": {"accepted": 0},
        "tick": {"seq": 1},
        "jobs/*": {"state": "completed"},
    }

    def call(source, **variables):
        (tmp_path / "shop.py").write_text(textwrap.dedent(source))
        extra = {"SLUICE_SPOOL_DIR": str(rings), "PYTHONPATH": str(ROOT), "SLUICE_API_KEY": None}
        extra |= {"SLUICE_CONNECTION_ID": None, "SLUICE_API_URL": None, "SLUICE_DEV": stub.page}
        done = subprocess.run(
            [sys.executable, "-m", "sluice", "doctor", "--app", "shop", "--json"],
            env=process_environment(extra=extra | variables),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        checks = json.loads(done.stdout)["checks"]
        return done.returncode, {one["name"]: one for one in checks}

    return call


GOOD = "import celery, sluice\napp = celery.Celery('shop', broker='memory://')\nsluice.init()\n"


def test_an_app_is_loaded_and_its_pool_is_told(with_app):
    code, checks = with_app(GOOD)
    assert (code, checks["app"]["status"], checks["worker"]["status"]) == (0, "ok", "ok")
    assert "pool prefork" in checks["worker"]["found"]
    assert "transport thread" in checks["worker"]["found"]


def test_what_an_app_gives_to_init_is_looked_at_and_what_it_prints_is_out_of_the_way(with_app):
    code, checks = with_app(
        f"""
        import celery
        from sluice import init
        print("hello")
        app = celery.Celery('shop')
        init(api_key={KEY!r}, environment="staging", flush_interval=900)
        """,
    )
    assert code == 2
    assert checks["environment"]["found"] == "staging (parameter environment of init())"
    assert checks["flush_interval"]["status"] == "failed"
    assert KEY not in repr(checks)


def test_an_app_without_init_is_told(with_app):
    code, checks = with_app("import celery\napp = celery.Celery('shop')\n")
    assert (code, checks["app"]["status"]) == (1, "failed")
    assert "sluice.init()" in checks["app"]["fix"]


@pytest.mark.parametrize(
    "source",
    [
        "raise RuntimeError('no redis://:hunter22@host/0 today')",
        "import sys; sys.exit(3)",
        "import nowhere_at_all",
        "app = 7",
        "import sluice; sluice.init(colour='red')",
        "syntax error",
    ],
)
def test_an_app_that_cannot_be_loaded_is_told_and_the_rest_is_looked_at(with_app, source):
    code, checks = with_app(source)
    assert (code, checks["app"]["status"], checks["key"]["status"]) == (1, "failed", "ok")
    assert "hunter22" not in repr(checks)


def test_a_green_pool_that_patches_nothing_is_a_warning(with_app):
    code, checks = with_app(GOOD + "app.conf.worker_pool = 'gevent'\n")
    assert (code, checks["worker"]["status"]) == (0, "warning")
    assert "-P gevent" in checks["worker"]["fix"]


def test_a_pool_comes_from_celerys_variable_too(with_app):
    _, checks = with_app(GOOD, CELERY_WORKER_POOL="solo")
    assert "pool solo (CELERY_WORKER_POOL)" in checks["worker"]["found"]


def test_an_app_that_patches_is_seen_and_its_event_arrives(with_app):
    patched = "from gevent import monkey; monkey.patch_all()\n" + GOOD
    code, checks = with_app(patched + "app.conf.worker_pool = 'gevent'\n")
    assert (code, checks["worker"]["status"], checks["seen"]["status"]) == (0, "ok", "ok")
    assert "gevent has patched" in checks["detector"]["found"]
    assert "transport gevent" in checks["worker"]["found"]
