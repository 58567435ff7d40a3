"""Sample web projects: each has a view that sends a task, and one that does not.

    shop/           a Django project, with a management command that sends
    flask_app.py    a Flask app
    fastapi_app.py  a FastAPI app
    daemon.py       a process that detaches itself before it sends
    servers.py      the command lines of real servers, and a running one
    views.py        what the views answer

Variables: those of tests/harness/apps/basic.py.
"""
