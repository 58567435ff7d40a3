"""The API itself goes through every trouble, for all pools: tasks run as ever, then all arrives."""

import contextlib
import statistics
from collections.abc import Mapping
from operator import sub
from types import MappingProxyType

import pytest

from sluice.ring import SMALLEST_RING
from sluice.testing import Answer, IngestServer
from sluice.testing.http import reject_if
from tests.faults.fleet import Fleet
from tests.faults.troubles import ANSWERS, of_answers
from tests.harness import POOLS, wait_for
from tests.pools.timeline import Event, at
from tests.pools.waiting import FAST, wait_lives

pytestmark = [pytest.mark.pool, pytest.mark.redis]
TASKS = 10
EMPTY: Mapping[str, float] = MappingProxyType({})

#: What somebody has to mend: asked about every five minutes only, or by the next worker.
REFUSALS = {
    "mixed": {"prefork": 401, "gevent": 403, "eventlet": 404, "threads": 307, "solo": 401},
    **{str(status): dict.fromkeys(POOLS, status) for status in (401, 403, 404, 307)},
}


def test_all_pools_live_through_every_trouble(start_fleet, ingest):
    start_fleet(ingest.url).live_through(of_answers(ingest, ANSWERS), ingest)


def test_heartbeats_go_on_while_the_api_takes_its_time(start_fleet, ingest):
    """Each answer takes longer than a receiver waits for one: they are made all the same."""
    extra = {"SLUICE_REQUEST_TIMEOUT": "5,30", "SLUICE_FLUSH_INTERVAL": "1"}
    fleet: Fleet = start_fleet(ingest.url, extra=extra)
    ingest.answer = Answer(delay=7.0)
    begin = {pool: at(beats[-1]) for pool, beats in _beats(fleet, ingest, at_least=1).items()}
    beats = _beats(fleet, ingest, at_least=6, since=begin)
    ingest.answer = Answer()
    for pool, told in beats.items():
        times = [begin[pool], *map(at, told)]
        gaps = list(map(sub, times[1:], times))
        assert 1.7 < statistics.mean(gaps) < 2.5, (pool, times)
        assert max(gaps) < 5.0, (pool, times)
    fleet.end()
    fleet.assert_whole(ingest)


def _beats(
    fleet: Fleet, ingest: IngestServer, *, at_least: int, since: Mapping[str, float] = EMPTY
) -> dict[str, list[Event]]:
    """Wait until so many heartbeats of each worker have come: those after `since`."""
    pools = {worker.pid: pool for pool, worker in fleet.workers.items()}
    found: dict[str, list[Event]] = {}

    def enough() -> bool:
        found.update({pool: [] for pool in pools.values()})
        for event in ingest.events():
            if "worker" in event:
                pool = pools[event["worker"]["pid"]]
                if event["worker"]["state"] in ("busy", "idle") and at(event) > since.get(pool, 0):
                    found[pool].append(event)
        return all(len(told) >= at_least for told in found.values())

    wait_for(enough, 60, f"{at_least} heartbeats of each worker")
    return found


def test_a_bad_event_is_dropped_and_told_of_and_the_rest_goes_on(start_fleet, ingest):
    """In a batch of others; and an API that takes no more than four at a time."""
    bad: set[str] = set()
    refuse_bad = reject_if(lambda event: event.get("job", {}).get("externalId") in bad)
    ingest.answer = lambda received: (
        Answer(status=413) if len(received.events) > 4 else refuse_bad(received)
    )
    fleet: Fleet = start_fleet(ingest.url, extra={"SLUICE_FLUSH_INTERVAL": "1"})
    fleet.run(TASKS)
    bad |= {fleet.send("basic.no_result", pool) for pool in POOLS}
    fleet.run(TASKS)
    wait_lives(ingest, fleet.lives, timeout=40)

    def all_told() -> bool:
        """Received, started, succeeded: three of each worker's."""
        counts = fleet.stats().values()
        return all(stats["dropped_by"] == {"rejected": 3} for stats in counts)

    wait_for(all_told, 20, "the drops of every worker")
    assert all(stats["adds_up"] for stats in fleet.stats().values())
    fleet.end()
    assert not any(event.get("job", {}).get("externalId") in bad for event in ingest.events())
    assert fleet.assert_counted(ingest) == 3 * len(POOLS)


def test_what_a_full_buffer_overwrote_is_counted_and_told_of(start_fleet, ingest):
    """Each worker's whole life but the newest, which is what the smallest buffer holds."""
    ingest.answer = Answer(status=503)
    fleet: Fleet = start_fleet(ingest.url, extra={"SLUICE_BUFFER_BYTES": str(SMALLEST_RING)})
    fleet.run(100)
    fleet.wait_for_a_try()
    ingest.answer = Answer()
    counts = fleet.wait_until_idle()
    for pool, stats in counts.items():
        assert stats["adds_up"], pool
        assert stats["dropped_by"].keys() == {"overwritten"}, pool
        assert 100 < stats["dropped_by"]["overwritten"] < 300, pool
    fleet.run(TASKS)
    fleet.end()
    dropped = sum(stats["dropped_by"]["overwritten"] for stats in counts.values())
    assert fleet.assert_counted(ingest) == dropped


@pytest.mark.parametrize(
    "refusals",
    [pytest.param(REFUSALS["mixed"], id="mixed")]
    + [
        pytest.param(statuses, id=name, marks=pytest.mark.long)
        for name, statuses in REFUSALS.items()
        if name != "mixed"
    ],
)
def test_what_was_refused_is_delivered_by_the_next_worker(
    refusals, start_fleet, start_worker, redis_broker, ingest, spool_dir
):
    """A wrong key or address: one line, hardly a request, and nothing lost."""
    servers = {pool: IngestServer(answer=Answer(status=s)) for pool, s in refusals.items()}
    fleet: Fleet = start_fleet({pool: server.url for pool, server in servers.items()})
    fleet.run(TASKS)
    wait_for(lambda: all(s["requests"] for s in fleet.stats().values()), 20, "a try of each")
    fleet.run(TASKS)
    assert all(stats["adds_up"] for stats in fleet.stats().values())
    fleet.end()
    fleet.assert_quiet()
    for pool, server in servers.items():
        server.close()
        assert len(server.requests) <= 3, "tried again rarely"
        lines = [line for line in fleet.said()[pool] if "Monitoring is inactive" in line]
        assert len(lines) == 1, pool
    heir = start_worker(
        redis_broker, pool="solo", args=("-Q", "none"), ingest_url=ingest.url, extra=FAST
    )
    wait_lives(ingest, fleet.lives, timeout=40)
    assert heir.stop().code == 0
    fleet.assert_whole(ingest)
    assert list(spool_dir.iterdir()) == []


class Together:
    """What several servers were told."""

    def __init__(self, *servers: IngestServer) -> None:
        self._servers = servers

    def events(self) -> list[Event]:
        return [event for server in self._servers for event in server.events()]


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_worker_that_was_refused_asks_again_and_delivers(start_fleet):
    """After five minutes; four workers of each pool, each refused in another way."""
    answers = {
        **{str(status): Answer(status=status) for status in (401, 403, 404)},
        "redirect": Answer(status=307, headers={"Location": "http://127.0.0.1:9/"}),
    }
    with contextlib.ExitStack() as stack:
        servers = {
            name: stack.enter_context(IngestServer(answer=one)) for name, one in answers.items()
        }
        every = Together(*servers.values())
        urls = {f"{pool}-{name}": servers[name].url for pool in POOLS for name in answers}
        fleet: Fleet = start_fleet(urls)
        fleet.run(TASKS)
        wait_for(lambda: all(s["requests"] for s in fleet.stats().values()), 20, "a try of each")
        for server in servers.values():
            server.answer = Answer()
        before = fleet.stats()
        fleet.run(TASKS)
        assert every.events() == []
        fleet.wait_for_a_try(before, 400)
        wait_lives(every, fleet.lives, timeout=40)
        assert all(stats["adds_up"] for stats in fleet.stats().values())
        fleet.end()
        fleet.assert_whole(every)
        fleet.assert_quiet()
