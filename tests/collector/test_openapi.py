"""The OpenAPI document: it is valid, it is all of the API, and what it says is what is answered."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis import checks
from starlette.routing import Route

from sluice.collector.openapi import document
from sluice.collector.routes import Api
from tests.collector.conftest import Running
from tests.collector.wire import job, queue, worker

DOCUMENT = document()
PATHS = [
    (path, method, operation)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
]


def test_it_is_served(one):
    answer = one.get("/api/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == DOCUMENT


def test_it_is_valid():
    """By the schema of OpenAPI 3.1 that schemathesis brings, and each schema in it by its own."""
    schema = schemathesis.openapi.from_dict(DOCUMENT)
    schema.validate()
    for found in _schemas(DOCUMENT):
        jsonschema_rs.meta.validate(found)


def _schemas(node: Any) -> Iterator[Any]:
    if isinstance(node, dict):
        if "schema" in node:
            yield node["schema"]
        for below in node.values():
            yield from _schemas(below)
    elif isinstance(node, list):
        for below in node:
            yield from _schemas(below)


def test_all_references_lead_somewhere():
    wanted = set(re.findall(r"'#/components/schemas/(\w+)'", str(DOCUMENT)))
    assert wanted == set(DOCUMENT["components"]["schemas"])


def test_every_path_is_in_it_and_no_other():
    api = Api(*[_Nothing()] * 4)
    served = {
        (re.sub(r"{task:\w+}", "{id}", route.path), method.lower())
        for route in api.routes()
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}
        if route.path.startswith("/api/") and route.path != "/api/openapi.json"
    }
    assert served == {(path, method) for path, method, _ in PATHS}


class _Nothing:
    """Whatever it is asked for, it has."""

    def __getattr__(self, name: str) -> Any:
        return _Nothing()

    def __call__(self, *_: object) -> Any:
        return None


# --- what is answered -----------------------------------------------------------------------------


def _filled() -> Iterator[Running]:
    running = Running()
    fields = {"queue": "q", "workerId": "w@h", "error": "e", "startedAt": 1.76e9, "rootId": "a"}
    events = [
        *(job("a", state, 1.76e9 + n, **fields) for n, state in enumerate(("queued", "active"))),
        job("a", "failed", 1.76e9 + 5, completedAt=1.76e9 + 5, **fields),
        job("b", "retrying", maxRetries=3, parentId="a", scheduledFor=1.76e9),
        worker("w@h", "busy", metadata={"loadAverage": [1.0, 2.0, 3.0], "pool": "prefork"}),
        worker("x@h", "offline", extensions={"activeTasks": [{"externalId": "a"}]}),
        queue("q", depth=1, consumers=0),
    ]
    assert running.post_events(events).status_code == 200
    yield running
    running.close()


@pytest.fixture(scope="module")
def filled() -> Iterator[Running]:
    """A collector with something of everything in it."""
    yield from _filled()


@pytest.fixture(scope="module")
def tried() -> Iterator[Running]:
    """Another one, which is asked for whatever there is, and to clear it all."""
    yield from _filled()


@pytest.mark.parametrize(
    ("path", "operation"),
    [(path, one) for path, method, one in PATHS if method == "get" and path != "/api/live"],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_answered_to_what_is_there_is_as_it_says(filled, path, operation):
    answer = filled.get(path.replace("{id}", "a"))
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    whole = {**schema, "components": DOCUMENT["components"]}
    jsonschema_rs.Draft202012Validator(whole, validate_formats=True).validate(answer.json())
    _is_told_of(answer.json(), schema)


def _is_told_of(value: Any, schema: dict[str, Any]) -> None:
    """Every field that is answered is in the document."""
    if isinstance(value, dict) and schema.get("properties"):
        assert set(value) <= set(schema["properties"])
        for name, below in value.items():
            _is_told_of(below, schema["properties"][name])
    elif isinstance(value, list) and "items" in schema:
        for below in value:
            _is_told_of(below, schema["items"])


CHECKS = [
    *(checks.not_a_server_error, checks.status_code_conformance),
    *(checks.content_type_conformance, checks.response_schema_conformance),
]
schema = schemathesis.openapi.from_dict(
    {
        **DOCUMENT,
        "paths": {path: one for path, one in DOCUMENT["paths"].items() if "live" not in path},
    }
)


@schema.parametrize()
@settings(
    max_examples=15,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_whatever_is_asked_the_answer_is_one_that_it_names(tried, case):
    headers = {"Authorization": "Bearer sk_x"}
    answer = case.call(base_url=tried.url, session=tried.session, headers=headers, timeout=20)
    case.validate_response(answer, checks=CHECKS)
