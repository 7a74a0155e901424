"""The WSGI application that gunicorn imports in its master, before it forks (preload_app)."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
application = get_wsgi_application()

# Django imports the URLs, and with them all views, at the first request: in each worker. This
# import happens once, for all workers.
import urls  # noqa: E402, F401 - applications must be set up before
