"""From `task.delay()` in a process, over a real broker and worker, to the row on screen."""

from __future__ import annotations

import math
import statistics
import sys

import pytest
from playwright.sync_api import expect

from tests.collector.test_real_tasks import WITHOUT_KEY
from tests.harness import QUIET, environment

pytestmark = [
    pytest.mark.xdist_group("page"), pytest.mark.long, pytest.mark.pool, pytest.mark.redis,
]  # fmt: skip

SAMPLES = 60
#: Seconds: the SDK's interval of delivery is one.
P95 = 2.5
#: Says when each task was sent; they come at no beat that an interval could fall in with.
SENDER = """
import random, time
from tests.harness.apps.basic import ok
print("ready", flush=True)
for _ in range({samples}):
    time.sleep(random.uniform(0.1, 0.9))
    at = time.time()
    print("sent", ok.delay().id, at, flush=True)
time.sleep(600)
"""
#: When each row came to stand on the screen, and when it was shown as completed: with the frame.
NOTE_ROWS = """() => {
  window.seen = {};
  window.ended = {};
  const note = () => {
    for (const row of document.querySelectorAll("#tasks tr[data-id]")) {
      window.seen[row.dataset.id] ??= Date.now();
      if (row.dataset.state === "completed") window.ended[row.dataset.id] ??= Date.now();
    }
  };
  new MutationObserver(() => requestAnimationFrame(note)).observe(
    document.querySelector("#tasks"), { subtree: true, childList: true });
}"""


def told(what: str, times: list[float]) -> float:
    p95 = sorted(times)[math.ceil(0.95 * len(times)) - 1]
    middle = statistics.median(times)
    print(f"  {what}: p50 {middle:.2f} s, p95 {p95:.2f} s, at most {max(times):.2f} s")
    return p95


@pytest.mark.timeout(600)
def test_a_task_is_on_screen_soon_after_it_was_sent(
    redis_broker, start_worker, start_process, collector, visit, spool_dir
):
    running = collector()
    extra = {**WITHOUT_KEY, "SLUICE_DEV": running.url}
    start_worker(redis_broker, args=QUIET, extra=extra)
    page = visit(running, "/?view=tasks")
    expect(page.locator("#connection")).to_have_attribute("data-state", "live")
    page.evaluate(NOTE_ROWS)
    env = environment(
        redis_broker.url, result_url=redis_broker.result_url, spool_dir=spool_dir, extra=extra
    )
    argv = [sys.executable, "-c", SENDER.format(samples=SAMPLES)]
    sender = start_process(argv, env=env, name="sender")
    sender.wait_line("ready", 30)
    page.wait_for_function(f"() => Object.keys(window.ended).length === {SAMPLES}", timeout=180_000)
    sent = {task: float(at) for _, task, at in (line.split() for line in sender.matching("sent "))}
    print()
    assert len(sent) == SAMPLES
    for what in ("seen", "ended"):
        at = page.evaluate(f"() => window.{what}")
        late = told(f"from delay() to {what}", [at[one] / 1000 - sent[one] for one in sent])
        assert late < P95, what
