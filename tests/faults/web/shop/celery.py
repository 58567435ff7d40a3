"""The project's Celery app, configured by Django's settings, and Sluice."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.faults.web.shop.settings")

app = Celery("shop")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()

if os.environ.get("SLUICE_TEST_INIT") != "0":
    import sluice

    sluice.init()
