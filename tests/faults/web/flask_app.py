"""A Flask app whose Celery app is made, as is usual, in a module of its own."""

from flask import Flask, Response

from tests.faults.web import views
from tests.harness.apps.basic import ok

app = Flask(__name__)


@app.get("/quiet")
def quiet() -> Response:
    return Response(views.quiet())


@app.get("/send")
def send() -> Response:
    return Response(views.send(ok))
