"""Celery apps and scripts of these tests, beside the sample app of the harness."""
