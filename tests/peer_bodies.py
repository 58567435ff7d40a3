"""What the peers of the benchmarks send: bodies for the tests of what counts them.

Captured once from real workers and cut to what is read, or, of Sluice, made by its own code.
"""

import base64
import json

from sluice.batch import body as body_of
from sluice.events import Job, Worker, encode_job, encode_worker
from sluice.ring import Record

NOOP, FAIL, FAN_OUT, SENT = (
    "caf754f8-a936-4bbf-a992-f84a701e9351",
    "19b45c0e-8cc6-4341-a3ef-d1d16e0e247f",
    "a8aabf18-4bdc-40e5-ab1a-62bb117ac848",
    "a23db4cf-c928-440d-bf93-1bc47ed009a8",
)

CELERYRADAR = b"""
{"type": "queue-depth", "app_name": "bench", "timestamp": 1795383810,
"samples": [{"queue_name": "celery", "depth": 0}]}

{"type": "worker-heartbeat", "hostname": "h", "queues": ["celery"], "timestamp": 1795383835.1167}

{"type": "task-started", "task_id": "caf754f8-a936-4bbf-a992-f84a701e9351",
"task_name": "bench.noop", "worker": "h", "queue": "celery", "args": [], "kwargs": {},
"retries": 0, "timestamp": 1795383835.156786}

{"type": "task-succeeded", "task_id": "caf754f8-a936-4bbf-a992-f84a701e9351",
"task_name": "bench.noop", "worker": "h", "runtime": 0.0001, "args": [], "kwargs": {},
"retries": 0, "timestamp": 1795383835.1568878}

{"type": "task-failed", "task_id": "19b45c0e-8cc6-4341-a3ef-d1d16e0e247f",
"task_name": "bench.fail", "worker": "h", "exception": "ValueError('the bottom')",
"traceback": "...", "args": [2], "kwargs": {}, "retries": 0, "timestamp": 1795383835.15491}
""".split(b"\n\n")

SLUICE_CELERY = b"""{"events": [
{"type": "job.state_change", "timestamp": "2026-11-22T21:44:07.496019Z", "framework": "celery",
"job": {"externalId": "caf754f8-a936-4bbf-a992-f84a701e9351", "name": "bench.noop",
"state": "queued", "workerId": "w@h", "extensions": {"celeryState": "RECEIVED"}},
"connectionId": "6f1f64a7-6d5e-4f6e-9d0b-2f6f3c1f7a11"},
{"type": "job.state_change", "timestamp": "2026-11-22T21:44:07.496484Z", "framework": "celery",
"job": {"externalId": "caf754f8-a936-4bbf-a992-f84a701e9351", "name": "bench.noop",
"state": "active", "extensions": {"celeryState": "STARTED"}},
"connectionId": "6f1f64a7-6d5e-4f6e-9d0b-2f6f3c1f7a11"},
{"type": "job.state_change", "timestamp": "2026-11-22T21:44:07.505270Z", "framework": "celery",
"job": {"externalId": "caf754f8-a936-4bbf-a992-f84a701e9351", "name": "bench.noop",
"state": "completed", "extensions": {"celeryState": "SUCCESS"}},
"connectionId": "6f1f64a7-6d5e-4f6e-9d0b-2f6f3c1f7a11"}]}"""

STEMTRACE = b"""
{"event_type":"worker_ready","hostname":"w@h","pid":8906,
"timestamp":"2026-11-22T21:44:20.605895Z","registered_tasks":["bench.noop"],
"task_definitions":{},"shutdown_time":null}

{"task_id":"a23db4cf-c928-440d-bf93-1bc47ed009a8","name":"bench.noop","state":"PENDING",
"timestamp":"2026-11-22T21:44:20.629000Z","retries":0,"queue":"celery","eta":null}

{"task_id":"a8aabf18-4bdc-40e5-ab1a-62bb117ac848","name":"bench.fan_out","state":"STARTED",
"timestamp":"2026-11-22T21:44:20.623274Z","retries":0,"args":[1],"kwargs":{}}

{"task_id":"a8aabf18-4bdc-40e5-ab1a-62bb117ac848","name":"bench.fan_out","state":"SUCCESS",
"timestamp":"2026-11-22T21:44:20.633274Z","retries":0,"result":null}
""".split(b"\n\n")

# Of opentelemetry-instrumentation-celery 0.66b2: what fan_out sent, fan_out, fail, noop, and the
# one that was sent. Without the resource, the exception, and attributes that nobody reads here.
OPENTELEMETRY = base64.b64decode(
    "CucJEuQJCi4KJG9wZW50ZWxlbWV0cnkuaW5zdHJ1bWVudGF0aW9uLmNlbGVyeRIGMC42NmIyEtwBChBk+wT8XihQPn1Z"
    "l0E/wHULEgjiwvK93wJWayIIxQxZ4c7nvt0qFmFwcGx5X2FzeW5jL2JlbmNoLm5vb3AwBDm/Z4vFEnzqGEGkkaDLEnzq"
    "GEoeCg1jZWxlcnkuYWN0aW9uEg0KC2FwcGx5X2FzeW5jSj4KFG1lc3NhZ2luZy5tZXNzYWdlLmlkEiYKJGEyM2RiNGNm"
    "LWM5MjgtNDQwZC1iZjkzLTFiYzQ3ZWQwMDlhOEogChBjZWxlcnkudGFza19uYW1lEgwKCmJlbmNoLm5vb3B6AIUBAAEA"
    "ABLjAQoQZPsE/F4oUD59WZdBP8B1CxIIxQxZ4c7nvt0qEXJ1bi9iZW5jaC5mYW5fb3V0MAU5u4l3xRJ86hhB4KanyxJ8"
    "6hhKFgoNY2VsZXJ5LmFjdGlvbhIFCgNydW5KGQoMY2VsZXJ5LnN0YXRlEgkKB1NVQ0NFU1NKPgoUbWVzc2FnaW5nLm1l"
    "c3NhZ2UuaWQSJgokYThhYWJmMTgtNGJkYy00MGU1LWFiMWEtNjJiYjExN2FjODQ4SiMKEGNlbGVyeS50YXNrX25hbWUS"
    "DwoNYmVuY2guZmFuX291dHoAhQEAAQAAEvkBChCjvqzAB4VIJBU51gl+mvGnEgj6fRLPuaQJtCoOcnVuL2JlbmNoLmZh"
    "aWwwBTlIE9nMEnzqGEFZAg/NEnzqGEoWCg1jZWxlcnkuYWN0aW9uEgUKA3J1bkoZCgxjZWxlcnkuc3RhdGUSCQoHRkFJ"
    "TFVSRUo+ChRtZXNzYWdpbmcubWVzc2FnZS5pZBImCiQxOWI0NWMwZS04Y2M2LTQzNDEtYTNlZi1kMWQxNmUwZTI0N2ZK"
    "IAoQY2VsZXJ5LnRhc2tfbmFtZRIMCgpiZW5jaC5mYWlsehwSGHRoZSBib3R0b20gb2YgYmVuY2guZmFpbBgChQEAAQAA"
    "Et0BChAE2QffHlY24AkQFCoXcGG8Egi5Jef33MLhvyoOcnVuL2JlbmNoLm5vb3AwBTlnc5HNEnzqGEE8VpTNEnzqGEoW"
    "Cg1jZWxlcnkuYWN0aW9uEgUKA3J1bkoZCgxjZWxlcnkuc3RhdGUSCQoHU1VDQ0VTU0o+ChRtZXNzYWdpbmcubWVzc2Fn"
    "ZS5pZBImCiRjYWY3NTRmOC1hOTM2LTRiYmYtYTk5Mi1mODRhNzAxZTkzNTFKIAoQY2VsZXJ5LnRhc2tfbmFtZRIMCgpi"
    "ZW5jaC5ub29wegCFAQABAAAS5wEKEGT7BPxeKFA+fVmXQT/AdQsSCOFvG12oi+KzIgjiwvK93wJWayoOcnVuL2JlbmNo"
    "Lm5vb3AwBTl/A4jOEnzqGEHrlIvOEnzqGEoWCg1jZWxlcnkuYWN0aW9uEgUKA3J1bkoZCgxjZWxlcnkuc3RhdGUSCQoH"
    "U1VDQ0VTU0o+ChRtZXNzYWdpbmcubWVzc2FnZS5pZBImCiRhMjNkYjRjZi1jOTI4LTQ0MGQtYmY5My0xYmM0N2VkMDA5"
    "YThKIAoQY2VsZXJ5LnRhc2tfbmFtZRIMCgpiZW5jaC5ub29wegCFAQADAAAaJ2h0dHBzOi8vb3BlbnRlbGVtZXRyeS5p"
    "by9zY2hlbWFzLzEuMTEuMA=="
)


def envelope(kind: str, item: dict[str, object]) -> bytes:
    """A body of sentry-sdk 2.75, with what the real one has in it that is read here."""
    payload = json.dumps(item | {"release": "1", "server_name": "h"}).encode()
    head = (
        b'{"event_id":"8945929bda68422a8873e1cd73c1a004","sent_at":"2026-11-22T21:43:27.831422Z"}'
    )
    described = {"type": kind, "content_type": "application/json", "length": len(payload)}
    return b"\n".join((head, json.dumps(described).encode(), payload, b""))


def transaction(task: str, status: str, *sent: str) -> bytes:
    span = {"op": "queue.process", "data": {"messaging.message.id": task}}
    published = [{"op": "queue.publish", "data": {"messaging.message.id": one}} for one in sent]
    ping = {"op": "db.redis", "description": "PING", "data": {"db.system": "redis"}}
    return envelope(
        "transaction",
        {
            "type": "transaction",
            "transaction": "bench.task",
            "contexts": {"trace": {"op": "queue.task.celery", "status": status}},
            "tags": {"status": "ok", "celery_task_id": task},
            "spans": [span, *published, ping],
        },
    )


SENTRY_ERROR = envelope(
    "event", {"level": "error", "tags": {"celery_task_id": FAIL}, "exception": {"values": []}}
)


def sluice_body() -> bytes:
    """A request of Sluice, made by what makes it."""
    connection = "6f1f64a7-6d5e-4f6e-9d0b-2f6f3c1f7a11"
    told = [
        (SENT, "queued", "task-sent"),
        (NOOP, "queued", "task-received"),
        (NOOP, "active", "task-started"),
        (NOOP, "completed", "task-succeeded"),
        (FAIL, "failed", "task-failed"),
    ]
    events = [
        encode_job(
            connection,
            1.0,
            Job(external_id=task, name="t", state=state, extensions={"celeryEvent": event}),
        )
        for task, state, event in told
    ]
    worker = Worker(
        external_id="w@h",
        hostname="h",
        pid=1,
        state="online",
        extensions={"celeryEvent": "worker-online"},
    )
    events.append(encode_worker(connection, 1.0, worker))
    return body_of([Record(event, seq, seq, relayed=False) for seq, event in enumerate(events)], 7)


def kombu_message(body: object) -> bytes:
    """A message of the event exchange as it is on Redis."""
    wrapped = {
        "body": base64.b64encode(json.dumps(body).encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"hostname": "w@h"},
        "properties": {"body_encoding": "base64", "delivery_mode": 1},
    }
    return json.dumps(wrapped).encode()
