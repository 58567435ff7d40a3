"""One delivery of a message, as Celery's `Request` has it, and what all its events say."""

from __future__ import annotations

from typing import Any, Protocol

from sluice.events import (
    EXTENSION_LIMIT,
    ID_LIMIT,
    NAME_LIMIT,
    Job,
    JobState,
    Scalar,
    attempt_number,
    cut,
    exchange_name,
    queue_name,
    retry_limit,
    task_id,
)


class Delivery(Protocol):
    """What is used of a `celery.worker.request.Request`, and what we keep on it."""

    id: str
    name: str
    hostname: str
    time_start: float | None
    worker_pid: int | None
    task: Any
    request_dict: dict[str, Any]
    delivery_info: dict[str, Any]
    acknowledged: bool
    eta: Any
    root_id: str | None
    parent_id: str | None

    sluice_state: JobState | None
    sluice_last: float
    sluice_failure: Any
    sluice_time_limit: float | None
    sluice_killed: bool | None
    sluice_job: Job | None
    sluice_where: dict[str, Scalar] | None
    sluice_next_received: float | None


def attempt_of(request: Delivery) -> int:
    """Which attempt of its task it is, from 1."""
    return attempt_number(request.request_dict.get("retries"))


def is_next(request: Delivery, earlier: Delivery) -> bool:
    """Whether it is the next attempt, or what replaces it, and not the same delivered again."""
    if _replaced(request) == _replaced(earlier) + 1:
        return True  # and its attempts are counted anew
    return attempt_of(request) == attempt_of(earlier) + 1


def _replaced(request: Delivery) -> int:
    """How often the task was replaced before, by `Task.replace`."""
    found = request.request_dict.get("replaced_task_nesting")
    return found if isinstance(found, int) else 0


def begin(request: Delivery) -> Job:
    """Note what stays the same for all events of a request; each event then changes the rest."""
    info = request.delivery_info
    where: dict[str, Scalar] = {}
    if info.get("exchange"):
        where["exchange"] = cut(exchange_name(info["exchange"]), EXTENSION_LIMIT)
    if info.get("redelivered"):
        where["redelivered"] = True
    request.sluice_where = where or None
    request.sluice_job = Job(
        external_id=task_id(request.id) or "unknown",
        name=cut(str(request.name), NAME_LIMIT),
        state="unknown",
        queue=queue_name(info.get("routing_key")),
        worker_id=cut(str(request.hostname), ID_LIMIT),
        attempt=attempt_of(request),
        max_retries=retry_limit(request.task.max_retries),
        # Celery names a task that retries itself as the parent of the next attempt.
        parent_id=task_id(request.parent_id) if request.parent_id != request.id else None,
        root_id=task_id(request.root_id),
    )
    return request.sluice_job
