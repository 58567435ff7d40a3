"""`sluice.init()` in fresh processes: what it costs, what it says, and what it never does.

Each test is a process of its own: a client hooks into Celery and into forks for good.
"""

from __future__ import annotations

import pytest

from tests.doubles import run_python
from tests.harness import API_KEY

#: An application whose logging is set up, so that what Sluice says goes to stderr at once.
LISTEN = "import logging; logging.basicConfig(format='%(levelname)s %(message)s', level=10)\n"
FAILED = "Failed to set up Celery integration. Monitoring will not be active."
#: A task is sent to nobody: the signals of a publication, without a broker.
PUBLISH = """
from celery import signals
headers = {"task": "t", "id": "i"}
signals.before_task_publish.send(sender="t", headers=headers, body=())
signals.after_task_publish.send(sender="t", headers=headers, body=(), exchange="", routing_key="q")
"""


@pytest.fixture
def python(tmp_path):
    """Run code in a fresh process, with a folder for rings that goes with the test."""
    env = {"SLUICE_SPOOL_DIR": str(tmp_path / "rings"), "SLUICE_SHUTDOWN_TIMEOUT": "0"}
    return lambda code, **more: run_python(code, **env | more)


def said(stderr: str, level: str) -> list[str]:
    """What Sluice has logged on this level: the first lines."""
    return [line for line in stderr.splitlines() if line.startswith(f"{level} [sluice]")]


# --- a good start ---------------------------------------------------------------------------------


def test_it_starts_no_thread_and_opens_no_descriptor(python):
    python(
        """
        import os, threading
        import celery, celery.signals, sluice

        def descriptors():
            return {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
                    if os.path.lexists(f"/proc/self/fd/{fd}")}

        has_proc = os.path.isdir("/proc/self/fd")
        before = descriptors() if has_proc else {}
        sluice.init()
        assert threading.enumerate() == [threading.main_thread()]
        assert len(os.listdir("/proc/self/task")) == 1 if has_proc else True
        assert (descriptors() if has_proc else {}) == before
        """
    )


def test_it_makes_no_folder(python, tmp_path):
    python("import sluice; sluice.init()")
    assert not (tmp_path / "rings").exists()


def test_it_imports_nothing_that_only_a_sender_needs(python):
    python(
        """
        import sys
        import celery, celery.signals
        before = set(sys.modules)
        import sluice
        sluice.init()
        heavy = ("requests", "tenacity", "urllib3", "gevent", "eventlet", "http.client")
        found = [name for name in set(sys.modules) - before if name.startswith(heavy)]
        assert not found, found
        """
    )


def test_importing_the_package_imports_not_even_celery(python):
    python(
        """
        import sys
        import sluice
        heavy = ("celery", "kombu", "requests", "tenacity", "gevent", "eventlet", "sluice.client")
        found = [name for name in sys.modules if name.startswith(heavy)]
        assert not found, found
        """
    )


def test_it_says_nothing_and_leaves_logging_alone(python):
    done = python(
        """
        import logging
        import sluice
        sluice.init()
        assert logging.getLogger().handlers == []
        assert [type(h) for h in logging.getLogger("sluice").handlers] == [logging.NullHandler]
        assert logging.getLogger("sluice").level == logging.NOTSET
        """
    )
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize("on", [False, True])
def test_it_turns_celerys_own_events_on_where_it_is_told_to(python, on):
    python(
        f"""
        import celery, celery.signals, sluice
        sluice.init(celery_events={on})
        app = celery.Celery("app", set_as_current=False)
        app.finalize()
        celery.signals.celeryd_init.send(sender="w@h", instance=None, conf=app.conf, options={{}})
        assert app.conf.worker_send_task_events is {on}
        assert app.conf.task_send_sent_event is {on}
        assert app.conf.task_track_started is False
        """
    )


def test_debug_says_what_was_detected(python):
    done = python(LISTEN + "import sluice; sluice.init(debug=True)")
    assert said(done.stderr, "INFO") == [
        "INFO [sluice] On: neither gevent nor eventlet has patched this process."
    ]


def test_an_event_is_captured_after_it_and_none_before(python):
    python(
        "import sluice\n"
        + PUBLISH
        + "sluice.init()\nassert sluice.stats().captured == 0\n"
        + PUBLISH
        + "assert sluice.stats().captured == 1\nassert sluice.stats().transport == 'thread'\n",
    )


def test_its_parameters_are_keywords(python):
    python(
        """
        import sluice
        try:
            sluice.init("sk_positional")
        except TypeError:
            pass
        else:
            raise SystemExit("taken")
        """
    )


# --- off ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("call", "variable"), [("enabled=False", None), ("", "0")])
def test_disabled_it_does_nothing_at_all(python, call, variable):
    done = python(
        f"{LISTEN}import sys, sluice\nsluice.init(api_key='nonsense', {call})\n"
        "assert 'celery' not in sys.modules\n"
        "assert sluice.flush() and sluice.shutdown()\n"
        "assert sluice.stats() == sluice.Stats()\n",
        SLUICE_ENABLED=variable,
    )
    assert done.stderr == ""


def test_before_it_the_other_functions_do_nothing(python):
    python(
        """
        import sluice
        assert sluice.flush() is True
        assert sluice.shutdown() is True
        assert sluice.stats() == sluice.Stats()
        assert sluice.stats().active is False
        """
    )


def test_dev_in_the_environment_is_all_that_is_needed(python):
    python(
        """
        import sluice
        sluice.init()
        found = sluice._client.settings
        assert (found.api_url, found.api_key.reveal()) == ("http://127.0.0.1:5580/api", "sk_dev")
        """,
        SLUICE_DEV="1",
        SLUICE_API_URL=None,
        SLUICE_CONNECTION_ID=None,
    )


# --- twice ----------------------------------------------------------------------------------------


def test_a_second_call_warns_and_changes_nothing(python):
    done = python(
        LISTEN
        + """
import sluice, sluice.client
sluice.init(environment="first")
first = sluice._client
for _ in range(3):
    sluice.init(environment="second", api_key="nonsense", flush_interval="nonsense")
assert sluice._client is first
assert first.settings.environment == "first"
print("--- go on", flush=True, file=__import__("sys").stderr)
"""
        + PUBLISH
        + "assert sluice.stats().captured == 1\n",
    )
    (line,) = said(done.stderr.partition("--- go on")[0], "WARNING")
    assert "called a second time" in line


# --- a bad setting --------------------------------------------------------------------------------


def test_a_bad_setting_is_the_one_error_it_raises(python):
    done = python(
        LISTEN
        + """
import sluice
try:
    sluice.init(flush_interval="soon")
except sluice.SluiceConfigError as error:
    print(error)
else:
    raise SystemExit("taken")
assert sluice.stats() == sluice.Stats()
"""
    )
    assert done.stdout.startswith("[sluice] flush_interval is 'soon'. Accepted is")
    assert done.stderr == ""  # raised, not logged


@pytest.mark.parametrize(("call", "variable"), [("strict=False", None), ("", "0")])
def test_not_strict_it_logs_a_bad_setting_and_stays_off(python, call, variable):
    done = python(
        f"{LISTEN}import sys, sluice\nsluice.init(api_key='sk typo', {call})\n"
        "assert 'sluice.client' not in sys.modules\n"
        f"{PUBLISH}assert sluice.stats() == sluice.Stats()\n",
        SLUICE_STRICT=variable,
    )
    (line,) = said(done.stderr, "ERROR")
    assert "api_key is not an API key" in line
    assert "sk typo" not in done.stderr


def test_a_setting_that_was_mended_can_be_given_again(python):
    python(
        """
        import sluice
        sluice.init(strict=False, flush_interval="soon")
        sluice.init(flush_interval=1)
        assert sluice._client is not None
        """
    )


def test_what_it_has_to_say_waits_until_celery_has_set_logging_up(python):
    done = python(
        """
        import sys
        import celery, sluice
        sluice.init(strict=False, flush_interval="soon")
        print("--- set up", file=sys.stderr, flush=True)
        app = celery.Celery("app", set_as_current=False)
        app.log.setup(loglevel="INFO", redirect_stdouts=False)
        celery.signals.after_setup_logger.send(sender=None)
        """
    )
    before, _, after = done.stderr.partition("--- set up")
    assert before == ""
    assert after.count("flush_interval is 'soon'") == 1


# --- a fault of ours ------------------------------------------------------------------------------

BREAK = {
    "connect": "sluice.client.Client.connect = fail",
    "making the client": "sluice.client.Client.__init__ = fail",
    "a signal": "sluice.client.WorkerCapture.connect = fail",
    "forks": "sluice.client.os.register_at_fork = fail",
    "detection": "sluice.detect.detect = fail",
}


@pytest.mark.parametrize("broken", BREAK.values(), ids=BREAK)
def test_a_fault_in_setup_is_logged_and_nothing_is_raised_or_captured(python, broken):
    done = python(
        LISTEN
        + f"""
import sluice, sluice.client

def fail(*args, **kwargs):
    raise KeyError("a text that nobody should see")

{broken}
sluice.init()
{PUBLISH}
assert sluice.stats() == sluice.Stats(faults=1)
assert sluice.flush() and sluice.shutdown()
"""
    )
    assert FAILED in done.stderr
    assert said(done.stderr, "ERROR") == [f"ERROR [sluice] {FAILED}"]
    (fault,) = said(done.stderr, "WARNING")
    assert "A fault in Sluice was caught in init() (KeyError at fail:" in fault
    assert "nobody should see" not in done.stderr


def test_the_folder_is_that_of_the_user_who_captures(python):
    """`celery worker --uid` gives up its rights after `init()`."""
    python(
        LISTEN
        + """
import os, tempfile
from pathlib import Path
import sluice, sluice.folder
sluice.init()
spool = sluice._client._spool
assert spool.folder is None
with tempfile.TemporaryDirectory() as tmpfs:
    sluice.folder._TMPFS = Path(tmpfs)
    os.getuid = lambda: 4242
    sluice._client._open_ring()
    assert spool.folder == Path(tmpfs, "sluice-4242")
""",
        SLUICE_SPOOL_DIR="",
    )


def test_after_a_fault_in_setup_another_call_can_succeed(python):
    python(
        """
        import sluice, sluice.client

        def fail(*args, **kwargs):
            raise KeyError

        real = sluice.client.WorkerCapture.connect
        sluice.client.WorkerCapture.connect = fail
        sluice.init()
        sluice.client.WorkerCapture.connect = real
        sluice.init()
        from celery import signals
        headers = {"task": "t", "id": "i"}
        signals.before_task_publish.send(sender="t", headers=headers, body=())
        signals.after_task_publish.send(sender="t", headers=headers, body=(), routing_key="q")
        assert sluice.stats().captured == 1
        """
    )


def test_a_celery_that_cannot_be_imported_is_a_fault_like_any_other(python):
    done = python(
        "import sys\nsys.modules['celery'] = None\n" + LISTEN + "import sluice\nsluice.init()\n"
    )
    assert FAILED in done.stderr


# --- the key --------------------------------------------------------------------------------------


def test_the_key_is_in_nothing_that_can_be_printed_or_logged(python):
    done = python(
        LISTEN
        + "import sluice\nsluice.init(debug=True)\n"
        + PUBLISH
        + """
client = sluice._client
parts = client.settings, client.recorder, client._delivery, sluice.stats(), vars(client)
for thing in (client, *parts):
    print(repr(thing), str(thing))
sluice.flush(0.5)
""",
    )
    assert API_KEY not in done.stdout
    assert API_KEY not in done.stderr
    assert "Settings(" in done.stdout


def test_a_strange_file_hides_neither_another_fault_nor_is_it_said_again_at_once(python):
    done = python(
        LISTEN
        + """
import sluice
sluice.init()
client = sluice._client
client._say_of_spool("strange file", "a is left alone")
client._say_of_spool("strange file", "b is left alone")
client._say_of_spool("no folder", "there is no room")
client.notices.log()
"""
    )
    lines = said(done.stderr, "WARNING")
    assert [line.partition("[sluice] ")[2] for line in lines] == [
        "A is left alone.",
        "There is no room.",
    ]
