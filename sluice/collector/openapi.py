"""The OpenAPI document: what is asked and answered, for tools and for tests that try it all."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import msgspec

from sluice._version import __version__
from sluice.collector.export import FORMATS
from sluice.collector.listing import MOST
from sluice.collector.story import STATES
from sluice.events import Envelope

_REF: Final = "#/components/schemas/{name}"
_TIME: Final = {"type": ["string", "null"], "format": "date-time"}
_NUMBER: Final = {"type": ["number", "null"]}
_TEXT: Final = {"type": ["string", "null"]}
_COUNT: Final = {"type": "integer", "minimum": 0}


def _object(required: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": required, **more}


def _array(of: Any) -> dict[str, Any]:
    return {"type": "array", "items": of}


def _schema(name: str) -> dict[str, str]:
    return {"$ref": _REF.format(name=name)}


_JOB: Final = {
    "id": {"type": "string"}, "name": {"type": "string"}, "state": {"enum": list(STATES)},
    "queue": _TEXT, "worker": _TEXT, "attempt": _COUNT, "maxRetries": {"type": ["integer", "null"]},
    "createdAt": _TIME, "scheduledFor": _TIME, "startedAt": _TIME, "completedAt": _TIME,
    "seenAt": _TIME, "changedAt": _TIME, "wait": _NUMBER, "run": _NUMBER, "error": _TEXT,
    "exception": _TEXT, "parentId": _TEXT, "rootId": _TEXT,
    "badges": _array({"enum": ["stalled", "orphaned", "duplicate", "storm"]}),
}  # fmt: skip
_ATTEMPT: Final = {
    "attempt": _COUNT, "state": _TEXT, "worker": _TEXT, "queuedAt": _TIME, "scheduledFor": _TIME,
    "startedAt": _TIME, "endedAt": _TIME, "wait": _NUMBER, "run": _NUMBER, "error": _TEXT,
    "exception": _TEXT, "stacktrace": _TEXT,
}  # fmt: skip
_RELATIVE: Final = {
    "id": {"type": "string"}, "name": {"type": "string"}, "state": {"enum": list(STATES)},
    "parentId": _TEXT, "startedAt": _TIME, "completedAt": _TIME,
}  # fmt: skip
_KEPT_EVENT: Final = {"seq": _COUNT, "receivedAt": _TIME, "event": _schema("Event")}
_WORKER: Final = {
    "id": {"type": "string"}, "state": {"enum": ["online", "busy", "idle", "offline"]},
    "hostname": _TEXT, "pid": {"type": ["integer", "null"]}, "pool": {}, "heartbeatAge": _NUMBER,
    "concurrency": {"type": ["integer", "null"]}, "active": {"type": ["integer", "null"]},
    "processed": {}, "queues": _array({"type": "string"}), "onlineAt": _TIME, "offlineAt": _TIME,
    "software": {}, "version": {}, "loadAverage": {}, "reason": {},
    "suspects": _array(_object({"id": {}, "name": {}, "attempt": {}, "runtime": {}})),
}  # fmt: skip
_QUEUE: Final = {
    "name": {"type": "string"}, "waiting": _COUNT, "scheduled": _COUNT, "active": _COUNT,
    "workers": _COUNT, "depth": {"type": ["integer", "null"]},
    "consumers": {"type": ["integer", "null"]},
}  # fmt: skip
_SPREADS: Final = dict.fromkeys(("waitP50", "waitP95", "runP50", "runP95"), _NUMBER)
_NOW: Final = {
    "at": _TIME, "counts": {"type": "object"}, "pruned": _COUNT, "dropped": _COUNT, "lost": _COUNT,
    "series": _array(
        _object({"at": _TIME, "ended": _COUNT, "failed": _COUNT, "retried": _COUNT, **_SPREADS})
    ),
    "last": _object({"throughput": _NUMBER, "failureRate": _NUMBER, **_SPREADS}),
    "kept": _object(
        {
            **dict.fromkeys(("tasks", "events", "bytes", "maxTasks", "maxBytes"), _COUNT),
            "maxAge": {"type": "number"},
        }
    ),
    "heard": _object(
        {
            **dict.fromkeys(("requests", "events", "duplicates", "invalid", "refusedKeys"), _COUNT),
            **dict.fromkeys(("lastRefusedAt", "lastEventAt", "since"), _TIME),
        }
    ),
    "diagnosis": {"enum": ["nothing", "key_rejected", "no_tasks", "ok"]},
    "version": {"type": "string"}, "keyRequired": {"type": "boolean"},
}  # fmt: skip
_FAILURE: Final = {
    "name": {"type": "string"}, "exception": _TEXT, "count": _COUNT, "firstAt": _TIME,
    "lastAt": _TIME, "jobId": _TEXT, "error": _TEXT, "spark": _array(_COUNT),
}  # fmt: skip
_NAME: Final = {
    "name": {"type": "string"}, "count": _COUNT, "ended": _COUNT, "failed": _COUNT,
    "failureRate": _NUMBER, **_SPREADS, "slowest": _NUMBER, "slowestId": _TEXT,
}  # fmt: skip
_FILTERS: Final = [
    {
        "name": "state", "in": "query", "explode": True,
        "schema": _array({"type": "string", "enum": list(STATES)}),
    },
    *(
        {"name": name, "in": "query", "schema": {"type": "string", "maxLength": 1024}}
        for name in ("q", "name", "queue", "worker", "exception")
    ),
    *(
        {"name": name, "in": "query", "schema": {"type": "string", "format": "date-time"}}
        for name in ("since", "until")
    ),
    {
        "name": "sort", "in": "query",
        "schema": {"type": "string", "enum": ["newest", "oldest", "slowest", "waited"]},
    },
    {
        "name": "limit", "in": "query",
        "schema": {"type": "integer", "minimum": 1, "maximum": MOST, "default": 50},
    },
    {
        "name": "cursor", "in": "query",
        "description": "The `next` of the page before.", "schema": {"type": "string"},
    },
]  # fmt: skip


_FORMAT: Final = [
    {
        "name": "format", "in": "query",
        "schema": {"type": "string", "enum": list(FORMATS), "default": "json"},
    },
]  # fmt: skip


def _json(schema: Any) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _answers(good: Any, *bad: int) -> dict[str, Any]:
    refusals = {
        str(status): {"description": "Refused.", "content": _json(_schema("Refusal"))}
        for status in (400, 401, 403, 500, 503, *bad)
    }
    return {"200": {"description": "As asked.", "content": good}, **refusals}


def _get(summary: str, schema: Any, parameters: Any = (), *bad: int) -> dict[str, Any]:
    return {
        "get": {
            "summary": summary,
            "parameters": list(parameters),
            "responses": _answers(_json(schema), *bad),
        }
    }


@cache
def document() -> dict[str, Any]:
    """The whole document."""
    _, wire = msgspec.json.schema_components([Envelope], ref_template=_REF)
    for schema in wire.values():
        schema.pop("title", None)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Sluice collector", "version": __version__},
        "paths": _paths(),
        "components": {
            "schemas": {**wire, "Refusal": _refusal_schema()},
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": "sk_..."},
                "token": {"type": "http", "scheme": "bearer"},
            },
        },
    }


def _refusal_schema() -> dict[str, Any]:
    texts = {name: {"type": "string"} for name in ("code", "message", "docs_url")}
    return _object({"error": _object(texts)})


def _paths() -> dict[str, Any]:
    job_id = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
    feed = [
        {
            "name": "after", "in": "query",
            "schema": {"type": "integer", "minimum": -1, "maximum": 2**53, "default": 0},
        },
        {
            "name": "limit", "in": "query",
            "schema": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 500},
        },
        {"name": "job", "in": "query", "schema": {"type": "string"}},
    ]  # fmt: skip
    whole_job = _object(
        {
            **_JOB, "stacktrace": _TEXT, "retries": _COUNT, "attempts": _array(_object(_ATTEMPT)),
            "family": _array(_object(_RELATIVE)), "events": _array(_object(_KEPT_EVENT)),
        }
    )  # fmt: skip
    counts = _object({"accepted": _COUNT, "duplicates": _COUNT})
    return {
        "/api/ingest": {
            "post": {
                "summary": "Take events in",
                "security": [{"key": []}],
                "requestBody": {"required": True, "content": _json(_schema("Envelope"))},
                "responses": _answers(_json(counts), 408, 413, 415, 429),
            }
        },
        "/api/jobs": _get(
            "Tasks, filtered, in order, in pages",
            _object({"jobs": _array(_object(_JOB)), "next": _TEXT}),
            _FILTERS,
        ),
        "/api/jobs/{id}": _get("One task", whole_job, [job_id], 404),
        "/api/workers": _get("Workers", _object({"workers": _array(_object(_WORKER))})),
        "/api/queues": _get("Queues", _object({"queues": _array(_object(_QUEUE))})),
        "/api/now": _get("Everything at a glance", _object(_NOW)),
        "/api/failures": _get(
            "Failed tasks by name and exception",
            _object({"failures": _array(_object(_FAILURE)), "sparkSeconds": _NUMBER}),
        ),
        "/api/names": _get("Task names", _object({"names": _array(_object(_NAME))})),
        "/api/events": _get(
            "Events of tasks in the order in which they came",
            _object({"events": _array(_object(_KEPT_EVENT)), "last": _COUNT}),
            feed,
        ),
        "/api/tick": _get("The number of the last change", _object({"seq": _COUNT})),
        "/api/live": {
            "get": {
                "summary": "The number of the last change, then each later one, as it happens",
                "responses": _answers({"text/event-stream": {"schema": {"type": "string"}}}),
            }
        },
        "/api/export": {
            "get": {
                "summary": "Tasks, filtered, in order, as a file",
                "parameters": [*_FILTERS, *_FORMAT],
                "responses": _answers(
                    {
                        **_json(_array(_object(_JOB))),
                        "text/csv": {"schema": {"type": "string"}},
                    }
                ),
            }
        },
        "/api/clear": {
            "post": {
                "summary": "Forget everything",
                "responses": _answers(_json(_object({"cleared": _COUNT}))),
            }
        },
        "/api/health": _get("Whether it runs", _object({"status": {"const": "ok"}})),
    }
