"""Sample Celery apps, configured by the variables that `tests.harness.environment` sets."""
