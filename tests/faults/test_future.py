"""A Celery that does not exist yet: what is new is taken along or left out, and nothing breaks."""

import pytest

from tests.harness import POOLS, wait_for
from tests.pools.timeline import timelines, what

pytestmark = [pytest.mark.pool, pytest.mark.redis]


def test_what_a_future_celery_tells_more_and_less(start_fleet, ingest):
    fleet = start_fleet(ingest.url, app="tests.faults.future")
    fleet.run(5)
    failing = {fleet.send("basic.fail", pool) for pool in POOLS}

    def told(task_id):
        return timelines(ingest.events())[task_id].told

    def all_failed():
        lines = timelines(ingest.events())
        return all(i in lines and what(lines[i].told[-1]) == "failed" for i in failing)

    wait_for(all_failed, 20, "the failures")
    fleet.wait_until_idle()
    for task_id in fleet.lives:
        received, started, warmed, succeeded = told(task_id)
        assert [what(event) for event in (received, started, warmed, succeeded)] == [
            "received",
            "started",
            "warmed",
            "succeeded",
        ]
        assert started["job"]["extensions"]["cpu_seconds"] == 1.5
        assert warmed["job"]["state"] == warmed["job"]["previousState"] == "active"
        assert warmed["job"]["extensions"]["degrees"] == 3
        assert succeeded["job"]["state"] == "completed"
    for task_id in failing:
        failed = told(task_id)[-1]["job"]
        assert failed["error"] == "it broke"
        assert failed["extensions"]["exceptionClass"] == "ValueError"
    assert not any(b"canary" in request.body for request in ingest.requests)
    for pool, stats in fleet.stats().items():
        assert (stats["faults"], stats["dropped_by"]) == (0, {}), pool
    fleet.end(failures=True)
    fleet.assert_whole(ingest)
    fleet.assert_quiet()
