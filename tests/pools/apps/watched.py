"""The harness's sample app, with a watch in each prefork child for code of Sluice's.

The watch is put up by Celery's `worker_process_init` in the child and reports through the
log: ``SLUICE RAN n names``, once per task, and ``CHILD n threads``.
"""

import sys
import threading
from types import FrameType

from celery.signals import task_postrun, task_prerun, worker_process_init
from celery.utils.log import get_task_logger

import sluice
from tests.harness.apps.basic import app

__all__ = ["app"]

logger = get_task_logger(__name__)
HOME = sluice.__file__.rpartition("/")[0]
_seen: list[str] = []


def _watch(frame: FrameType, event: str, _: object) -> None:
    if event == "call" and frame.f_code.co_filename.startswith(HOME):
        _seen.append(frame.f_code.co_name)


@worker_process_init.connect(weak=False)
def put_up(**_: object) -> None:
    sys.setprofile(_watch)


@task_prerun.connect(weak=False)
def begin(**_: object) -> None:
    _seen.clear()


@task_postrun.connect(weak=False)
def report(task: object, **_: object) -> None:
    logger.warning("CHILD %s threads", threading.active_count())
    logger.warning("SLUICE RAN %s %s", len(_seen), ",".join(_seen))
