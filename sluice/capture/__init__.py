"""Celery -> events.

`worker` and `request` run in a worker's MAIN process, `producer` wherever tasks are sent.
"""
