"""The tables of the database."""

from django.db import models


class Author(models.Model):
    """A person who has written books."""

    name = models.CharField(max_length=100)
    born = models.IntegerField()

    class Meta:
        ordering = ("name", "pk")

    def __str__(self):
        return self.name


class Book(models.Model):
    """A book. Its subject is the code of a heading, see subjects.py."""

    title = models.CharField(max_length=200)
    author = models.ForeignKey(Author, on_delete=models.CASCADE, related_name="books")
    published = models.DateField()
    pages = models.IntegerField()
    subject = models.CharField(max_length=20, db_index=True)

    class Meta:
        ordering = ("title", "pk")

    def __str__(self):
        return self.title
