"""A soft time limit that comes while a task publishes: it always stops the task.

Each script has the pool's own handler of SIGUSR1, and limits that come at any moment of a
publication.  The broker is left out: kombu's locks and pools do not survive a limit at any place.
"""

import json
import textwrap

import pytest

from tests.doubles import run_python

HEADER = """
import json, logging, os, random, signal, sys, time
import celery, sluice
from billiard.exceptions import SoftTimeLimitExceeded
from billiard.pool import soft_timeout_sighandler
from celery import signals

sluice.init()
signal.signal(signal.SIGUSR1, soft_timeout_sighandler)
app = celery.Celery(broker="memory://")
published = 0
producer = app.amqp.Producer(app.connection_for_write())
def publish(*_, **__):
    global published
    published += 1
producer.publish = publish
@app.task(ignore_result=True)
def task(): pass
def send(): return task.apply_async(producer=producer)
class Log(logging.Handler):
    lines = []
    def emit(self, record): self.lines.append(record.getMessage())
logging.getLogger("celery").addHandler(Log())
def say(**told): print(json.dumps(told), flush=True)
def captured(): return sluice.stats().captured
"""


@pytest.fixture
def script(spool_dir):
    def run(code: str) -> dict:
        env = {"SLUICE_SPOOL_DIR": str(spool_dir), "SLUICE_SHUTDOWN_TIMEOUT": "0.1"}
        done = run_python(HEADER + textwrap.dedent(code), timeout=90, **env)
        return json.loads(done.stdout)

    return run


def test_a_limit_at_any_moment_of_a_publication_stops_the_task(script):
    told = script(
        """
        came = lost = deferred = torn = deleted = 0
        def tick(number, frame):  # what the pool's MAIN does from outside
            global came
            came += 1
            signal.getsignal(signal.SIGUSR1)(number, frame)
        def unraisable(_):  # the result's own __del__ was there: lost without Sluice, too
            global deleted
            deleted += 1
        sys.unraisablehook = unraisable
        signal.signal(signal.SIGALRM, tick)
        send()
        begin = time.perf_counter()
        for _ in range(100): send()
        span = (time.perf_counter() - begin) / 100
        def work():
            come, more = came, 0
            send()
            signal.setitimer(signal.ITIMER_REAL, 0.00001 + random.random() * span)
            while more < 3:
                send()
                more += came > come
        for _ in range(2000):
            gone, untold = deleted, published - captured()
            try:
                work()
                lost += deleted == gone
            except SoftTimeLimitExceeded as limit:
                tb = limit.__traceback__
                while tb.tb_next: tb = tb.tb_next
                if tb.tb_frame.f_code.co_name == "raise_it":
                    deferred += 1
                    torn += published - captured() > untold
        signal.setitimer(signal.ITIMER_REAL, 0)
        say(came=came, lost=lost, deferred=deferred, torn=torn, deleted=deleted,
            lines=Log.lines[:3], faults=sluice.stats().faults)
        """
    )
    assert told["came"] == 2000
    assert told["lines"] == [], "Celery has caught a limit in a receiver"
    assert told["lost"] == 0
    assert told["deleted"] < 100
    assert told["faults"] == 0
    assert told["deferred"] > 20, "some came while our code ran"
    assert told["torn"] == 0, "and the event was told"


@pytest.mark.parametrize("where", ["before", "after"])
def test_a_limit_in_our_code_is_raised_in_the_publisher_when_that_is_done(script, where):
    told = script(
        f"""
        send()
        from sluice.capture import producer as module
        name = "_message" if {where!r} == "before" else "_sent"
        original = getattr(module, name)
        def limited(*args):
            signal.raise_signal(signal.SIGUSR1)
            return original(*args)
        setattr(module, name, limited)
        frames = []
        try:
            send()
            frames = "not stopped"
        except SoftTimeLimitExceeded as limit:
            tb = limit.__traceback__
            while tb:
                frames.append(tb.tb_frame.f_code.co_name)
                tb = tb.tb_next
        setattr(module, name, original)
        before = captured(), published
        send()
        say(frames=frames, captured=before[0], published=before[1], after=captured(),
            tracing=sys.gettrace() is not None, lines=Log.lines)
        """
    )
    assert told["frames"][-2:] == ["send_task_message", "raise_it"]
    assert told["lines"] == []
    assert told["tracing"] is False
    sent = 1 if where == "before" else 2
    assert (told["published"], told["captured"]) == (sent, sent)  # before it was sent, or when told
    assert told["after"] == sent + 1


def test_a_limit_in_the_application_is_raised_at_once(script):
    told = script(
        """
        send()
        def work():
            signal.raise_signal(signal.SIGUSR1)
            return "not stopped"
        try: how = work()
        except SoftTimeLimitExceeded: how = "stopped"
        # Of other people's receivers Celery decides, as ever.
        def other(**_): signal.raise_signal(signal.SIGUSR1)
        signals.after_task_publish.connect(other)
        send()
        say(how=how, lines=Log.lines, captured=captured())
        """
    )
    assert told["how"] == "stopped"
    assert len(told["lines"]) == 1
    assert "other" in told["lines"][0]
    assert told["captured"] == 2


def test_a_debugger_is_left_in_its_place(script):
    told = script(
        """
        send()
        from sluice.capture import producer as module
        original = module._sent
        def limited(*args):
            signal.raise_signal(signal.SIGUSR1)
            return original(*args)
        module._sent = limited
        def debugger(*_): pass
        sys.settrace(debugger)
        send()
        say(stays=sys.gettrace() is debugger, lines=len(Log.lines))
        """
    )
    assert told == {"stays": True, "lines": 1}


def test_an_applications_own_handler_stays(script):
    told = script(
        """
        def own(*_): pass
        signal.signal(signal.SIGUSR1, own)
        send()
        say(stays=signal.getsignal(signal.SIGUSR1) is own)
        """
    )
    assert told == {"stays": True}


def test_the_first_to_publish_may_be_another_thread(script):
    told = script(
        """
        import threading
        thread = threading.Thread(target=send)
        thread.start(); thread.join()
        first = signal.getsignal(signal.SIGUSR1) is soft_timeout_sighandler
        send()
        say(first=first, captured=captured(), lines=Log.lines, faults=sluice.stats().faults,
            stands=signal.getsignal(signal.SIGUSR1) is not soft_timeout_sighandler)
        """
    )
    assert told == {"first": True, "captured": 2, "lines": [], "faults": 0, "stands": True}
