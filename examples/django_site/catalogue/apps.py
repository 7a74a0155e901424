"""The configuration of the application for Django."""

from django.apps import AppConfig


class CatalogueConfig(AppConfig):
    """Books, authors and subject headings."""

    name = "catalogue"
