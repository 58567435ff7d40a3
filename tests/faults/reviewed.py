"""The sample app with a `before_send` that changes, keeps back, fails, and is slow."""

import os
import time
from pathlib import Path

os.environ["SLUICE_TEST_INIT"] = "0"

import sluice
from tests.harness.apps.basic import app as app  # noqa: PLC0414


def before_send(event):
    """Do with a task's event as the task's name says."""
    job = event.get("job", {})
    if job.get("name") == "basic.ignored":
        return None
    if job.get("name") == "basic.custom_base":
        msg = "broken"
        raise ValueError(msg)
    if job.get("name") == "basic.acks_late":
        until = time.perf_counter() + 0.2
        while time.perf_counter() < until:  # `sleep` would be the green one
            pass
    if "error" in job:
        job["error"] = "not for you"
    if job:
        job["extensions"]["by"] = str(Path("/proc/thread-self").readlink())
    return event


sluice.init(before_send=before_send)
