"""The application, as Django knows it."""

from django.apps import AppConfig


class CatalogueConfig(AppConfig):
    """Books, authors and subject headings."""

    name = "catalogue"
