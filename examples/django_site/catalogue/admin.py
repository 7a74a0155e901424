"""The models in Django's admin."""

from django.contrib import admin

from catalogue.models import Author, Book


@admin.register(Author)
class AuthorAdmin(admin.ModelAdmin):
    """Authors, found by name."""

    search_fields = ("name",)


@admin.register(Book)
class BookAdmin(admin.ModelAdmin):
    """Books, with their authors."""

    list_display = ("title", "author", "published")
    list_select_related = ("author",)
