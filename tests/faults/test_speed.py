"""200 tasks a second in every trouble of the API: as fast as without Sluice, and quiet."""

import os
import random
import socket
import statistics
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Iterator

import psutil
import pytest

from tests.faults.fleet import LINES_A_MINUTE
from tests.faults.troubles import ANSWERS, of_answers, of_the_network
from tests.harness import POOLS, QUIET, wait_for
from tests.pools.waiting import FAST

pytestmark = [pytest.mark.pool, pytest.mark.redis, pytest.mark.long, pytest.mark.timeout(1200)]
RATE = 200
#: For one worker in one trouble.
SECONDS = float(os.environ.get("FAULTS_SECONDS", "2"))
MIB = 1024 * 1024
#: They take turns, so that two cores are enough; the second shows how different equals are.
WORKERS = ("without", "again", "sluice")


class Latencies:
    """What the tasks tell, by label: hundreds are the trouble, units who ran it."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * MIB)
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.told: defaultdict[int, list[float]] = defaultdict(list)
        self._thread = threading.Thread(target=self._hear, daemon=True)
        self._thread.start()

    def _hear(self) -> None:
        while data := self._socket.recv(64):
            label, seconds = struct.unpack("!Id", data)
            self.told[label].append(seconds)

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join(5)
        self._socket.close()


@pytest.fixture
def latencies() -> Iterator[Latencies]:
    found = Latencies()
    yield found
    found.close()


def feed(app, latencies: Latencies, trouble: int) -> list[list[float]]:
    """Send each worker its tasks, one worker after the other; the latencies of each."""
    told: list[list[float]] = [[] for _ in WORKERS]
    for place in random.sample(range(len(WORKERS)), len(WORKERS)):
        label = 100 * trouble + place
        number = 0
        with app.producer_pool.acquire(block=True) as producer:
            begin = time.monotonic()
            while (now := time.monotonic()) - begin < SECONDS:
                if number >= (now - begin) * RATE:
                    time.sleep(0.2 / RATE)
                    continue
                args = (label, time.monotonic())
                app.send_task("timed.note", args, queue=WORKERS[place], producer=producer)
                number += 1
        wait_for(lambda label=label, n=number: len(latencies.told[label]) == n, 10, "all of them")
        told[place] = latencies.told[label]
    return told


@pytest.mark.parametrize("pool", POOLS)
def test_tasks_are_as_fast_in_every_trouble(
    pool, redis_broker, start_worker, client, addresses, latencies
):
    address = addresses()
    workers = {
        who: start_worker(
            redis_broker,
            pool=pool,
            app="tests.faults.timed",
            args=(*QUIET, "-Q", who),
            ingest_url=address.url,
            init=who == "sluice",
            loglevel="WARNING",
            wait=False,
            extra=FAST
            | {"REQUESTS_CA_BUNDLE": str(address.bundle), "TIMED_PORT": str(latencies.port)},
        )
        for who in WORKERS
    }
    app = client(redis_broker)
    for place, who in enumerate(WORKERS):  # a worker that only warns does not say "ready"
        app.send_task("timed.note", (place, time.monotonic()), queue=who)
    wait_for(lambda: all(latencies.told[place] for place in range(3)), 60, "all workers")
    main = psutil.Process(workers["sluice"].pid)
    troubles = of_the_network(address) | of_answers(address.server, ANSWERS)
    feed(app, latencies, 1)  # to be warm
    sizes, ratios, between_equals = [], [], []
    begin = time.monotonic()
    print(
        f"\n{pool:36}{'p50 ms':>8}{'again':>8}{'sluice':>8}{'p95 ms':>8}{'again':>8}{'sluice':>8}"
    )
    for number, (name, trouble) in enumerate(troubles.items(), 2):
        with trouble():
            told = feed(app, latencies, number)
        p50 = [statistics.median(one) * 1000 for one in told]
        p95 = [statistics.quantiles(one, n=20)[-1] * 1000 for one in told]
        print(f"{name:36}" + "".join(f"{value:8.2f}" for value in (*p50, *p95)), flush=True)
        ratios.append(2 * p50[2] / (p50[0] + p50[1]))
        between_equals.append(p50[1] / p50[0])
        sizes.append(main.memory_info().rss)
    minutes = (time.monotonic() - begin) / 60
    said = workers["sluice"].matching("[sluice]")
    print(
        f"p50 sluice/without: median {statistics.median(ratios):.3f}"
        f" ({min(ratios):.3f} to {max(ratios):.3f}); again/without:"
        f" {statistics.median(between_equals):.3f}"
        f" ({min(between_equals):.3f} to {max(between_equals):.3f});"
        f" {(sizes[-1] - sizes[2]) / MIB:+.1f} MiB since the third; {len(said)} lines"
    )
    spread = max(abs(1 - ratio) for ratio in between_equals)
    assert statistics.median(ratios) < 1 + max(spread, 0.1)
    assert sizes[-1] - sizes[2] < 9 * MIB  # the buffer's own pages, which fill up once
    assert len(said) < LINES_A_MINUTE * minutes
