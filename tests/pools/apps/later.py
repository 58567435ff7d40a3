"""A module that a running worker is told to import; it has a task of its own."""

from tests.harness.apps.basic import app


@app.task(name="later.ok")
def ok() -> None:
    """Succeed."""


print(f"{__name__} is here", flush=True)
