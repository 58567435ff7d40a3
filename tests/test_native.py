"""The island: what the sender gets is unpatched, and the application does not notice."""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.harness.processes import ROOT

SETUP = """
import json, sys, warnings
warnings.simplefilter("ignore")
if {library!r} == "gevent":
    import gevent.monkey; gevent.monkey.patch_all()
elif {library!r} == "eventlet":
    import eventlet; eventlet.monkey_patch()
{before}
modules = dict(sys.modules)
attributes = {{name: dict(vars(module)) for name, module in modules.items()
              if name in ("urllib", "email", "http", "logging", "concurrent", "requests")}}
from sluice.detect import detect
from sluice.native import load
island = load(detect())
report = {{}}
{check}
print(json.dumps(report))
"""


def run(library: str, check: str, before: str = "") -> dict[str, Any]:
    code = SETUP.format(library=library, check=check, before=before)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.fixture(params=["gevent", "eventlet"])
def library(request: pytest.FixtureRequest) -> str:
    return request.param


def test_an_unpatched_process_gets_its_ordinary_modules() -> None:
    report = run("none", "report['same'] = island.requests is sys.modules['requests']")
    assert report["same"]


@pytest.mark.parametrize("before", ["", "import requests, tenacity, celery, urllib.request"])
def test_the_application_keeps_its_modules_object_for_object(library: str, before: str) -> None:
    report = run(
        library,
        """
own = {name for name in sys.modules if name.startswith("sluice") or name == "msgspec"}
report["changed"] = [n for n in modules if sys.modules.get(n) is not modules[n]]
report["new"] = sorted(
    n for n in sys.modules if n not in modules and n.startswith(("requests", "urllib3", "tenacity"))
)
report["attributes"] = [
    f"{n}.{a}" for n, saved in attributes.items() for a in saved
    if vars(modules[n]).get(a) is not saved[a]
]
""",
        before,
    )
    assert report == {"changed": [], "new": [], "attributes": []}


def test_the_copies_are_the_operating_systems_own(library: str) -> None:
    report = run(
        library,
        """
import socket, time
report["socket"] = island.socket.socket is socket.socket
report["bases"] = [f"{c.__module__}.{c.__name__}" for c in island.socket.socket.__mro__]
report["sleep"] = type(island.time.sleep).__name__
report["lock"] = type(island.threading.Lock).__name__ + island.threading.Lock.__module__
report["poll"] = hasattr(island.select, "poll")
""",
    )
    assert report["socket"] is False
    assert report["bases"] == ["socket.socket", "_socket.socket", "builtins.object"]
    assert report["sleep"] == "builtin_function_or_method"
    assert "_thread" in report["lock"]
    assert report["poll"] is True


def test_an_import_inside_a_function_of_a_copy_finds_the_copy(library: str) -> None:
    """urllib3 does so at every response; the application's would be a green one."""
    report = run(
        library,
        """
function = island.requests.get
code = "def late():\\n import urllib3.response, socket\\n from urllib3 import connection\\n" \\
       " return urllib3, socket, connection"
exec(code, vars(island.requests))
urllib3, socket, connection = vars(island.requests)["late"]()
report["urllib3"] = urllib3 is vars(island.requests)["urllib3"]
report["socket"] = socket is island.socket
report["connection"] = connection.socket is not None
report["public"] = sorted(n for n in ("urllib3", "requests") if n in sys.modules)
""",
    )
    assert report == {"urllib3": True, "socket": True, "connection": True, "public": []}


def test_tls_takes_a_socket_of_the_island(library: str) -> None:
    """The C half of ssl accepts the sockets of one `_socket` only."""
    report = run(
        library,
        """
left, right = island.socket.socketpair()
ssl = vars(sys.modules[island.__module__])["importlib"] and None
pool = island.requests.adapters.PoolManager.__init__.__globals__["HTTPSConnectionPool"]
ssl = pool.ConnectionCls.__init__.__globals__["ssl"]
wrapped = ssl.create_default_context().wrap_socket(
    left, server_hostname="localhost", do_handshake_on_connect=False
)
report["class"] = type(wrapped).__name__
""",
    )
    assert report == {"class": "SSLSocket"}


def test_a_first_import_of_a_shared_packages_module_leaves_it_usable(library: str) -> None:
    report = run(
        library,
        """
import email.parser, http.client, urllib.request, subprocess
report["headers"] = email.parser.Parser().parsestr("A: b")["A"]
report["green"] = subprocess.__name__
client = island.requests.adapters.PoolManager.__init__.__globals__["HTTPSConnectionPool"]
base = client.ConnectionCls.__mro__[2]
import io
parse = base.getresponse.__globals__["parse_headers"]
report["parsed"] = dict(parse(io.BytesIO(b"C: d\\r\\n\\r\\n")))
""",
    )
    assert report["headers"] == "b"
    assert report["parsed"] == {"C": "d"}


def test_a_hidden_library_is_there_again_afterwards(library: str) -> None:
    report = run(
        library,
        "report['hidden'] = sys.modules.get('tornado', 'not imported') is None",
    )
    assert report == {"hidden": False}


@pytest.mark.parametrize("before", ["", "import requests"])
def test_the_copies_have_no_tables_of_encodings_and_the_application_has(
    library: str, before: str
) -> None:
    """requests brings 3 MiB of them, to guess at the encoding of texts."""
    report = run(
        library,
        """
import io
report["copies"] = [n for n in island.requests.__builtins__["__import__"].__self__._modules
                    if n.startswith("charset_normalizer.")]
import requests
text = "\u00e4\u00f6\u00fc wei\u00df es".encode()
report["guess"] = requests.compat.chardet.detect(text)["encoding"]
report["real"] = sys.modules["charset_normalizer"].__file__ is not None
response = island.requests.Response()
response.raw = io.BytesIO(b"{}")
report["read"] = response.content.decode()
""",
        before,
    )
    assert report == {"copies": [], "guess": "utf-8", "real": True, "read": "{}"}
