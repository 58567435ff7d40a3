"""One worker of each pool, which share one API, and what arrived from each of them."""

import signal
from collections.abc import Mapping
from typing import Any

from celery import Celery

from sluice.testing import IngestServer
from tests.faults.troubles import Trouble
from tests.harness import Worker, wait_for
from tests.pools.timeline import drops_reported, event_id
from tests.pools.waiting import PLAIN, wait_lives

#: Of each pool, in each trouble.
_TASKS = 10
LINES_A_MINUTE = 10


class Fleet:
    """Workers by pool, each on the queue that is named like its pool."""

    def __init__(self, workers: Mapping[str, Worker], client: Celery) -> None:
        self.workers = workers
        self._client = client
        self._ran = 0
        #: The life of every task so far, as `wait_lives` takes it.
        self.lives: dict[str, tuple[str, ...]] = {}

    def wait_until_it_listens(self) -> "Fleet":
        """Until every worker answers control messages: a green one does so after "ready"."""
        for worker in self.workers.values():
            worker.wait_ready(60)
        names = [worker.nodename for worker in self.workers.values()]

        def all_answer() -> bool:
            answers = self._client.control.ping(names, timeout=1.0)
            return {name for answer in answers for name in answer} == set(names)

        wait_for(all_answer, 30, "every worker to listen")
        return self

    def send(self, name: str, pool: str) -> str:
        """Send a task that `run` does not wait for, and that is in no life."""
        task_id: str = self._client.send_task(name, queue=pool).id
        return task_id

    def run(self, number: int) -> None:
        """Send each worker so many tasks and wait until all of them have succeeded."""
        for pool in self.workers:
            for _ in range(number):
                self.lives[self._client.send_task("basic.no_result", queue=pool).id] = PLAIN
        self._ran += number
        for worker in self.workers.values():
            worker.wait_line("succeeded", 20, count=self._ran)

    def stats(self) -> dict[str, dict[str, Any]]:
        """`sluice.stats()` of every worker, by pool."""
        return self._ask("sluice_stats")

    def _ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        names = {worker.nodename: pool for pool, worker in self.workers.items()}
        answers = self._client.control.broadcast(
            command, arguments, destination=list(names), reply=True, timeout=60, limit=len(names)
        )
        found = {names[name]: answer for one in answers for name, answer in one.items()}
        assert found.keys() == self.workers.keys()
        return found

    def capture(self, number: int) -> dict[str, int]:
        """Have MAIN of every worker capture so many events; its bytes in memory after that."""
        return self._ask("sluice_capture", number=number)

    def live_through(self, troubles: Mapping[str, Trouble], ingest: IngestServer) -> None:
        """Tasks run in each trouble, and after it everything arrives; nothing is lost in all."""
        for trouble in troubles.values():
            with trouble():
                self.run(_TASKS)
                self.wait_for_a_try()
            wait_lives(ingest, self.lives, timeout=40)
        assert all(stats["adds_up"] for stats in self.stats().values())
        self.end()
        self.assert_whole(ingest)
        self.assert_quiet()

    def wait_until_idle(self) -> dict[str, dict[str, Any]]:
        """Until nothing waits to be sent, nor is being sent, by any worker; its counts then."""
        found: dict[str, dict[str, Any]] = {}

        def idle() -> bool:
            found.update(self.stats())
            return not any(stats["pending"] for stats in found.values())

        wait_for(idle, 60, "every worker to be idle")
        return found

    def wait_for_a_try(
        self, since: dict[str, dict[str, Any]] | None = None, timeout: float = 60
    ) -> None:
        """Until every worker has begun to send once more than now, or than at `since`."""
        before = since or self.stats()

        def all_tried() -> bool:
            now = self.stats()
            return all(now[pool]["requests"] > before[pool]["requests"] for pool in before)

        wait_for(all_tried, timeout, "every worker to have tried")

    def end(self, *, failures: bool = False) -> None:
        """Stop all workers at once, each of which must end well, with no error but of a task."""
        for worker in self.workers.values():
            worker.send_signal(signal.SIGTERM)
        for pool, worker in self.workers.items():
            assert worker.wait() == 0, pool
            wrong = [line for line in worker.lines if "Traceback" in line or "ERROR" in line]
            assert failures or not wrong, pool

    def numbers(self, ingest: IngestServer) -> dict[str, list[int]]:
        """The numbers of each worker's events, in the order in which they were accepted first."""
        pools = {worker.pid: pool for pool, worker in self.workers.items()}
        rings: dict[str, str] = {}
        found: dict[str, list[int]] = {}
        for event in ingest.events():
            ring, _, number = event_id(event).rpartition("-")
            if "worker" in event and event["worker"]["extensions"].get("reason") != "killed":
                rings[pools.get(event["worker"]["pid"], "another worker")] = ring
            found.setdefault(ring, []).append(int(number))
        return {pool: found[ring] for pool, ring in rings.items()}

    def said(self) -> dict[str, list[str]]:
        """The lines of log that Sluice wrote, by pool."""
        return {
            pool: [line for line in worker.lines if "[sluice]" in line]
            for pool, worker in self.workers.items()
        }

    def assert_whole(self, ingest: IngestServer) -> None:
        """Nothing that a worker of this fleet captured is missing, or came out of order."""
        numbers = self.numbers(ingest)
        assert numbers.keys() >= self.workers.keys()
        for pool in self.workers:
            assert numbers[pool] == list(range(len(numbers[pool]))), pool

    def missing(self, ingest: IngestServer) -> int:
        """How many of what the workers captured did not arrive; the others did in order."""
        numbers = self.numbers(ingest)
        assert numbers.keys() >= self.workers.keys()
        for pool in self.workers:
            assert numbers[pool] == sorted(set(numbers[pool])), pool
        return sum(numbers[pool][-1] + 1 - len(numbers[pool]) for pool in self.workers)

    def assert_counted(self, ingest: IngestServer) -> int:
        """What is missing was reported as dropped; how much that is."""
        missing = self.missing(ingest)
        assert missing == drops_reported(ingest.events())
        return missing

    def assert_quiet(self) -> None:
        """A kind of line is said once a minute at most, and there are a few."""
        for pool, lines in self.said().items():
            assert len(lines) < LINES_A_MINUTE, pool
