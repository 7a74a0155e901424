"""Measure all sample applications in every mode: ``python -m examples``, or ``make samples``."""

import sys

from examples.celery_pool.run import SAMPLE as CELERY
from examples.common import report
from examples.django_site.run import SAMPLE as DJANGO
from examples.unicode_server.run import SAMPLE as UNICODE

if __name__ == "__main__":
    sys.exit(report.main(UNICODE, DJANGO, CELERY))
