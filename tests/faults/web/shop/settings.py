"""No more than one view needs."""

import os

ALLOWED_HOSTS = ["*"]
CELERY_BROKER_URL = os.environ["TEST_BROKER_URL"]
INSTALLED_APPS = ["tests.faults.web.shop"]
ROOT_URLCONF = "tests.faults.web.shop.urls"
SECRET_KEY = "of a test"
USE_TZ = True
