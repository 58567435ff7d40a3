"""Who may ask for what: other sites, other names, other machines; and what every answer forbids."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from sluice.collector import guard as module
from sluice.collector.guard import Guard
from sluice.collector.options import BadOption, Options
from sluice.collector.reader import Reader
from sluice.collector.server import greeting
from tests.collector.conftest import Running
from tests.collector.wire import job, queue, worker

TOKEN = "correct-horse-battery"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
READS = ["/api/jobs", "/api/now", "/api/events", "/api/export", "/api/live", "/api/openapi.json"]


def asked(one, path: str, method: str = "GET", **headers: str) -> Any:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return one.session.request(
        method, one.url + path, headers=names, timeout=20, allow_redirects=False, stream=True
    )


def is_forbidden(answer: Any) -> bool:
    return answer.status_code == 403 and answer.json()["error"]["code"] == "FORBIDDEN"


# --- Host -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:5580", "127.0.0.1.evil.example", "localhost.evil.example"),
        *("192.168.0.7:5580", "[::2]:5580", "", "[", "[::1", "localhost.", "127.0.0.1, localhost"),
        *("127.0.0.2", "0.0.0.0", "LOCALHOST.evil", "user@evil.example", "127.0.0.1@evil.example"),
        *("evil.example@localhost", "localhost/x", "localhost?x", "localhost#x", "localhost\\x"),
    ],
)
@pytest.mark.parametrize("path", ["/", "/api/health"])
def test_a_name_that_was_made_to_point_here_is_refused(one, host, path):
    assert is_forbidden(asked(one, path, Host=host))


def test_no_event_is_taken_under_another_name(one):
    answer = asked(one, "/api/ingest", "POST", Host="evil.example", Authorization="Bearer sk_x")
    assert is_forbidden(answer)


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1:1", "[::1]", "LocalHost:5580", "[::1]:80"]
)
def test_this_machines_own_names_are_fine(one, host):
    assert asked(one, "/api/health", Host=host).status_code == 200


def test_a_name_can_be_allowed(collector):
    one = collector(allowed_hosts=("Sluice.Example", "fd00::1"))
    for host in ("sluice.example:5580", "[fd00::1]:80", socket.gethostname()):
        assert asked(one, "/api/health", Host=host).status_code == 200
    assert is_forbidden(asked(one, "/api/health", Host="other.example"))


def test_behind_a_name_for_others_a_token_and_a_key_are_asked_for(collector):
    """What is before it lets others in, also where it listens for this machine alone."""
    one = collector(allowed_hosts=("team.example",))
    assert asked(one, "/api/jobs", Host="team.example").status_code == 401
    assert one.post_events([job("a", "queued")], key="sk_any").status_code == 401
    assert one.post_events([job("a", "queued")]).status_code == 200


def test_the_url_that_is_printed_is_one_that_answers(collector):
    one = collector(host="0.0.0.0", allowed_hosts=("team.example",))
    page = greeting(one.collector, one.port)[0].split()[-1]
    assert page.startswith(f"http://team.example:{one.port}/?token=")
    assert asked(one, "/api/health", Host=f"team.example:{one.port}").status_code == 200


@pytest.mark.parametrize("name", ["http://a.example", "a.example:5580", "[fd00::1]", "a b", ""])
def test_a_name_that_would_never_match_is_refused(name):
    with pytest.raises(BadOption, match="--allowed-host"):
        Options(allowed_hosts=(name,))


# --- other sites ----------------------------------------------------------------------------------

FOREIGN = [
    *({"Origin": one} for one in ("http://evil.example", "null", "http://localhost.evil", "x")),
    *(
        {"Origin": one}
        for one in ("http://[", "http://]:80", "//", "http://127.0.0.1:1", "http://")
    ),
    *({"Sec_Fetch_Site": one} for one in ("cross-site", "same-site", "anything")),
]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
@pytest.mark.parametrize("path", READS)
def test_a_page_of_another_site_reads_nothing(one, path, headers):
    assert is_forbidden(asked(one, path, **headers))


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_a_page_of_another_site_changes_nothing(one, headers):
    one.post_events([job("a", "queued")])
    assert is_forbidden(asked(one, "/api/clear", "POST", **headers))
    assert is_forbidden(asked(one, "/api/ingest", "POST", Authorization="Bearer sk_x", **headers))
    assert len(one.get("/api/jobs").json()["jobs"]) == 1


def test_the_page_itself_may(one):
    own = {"Origin": one.url, "Sec_Fetch_Site": "same-origin"}
    assert asked(one, "/api/jobs", Sec_Fetch_Site="same-origin").status_code == 200
    assert asked(one, "/api/jobs", Sec_Fetch_Site="none").status_code == 200
    assert asked(one, "/api/clear", "POST", **own).status_code == 200


def test_a_link_from_elsewhere_opens_the_page(one):
    assert asked(one, "/", Sec_Fetch_Site="cross-site").status_code == 200


def test_another_site_may_know_that_it_runs(one):
    assert asked(one, "/api/health", Sec_Fetch_Site="cross-site").status_code == 200


# --- every answer ---------------------------------------------------------------------------------


def is_guarded(answer: Any) -> None:
    assert answer.headers["content-security-policy"] == POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert answer.headers["cross-origin-opener-policy"] == "same-origin"
    assert "cache-control" in answer.headers
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]
    assert "server" not in answer.headers


@pytest.mark.parametrize(
    ("path", "status"),
    [
        *(("/", 200), ("/page/main.js", 200), ("/api/jobs", 200), ("/api/live", 200)),
        *(("/api/export?format=csv", 200), ("/nothing", 404), ("/page/nothing.js", 404)),
        *(("/api/jobs?x=1", 400), ("/api/ingest", 405), ("/api/jobs/nobody", 404)),
        *(("/api/workers/", 307), ("/api/health", 200), ("/api/openapi.json", 200)),
    ],
)
def test_every_answer_forbids_what_is_not_needed(one, path, status):
    answer = asked(one, path, Origin=one.url)
    assert answer.status_code == status
    is_guarded(answer)


def test_refusals_and_faults_do_too(collector, monkeypatch):
    one = collector(token=TOKEN)
    one.session.cookies.clear()
    for answer, status in (
        (asked(one, "/api/jobs"), 401),
        (asked(one, "/"), 401),
        (asked(one, f"/?token={TOKEN}"), 303),
        (asked(one, "/", Host="evil.example"), 403),
        (asked(one, "/api/ingest", "POST"), 401),
    ):
        assert answer.status_code == status
        is_guarded(answer)
    monkeypatch.setattr(Reader, "_run", lambda *_: 1 / 0)
    answer = asked(one, "/api/jobs", Authorization=f"Bearer {TOKEN}")
    assert answer.status_code == 500
    is_guarded(answer)


@pytest.mark.parametrize("path", ["/api/jobs", "/api/ingest", "/api/clear"])
def test_no_preflight_of_another_site_is_granted(one, path):
    answer = asked(
        *(one, path, "OPTIONS"),
        Origin="http://evil.example",
        Access_Control_Request_Method="POST",
    )
    assert is_forbidden(answer)
    is_guarded(answer)


# --- the token ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def _closed() -> Iterator[Running]:
    running = Running(token=TOKEN)
    yield running
    running.close()


@pytest.fixture
def closed(_closed: Running) -> Running:
    """A collector that asks for a token, and nobody who has it."""
    _closed.session.cookies.clear()
    return _closed


@pytest.mark.parametrize("path", [*READS, "/", "/page/main.js", "/api/clear", "/nothing", "/api/"])
def test_without_the_token_there_is_nothing(closed, path):
    answer = asked(closed, path)
    assert answer.status_code == 401
    assert TOKEN not in answer.text


def test_ingest_and_health_need_none(closed):
    assert asked(closed, "/api/health").status_code == 200
    assert closed.post_events([job("a", "queued")]).status_code == 200


@pytest.mark.parametrize("path", ["/api/ingest/", "/api/health/", "/api//health", "/api/ingest/x"])
def test_nothing_near_them_is_open(closed, path):
    assert asked(closed, path).status_code == 401


@pytest.mark.parametrize("header", [f"Bearer {TOKEN}", f"bearer {TOKEN}"])
def test_a_command_shows_it_as_a_bearer(closed, header):
    assert asked(closed, "/api/jobs", Authorization=header).status_code == 200


@pytest.mark.parametrize(
    "header",
    [
        *("Bearer wrong", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", TOKEN),
        *("Bearer ", "Bearer", "", f"Bearer  {TOKEN}", "Bearer \xfc", f"Bearer {TOKEN} {TOKEN}"),
    ],
)
def test_a_wrong_token_is_refused(closed, header):
    answer = asked(closed, "/api/jobs", Authorization=header.encode("latin-1"))
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "UNAUTHORIZED"


def test_a_browser_brings_it_once_and_keeps_the_rest_of_the_address(closed):
    query = "state=failed&q=a%26b%20%C3%A9%2B&state=active&empty="
    answer = asked(closed, f"/?{query}&token={TOKEN}")
    assert answer.status_code == 303
    location = answer.headers["location"]
    assert location.startswith("/?")
    assert TOKEN not in location
    assert module.parse_qs(location[2:], keep_blank_values=True) == {
        "state": ["failed", "active"],
        "q": ["a&b é+"],
        "empty": [""],
    }
    cookie = answer.headers["set-cookie"]
    assert re.match(rf"sluice_{closed.port}={TOKEN};", cookie)
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert asked(closed, "/api/jobs").status_code == 200, "the cookie is enough from now on"


def test_who_is_in_already_loses_the_token_in_the_address_too(closed):
    asked(closed, f"/?token={TOKEN}")
    answer = asked(closed, f"/?token={TOKEN}&a=1")
    assert (answer.status_code, answer.headers["location"]) == (303, "/?a=1")


@pytest.mark.parametrize(
    "path", ["/?token=wrong", "/?token=", f"/?tokens={TOKEN}", f"/?Token={TOKEN}"]
)
def test_a_wrong_token_in_the_address_says_how_to_enter(closed, path):
    answer = asked(closed, path)
    assert answer.status_code == 401
    assert "?token=" in answer.text
    assert "set-cookie" not in answer.headers


def test_the_token_is_for_the_page_alone_in_the_address(closed):
    """Elsewhere it would stay in logs and histories."""
    assert asked(closed, f"/api/jobs?token={TOKEN}").status_code == 401


def test_the_cookie_of_another_port_opens_nothing(closed):
    assert asked(closed, "/api/jobs", Cookie=f"sluice_1={TOKEN}").status_code == 401
    mine = f"sluice_{closed.port}={TOKEN}"
    assert asked(closed, "/api/jobs", Cookie=f"a=b; {mine}; c=d").status_code == 200


def test_tokens_are_compared_in_constant_time(monkeypatch):
    compared: list[tuple[bytes, bytes]] = []
    monkeypatch.setattr(
        module.hmac, "compare_digest", lambda a, b: compared.append((a, b)) or a == b
    )
    guard = Guard(asyncio.sleep, hosts=None, token=TOKEN)
    assert guard._is_token(TOKEN)
    assert not guard._is_token("é")
    assert compared == [(TOKEN.encode(), TOKEN.encode()), ("é".encode(), TOKEN.encode())]


def test_a_collector_that_others_can_reach_makes_a_token_and_a_key(collector):
    one = collector(host="0.0.0.0")
    assert len(one.collector.token) >= 32
    assert one.collector.api_key.startswith("sk_dev_")
    lines = greeting(one.collector, one.port)
    assert (
        lines[0]
        == f"The page:     http://{socket.gethostname()}:{one.port}/?token={one.collector.token}"
    )
    assert f"SLUICE_API_KEY={one.collector.api_key} SLUICE_CONNECTION_ID=" in lines[2]
    assert one.get("/api/jobs").status_code == 200, "with the cookie"
    assert asked(one, "/api/jobs", Host="any.name.of.it:1").status_code == 401
    assert one.post_events([job("a", "queued")]).status_code == 200
    assert one.post_events([job("b", "queued")], key="sk_other").status_code == 401
    other = collector(host="0.0.0.0")
    assert other.collector.token != one.collector.token


def test_on_loopback_there_is_neither(collector):
    one = collector()
    assert (one.collector.token, one.collector.api_key) == (None, None)
    lines = greeting(one.collector, one.port)
    assert lines[0] == f"The page:     {one.url}/"
    assert lines[2] == f"Send to it:   export SLUICE_DEV={one.url}"


def test_a_key_that_was_given_is_not_printed(collector):
    one = collector(host="0.0.0.0", api_key="sk_the_teams_own", token=TOKEN)
    assert "sk_the_teams_own" not in "\n".join(greeting(one.collector, one.port))


# --- what tasks are called ------------------------------------------------------------------------

EVIL = [
    *("<img src=x onerror=alert(1)>", "</script><script>alert(1)</script>", '"><svg onload=x>'),
    *(
        "a\r\nSet-Cookie: a=b\r\n\r\n<html>",
        "\u2028\u2029",
        "{{7*7}}",
        "javascript:alert(1)",
        "\x00\x1b[31m",
    ),
]


@pytest.mark.parametrize("evil", EVIL)
def test_whatever_a_task_is_called_comes_out_as_json_alone(one, evil):
    fields = {"name": evil, "queue": evil, "workerId": evil, "error": evil, "stacktrace": evil}
    more = {"extensions": {"exceptionClass": evil}, "rootId": evil, "parentId": evil}
    one.post_events(
        [
            job(evil, "failed", **fields, **more),
            worker(evil, "online", hostname=evil, queues=[evil], metadata={"pool": evil}),
            queue(evil, depth=1),
        ]
    )
    shown = evil.replace("\0", "\ufffd")
    for path in (
        *("/api/jobs", "/api/workers", "/api/queues", "/api/now", "/api/failures", "/api/names"),
        *("/api/events", "/api/export", f"/api/jobs/{quote(shown, safe='')}"),
    ):
        answer = one.get(path)
        assert answer.status_code == 200, path
        assert answer.headers["content-type"] == "application/json"
        assert "set-cookie" not in answer.headers
        is_guarded(answer)
    assert one.get("/api/jobs").json()["jobs"][0]["name"] == shown
    for path in ("/", f"/{quote(evil)}", f"/page/{quote(evil, safe='')}", f"/api/{quote(evil)}"):
        answer = one.get(path)
        assert evil not in answer.text
        assert json.dumps(evil)[1:-1] not in answer.text


# --- /page/ ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *(
            "../routes.py",
            "..%2froutes.py",
            "%2e%2e/routes.py",
            "%2e%2e%2froutes.py",
            "..\\routes.py",
        ),
        *("....//routes.py", "/etc/passwd", "%2fetc%2fpasswd", "main.js%00.html", "main.js/", "."),
        *("..", "", "%5c..%5croutes.py", "main.js%0a", "MAIN.JS", "main.js.map", "__pycache__"),
        *("..%c0%afroutes.py", "%252e%252e%252froutes.py", "main.js?/../../routes.py&x"),
    ],
)
def test_no_path_leads_out_of_the_page(one, name):
    """By hand: a client would put such a path in order first."""
    with socket.create_connection(("127.0.0.1", one.port), 10) as client:
        client.sendall(
            f"GET /page/{name} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        )
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    if name.startswith("main.js?"):
        assert answer.startswith(b"HTTP/1.1 200 ")
    else:
        assert answer.split(b" ")[1] in (b"404", b"307")
    assert b"root:" not in answer
    assert b"import annotations" not in answer


def test_the_files_of_the_page_have_their_types(one):
    types = {
        "": "text/html; charset=utf-8",
        "page/main.js": "text/javascript; charset=utf-8",
        "page/look.css": "text/css; charset=utf-8",
        "page/favicon.svg": "image/svg+xml",
    }
    for path, kind in types.items():
        answer = one.get(f"/{path}")
        assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
