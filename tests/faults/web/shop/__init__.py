"""A Django project that loads its Celery app here, as Celery's manual says."""

from tests.faults.web.shop.celery import app as celery_app

__all__ = ["celery_app"]
