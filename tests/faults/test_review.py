"""`before_send` in real workers: it decides, and what it breaks is its own."""

import pytest

from tests.harness import POOLS, wait_for
from tests.pools.timeline import timelines
from tests.pools.waiting import FAILS, FAST, PLAIN, wait_lives

pytestmark = [pytest.mark.pool, pytest.mark.redis]


@pytest.mark.parametrize("pool", POOLS)
def test_it_decides_and_what_it_breaks_is_its_own(pool, redis_broker, start_worker, client, ingest):
    worker = start_worker(
        redis_broker, pool=pool, app="tests.faults.reviewed", ingest_url=ingest.url, extra=FAST
    )
    app = client(redis_broker)
    kept_back = [app.send_task(name).id for name in ("basic.ignored", "basic.custom_base")]
    failed = app.send_task("basic.fail", ("a name",)).id
    slow = app.send_task("basic.acks_late").id
    last = app.send_task("basic.ok").id
    wait_lives(ingest, {failed: FAILS, slow: PLAIN, last: PLAIN})
    lines = timelines(ingest.events())
    assert lines[failed].end["job"]["error"] == "not for you"
    assert not set(kept_back) & set(lines)
    told = [each for task in (failed, slow, last) for each in lines[task].told]
    (by,) = {each["job"]["extensions"]["by"] for each in told}
    main = f"{worker.pid}/task/"
    assert by.startswith(main), "in MAIN"
    assert by != f"{main}{worker.pid}", "and not on its first thread, where tasks or the loop run"
    wait_for(lambda: len(worker.matching("[sluice] before_send")) == 2, 15, "two lines")
    assert worker.matching("before_send failed (ValueError)")
    assert worker.matching("before_send took more than 0.1 s")
    assert worker.stop().code == 0
