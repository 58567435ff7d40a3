"""One worker on one broker, all kinds of tasks at once: what was sent, told and delivered."""

import contextlib
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kombu
import psutil
from celery import Celery

from sluice.testing import IngestServer
from tests.harness import Broker, Exit, Process, Worker, client_app, environment, wait_for
from tests.harness.folders import ring_folder
from tests.pools.plan import GATE, Kind, kinds_for, messages, new_id
from tests.pools.timeline import Event, Timeline, timelines, what
from tests.pools.waiting import FAST, PATIENT

CONCURRENCY = {"prefork": 3, "gevent": 20, "eventlet": 20, "threads": 4, "solo": 1}
QUEUES = ["celery", "second", "third"]
#: Seconds for all that is sent; a solo worker takes the tasks one by one.
_ENOUGH = 40.0
APP = "tests.pools.apps.life"
MALFORMED, NOT_A_TASK, UNREADABLE = "malformed task", "not a task", "unreadable body"


@dataclass
class Journal:
    """When the tasks really ran, by (task id, retries), as their own processes wrote it."""

    start: dict[tuple[str, int], list[float]] = field(default_factory=dict)
    end: dict[tuple[str, int], list[float]] = field(default_factory=dict)
    pids: dict[tuple[str, int], list[int]] = field(default_factory=dict)

    @classmethod
    def read(cls, lines: list[str]) -> "Journal":
        journal = cls()
        for line in lines:
            _, found, entry = line.partition("JOURNAL ")
            if found:
                which, task_id, retries, when, pid = entry.split()
                key = task_id, int(retries)
                times = journal.start if which == "start" else journal.end
                times.setdefault(key, []).append(float(when))
                if which == "start":
                    journal.pids.setdefault(key, []).append(int(pid))
        return journal


@dataclass
class Sent:
    """One task of the plan: its id, and the Unix times around its publication."""

    kind: Kind
    task_id: str
    before: float
    after: float


@dataclass
class Run:
    """All that is known of one run when it is over."""

    pool: str
    broker: str
    worker: Worker
    pid: int
    began: float
    events: list[Event]
    sent: list[Sent]
    invalid: dict[str, str]
    journal: Journal
    exit: Exit
    pids: set[int]
    spool: list[str]
    by_id: dict[str, Timeline]

    def of(self, name: str) -> Timeline:
        """The timeline of a kind."""
        (found,) = [one.task_id for one in self.sent if one.kind.name == name]
        return self.line(found)

    def line(self, task_id: str) -> Timeline:
        return self.by_id.get(task_id, Timeline(task_id))

    def children(self, task_id: str) -> list[Timeline]:
        """The timelines of the tasks that have this one as their root, without itself."""
        return [
            line
            for line in self.by_id.values()
            if line.task_id != task_id
            and any(event["job"].get("rootId") == task_id for event in line.events)
        ]

    @property
    def workers(self) -> list[Event]:
        return [event for event in self.events if "worker" in event]

    def counts(self) -> dict[str, str]:
        """What was delivered / what had to be, by event and by kind: a column of the table."""
        expected: Counter[str] = Counter()
        got: Counter[str] = Counter()
        cases: dict[str, str] = {}
        for one in self.sent:
            steps = " ".join(one.kind.attempts).split()
            steps += ["sent"] * len(one.kind.attempts)
            steps += ["sent", "received", "started", "succeeded"] * len(one.kind.children)
            family = [self.line(one.task_id)]
            if one.kind.children:
                family += self.children(one.task_id)
            told = [what(event) for line in family for event in line.events]
            expected.update(steps)
            got.update(told)
            cases[one.kind.name] = f"{len(told)}/{len(steps)}"
        for name, task_id in self.invalid.items():
            told = [what(event) for event in self.line(task_id).events]
            expected["rejected"] += 1
            got.update(told)
            cases[name] = f"{len(told)}/1"
        events = {name: f"{got[name]}/{expected[name]}" for name in expected | got}
        states = Counter(
            event["worker"]["extensions"]["celeryEvent"].removeprefix("worker-")
            for event in self.workers
        )
        workers = {
            "worker online": f"{states['online']}/1",
            "worker heartbeat": str(states["heartbeat"]),
            "worker offline": f"{states['offline']}/1",
        }
        return {**{f"event {name}": count for name, count in events.items()}, **workers, **cases}


@contextlib.contextmanager
def sender(
    broker: Broker, plan: list[dict[str, Any]], gates: Path, **env: Any
) -> Iterator[Process]:
    """A process that has called `sluice.init()` and sends the plan, as its gates are opened."""
    env["extra"] = dict(env["extra"], PLAN=json.dumps(plan), PLAN_GATES=str(gates))
    argv = [sys.executable, "-m", "tests.pools.apps.send"]
    with Process(argv, env=environment(broker.url, **env), name="sender") as process:
        yield process


def sent_by(process: Process, kinds: list[Kind]) -> list[Sent]:
    by_name = {kind.name: kind for kind in kinds}
    found = []
    for line in process.matching("SENT "):
        if line.startswith("SENT "):
            kind, task_id, before, after = line.removeprefix("SENT ").rsplit(maxsplit=3)
            found.append(Sent(by_name[kind], task_id, float(before), float(after)))
    return found


def send_invalid(client: Celery) -> dict[str, str]:
    """Publish messages that are no tasks of Celery's; the ids they must be known by."""
    malformed, stranger, unreadable = (new_id() for _ in range(3))
    headers = {"lang": "py", "task": "basic.ok", "id": malformed, "eta": "no time at all"}
    raw = {"serializer": None, "content_type": "application/json", "content_encoding": "utf-8"}
    with client.connection_for_write() as connection:
        queue = kombu.Queue("celery", kombu.Exchange("celery"), "celery")
        producer = kombu.Producer(connection)
        for body, more in (
            ([[], {}, {}], {"headers": headers, "correlation_id": malformed}),
            ({"hello": "world"}, {"correlation_id": stranger}),
            ('[["CANARY', {"headers": {"task": "basic.ok", "id": unreadable}, **raw}),
        ):
            options = {"exchange": queue.exchange, "routing_key": "celery", "declare": [queue]}
            producer.publish(body, **{**options, "serializer": "json", **more})
    return {MALFORMED: malformed, NOT_A_TASK: stranger, UNREADABLE: unreadable}


def carry_out(pool: str, broker: Broker) -> Run:
    """Start a worker, send it everything, wait until it is told, and stop the worker."""
    kinds = kinds_for(pool, broker.kind)
    ids = {"revoked before start": new_id(), "revoked with ETA": new_id(), "terminated": new_id()}
    began = time.time()
    with (
        contextlib.ExitStack() as stack,
        ring_folder() as folder,
        IngestServer() as ingest,
        client_app(broker.url, broker.result_url) as client,
    ):
        env = {
            "result_url": broker.result_url,
            "ingest_url": ingest.url,
            "spool_dir": folder / "spool",
            "extra": FAST | PATIENT,
        }
        worker = stack.enter_context(
            Worker(
                broker.url,
                pool=pool,
                concurrency=CONCURRENCY[pool],
                app=APP,
                args=("-Q", ",".join(QUEUES)),
                **env,
            )
        )
        plan = list(messages(kinds, ids))
        script = stack.enter_context(sender(broker, plan, folder, **env))
        script.wait_line("READY", 30)
        worker.wait_ready()
        pids = {worker.pid}
        control = client.control
        answer = {"reply": True, "timeout": 10, "destination": [worker.nodename]}
        # A green pool hears control messages in a greenlet of its own, a little after it is
        # "ready", and Redis keeps no message for who does not listen yet.
        here = [worker.nodename]
        wait_for(lambda: control.ping(destination=here, timeout=1.0), 20, "the worker to listen")
        assert control.revoke(ids["revoked before start"], **answer)
        (folder / "go").touch()
        invalid = send_invalid(client)
        steps = len(invalid) + sum(kind.events for kind in kinds)

        def has(name: str, step: str) -> bool:
            line = timelines(ingest.events()).get(ids[name], Timeline(""))
            return step in map(what, line.told)

        wait_for(lambda: has("revoked with ETA", "received"), _ENOUGH, "the task with an ETA")
        assert control.revoke(ids["revoked with ETA"], **answer)
        if "terminated" in {kind.name for kind in kinds}:
            wait_for(lambda: has("terminated", "started"), _ENOUGH, "the task to terminate")
            assert control.terminate(ids["terminated"], **answer)
        (folder / GATE).touch()

        def all_told() -> bool:
            pids.update(child.pid for child in worker.children())
            return sum("job" in event for event in ingest.events()) >= steps

        with contextlib.suppress(AssertionError):  # what is missing is the tests' to tell
            wait_for(all_told, _ENOUGH, "all events")
        assert script.wait() == 0
        pid, end = worker.pid, worker.stop()
        psutil.wait_procs([psutil.Process(p) for p in pids if psutil.pid_exists(p)], timeout=5)
        events = ingest.events()
        spool = sorted(path.name for path in (folder / "spool").glob("*"))
    return Run(
        pool=pool,
        broker=broker.kind,
        worker=worker,
        pid=pid,
        began=began,
        events=events,
        sent=sent_by(script, kinds),
        invalid=invalid,
        journal=Journal.read(worker.lines),
        exit=end,
        pids=pids,
        spool=spool,
        by_id=timelines(events),
    )
