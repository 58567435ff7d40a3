"""Real web servers on a free port, each with two worker processes, started as users start them."""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from urllib.request import ProxyHandler, build_opener

from tests.harness import Process, wait_for

WORKERS = 2
APPS = {
    "django": "tests.faults.web.shop.wsgi:application",
    "flask": "tests.faults.web.flask_app:app",
    "fastapi": "tests.faults.web.fastapi_app:app",
}
_ask = build_opener(ProxyHandler({})).open  # no proxy of the environment comes between


def gunicorn(framework: str, worker_class: str, *options: str) -> list[str]:
    """A command line; without the control socket, which would be a file in the user's home."""
    argv = [sys.executable, "-m", "gunicorn", "-b", "127.0.0.1:0", "-w", str(WORKERS)]
    return [*argv, "-k", worker_class, "--no-control-socket", *options, APPS[framework]]


def uvicorn(framework: str, *options: str) -> list[str]:
    argv = [sys.executable, "-m", "uvicorn", "--port", "0", "--workers", str(WORKERS)]
    return [*argv, *options, APPS[framework]]


class WebServer:
    """A server that runs, and who of its processes has answered."""

    def __init__(
        self,
        start_process: Callable[..., Process],
        argv: Sequence[str],
        env: Mapping[str, str],
    ) -> None:
        self.process = start_process(argv, env=env, name=argv[2])

    def _url(self, path: str) -> str:
        if self.process.name == "uvicorn":  # says where before it listens
            self.process.wait_line("Application startup complete.", 30, count=WORKERS)
        line = self.process.wait_line("http://127.0.0.1:", 30)[0]
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert found, line
        return found[0] + path

    def ask_all(self, path: str) -> list[list[str]]:
        """The answers to requests, two at a time, until each worker process has given one."""
        url, answers = self._url(path), []

        def get(_: object) -> list[str]:
            with _ask(url, timeout=30) as answer:
                return answer.read().decode().split(maxsplit=2)

        def each() -> bool:
            answers.extend(clients.map(get, range(2)))
            return len({pid for pid, *_ in answers}) == WORKERS

        with ThreadPoolExecutor(2) as clients:
            wait_for(each, 30, lambda: f"{WORKERS} processes to answer, not only {answers}")
        return answers
