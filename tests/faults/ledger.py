"""What the logs of workers say that happened, beside what was told of it."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from sluice.testing import IngestServer
from tests.harness import Worker, wait_for
from tests.pools.timeline import event_id, timelines, what
from tests.pools.waiting import PLAIN

#: Celery logs these, in MAIN, where the event has its origin. `started` it does not log.
LOGGED = re.compile(r"Task \S+\[(?P<id>[-0-9a-f]{36})\] (?P<what>received|succeeded)\b")


def logged(workers: Iterable[Worker]) -> Counter[tuple[str, str]]:
    """(task id, what) -> how often Celery said so."""
    found = (LOGGED.search(line) for worker in workers for line in list(worker.lines))
    return Counter((match["id"], match["what"]) for match in found if match)


def told(ingest: IngestServer) -> Counter[tuple[str, str]]:
    """(task id, what) -> how often it was told."""
    return Counter(
        (line.task_id, what(event))
        for line in timelines(ingest.events()).values()
        for event in line.told
    )


def event_ids(ingest: IngestServer) -> Counter[str]:
    """How often each event was received, also in requests that repeat another."""
    return Counter(event_id(event) for request in ingest.requests for event in request.events)


def succeeded(workers: Iterable[Worker]) -> int:
    return sum(number for (_, step), number in logged(workers).items() if step == "succeeded")


def unheard(workers: Sequence[Worker], ingest: IngestServer) -> Counter[tuple[str, str]]:
    """What happened and was not told, without the successes that Celery itself never hears of.

    When the broker is lost, Celery forgets each job of a prefork pool of which it has not read yet
    that a child accepted it. The child runs it, and logs its success, and nobody in MAIN is called:
    of this delivery MAIN, and Celery's own events, know that it was received.
    """
    heard = told(ingest)
    missing = logged(workers) - heard
    losses = sum(len(worker.matching("Connection to broker lost")) for worker in workers)
    forgotten = [
        key for key in missing if key[1] == "succeeded" and heard[key] == heard[key[0], "started"]
    ]
    if (
        workers[0].pool == "prefork" and len(forgotten) <= 2 * losses
    ):  # one for each of two children
        for key in forgotten:
            del missing[key]
    return missing


def settle(workers: Sequence[Worker], ingest: IngestServer) -> None:
    """Wait until as much was told as happened."""
    wait_for(
        lambda: not unheard(workers, ingest),
        60,
        lambda: f"what was not told: {unheard(workers, ingest)}",
    )


def assert_told_as_it_happened(workers: Sequence[Worker], ingest: IngestServer) -> None:
    """Nothing lost, nothing doubled; for workers of one pool that have ended.

    A broker gives a task again whose delivery was not acknowledged when the connection broke. That
    is a second life of the task, and Celery logs it as received a second time. Its steps may come
    between those of the first, so of such a task they are only counted.
    """
    log, heard = logged(workers), told(ingest)
    assert unheard(workers, ingest) == Counter()
    assert {key for key in heard - log if key[1] != "started"} == set()
    assert set(event_ids(ingest).values()) <= {1}
    for task_id, line in timelines(ingest.events()).items():
        received, started = heard[task_id, "received"], heard[task_id, "started"]
        assert heard[task_id, "succeeded"] == started <= received, line
        if received == started == 1:
            assert line.faults(PLAIN, sent=False) == []


def assert_one_life(worker: Worker, ingest: IngestServer) -> None:
    """One worker that came, lived, and ended: however often its consumer began again."""
    told = [event["worker"] for event in ingest.events() if "worker" in event]
    states = [each["state"] for each in told if each["externalId"] == worker.nodename]
    assert states[0] == "online"
    assert states[-1] == "offline"
    assert set(states[1:-1]) <= {"busy", "idle"}
