"""A script that sends what it is told to, prints the ids, and ends.

Variables: PLAN (JSON: a list of {kind, task, args, kwargs, options, gate}) and PLAN_GATES (a
folder: a task is sent when the file of the name of its gate is there).  Prints ``SENT KIND ID
BEFORE AFTER`` for each task, with the Unix times around its publication, and ``ALL SENT``.
"""

import importlib
import json
import os
import time
from pathlib import Path

app = importlib.import_module(os.environ.get("PLAN_APP", "tests.pools.apps.life")).app


def main() -> None:
    app.finalize()
    print("READY", flush=True)
    gates = Path(os.environ["PLAN_GATES"])
    for one in json.loads(os.environ["PLAN"]):
        while not (gates / one["gate"]).exists():
            time.sleep(0.02)
        send = app.tasks[one["task"]].apply_async if one["task"] in app.tasks else None
        before = time.time()
        if send is not None:
            result = send(one["args"], one["kwargs"], **one["options"])
        else:
            result = app.send_task(one["task"], one["args"], one["kwargs"], **one["options"])
        print("SENT", one["kind"], result.id, before, time.time(), flush=True)
    print("ALL SENT", flush=True)


if __name__ == "__main__":
    main()
