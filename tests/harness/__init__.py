"""What tests need around them: real brokers, real workers, and waiting by condition.

    brokers.py    Valkey, RabbitMQ (servers), Broker (one fresh database or vhost of either)
    postgres.py   Postgres: a server of its own, from Debian's package
    workers.py    Worker: a real `celery worker` process; environment() for any other process
    clients.py    client_app: a Celery app of the test's own, to send with
    taps.py       CeleryEvents: what reached the broker as Celery's own events
    ports.py      free_port: a port that no other run of the tests has
    folders.py    ring_folder: a folder on tmpfs, as in production
    front.py      Front: a port, or a proxy, in front of a server, that goes wrong on demand
    processes.py  Process: a child process whose output is drained and kept
    stacks.py     where the threads and greenlets of a worker are that does not end
    missing.py    missing: skip a test for want of something, and fail it in CI
    waiting.py    wait_for: poll a condition, fail with what was last seen
    apps/         sample Celery apps that the workers run

Nothing in here imports sluice: the harness works, and is tested, without it.
"""

from tests.harness.brokers import Broker, RabbitMQ, Valkey
from tests.harness.clients import client_app
from tests.harness.missing import missing
from tests.harness.processes import Exit, Process
from tests.harness.taps import CeleryEvents
from tests.harness.waiting import wait_for
from tests.harness.workers import API_KEY, CONNECTION_ID, POOLS, QUIET, Worker, environment

__all__ = [
    "API_KEY",
    "CONNECTION_ID",
    "POOLS",
    "QUIET",
    "Broker",
    "CeleryEvents",
    "Exit",
    "Process",
    "RabbitMQ",
    "Valkey",
    "Worker",
    "client_app",
    "environment",
    "missing",
    "wait_for",
]
