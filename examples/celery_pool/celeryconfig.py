"""Celery's settings. Environment variables can name the broker and the result backend."""

import json
import os

broker_url = os.environ.get("CELERY_BROKER_URL", "redis://127.0.0.1:6379/0")
result_backend = os.environ.get("CELERY_RESULT_BACKEND", "redis://127.0.0.1:6379/1")
broker_transport_options = json.loads(os.environ.get("BROKER_OPTIONS", "{}"))
broker_connection_retry_on_startup = True
