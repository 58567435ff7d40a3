"""A FastAPI app: it runs plain functions such as these in threads."""

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse

from tests.faults.web import views
from tests.harness.apps.basic import ok

app = FastAPI(default_response_class=PlainTextResponse)


@app.get("/quiet")
def quiet() -> str:
    return views.quiet()


@app.get("/send")
def send() -> str:
    return views.send(ok)
