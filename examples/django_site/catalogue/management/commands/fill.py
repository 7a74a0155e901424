"""``python manage.py fill``: put invented books into an empty database, always the same ones."""

import random
from datetime import date, timedelta

from django.core.management.base import BaseCommand
from django.db import transaction

from catalogue.models import Author, Book
from catalogue.subjects import SUBJECTS

WORDS = [
    "Salt",
    "Lantern",
    "River",
    "Winter",
    "Engine",
    "Garden",
    "Letter",
    "Harbour",
    "Map",
    "Silence",
    "Bridge",
    "Orchard",
]
NAMES = [
    "Amara",
    "Bela",
    "Chen",
    "Dora",
    "Emeka",
    "Farid",
    "Greta",
    "Hana",
    "Ilse",
    "Joao",
    "Kaisa",
    "Lev",
]


class Command(BaseCommand):
    """Fill the database."""

    help = __doc__

    def add_arguments(self, parser):
        parser.add_argument("--books", type=int, default=5_000)

    @transaction.atomic
    def handle(self, *args, books, **options):
        chance, codes = random.Random(books), list(SUBJECTS)
        authors = Author.objects.bulk_create(
            Author(name=f"{chance.choice(NAMES)} {chance.choice(WORDS)}", born=1900 + i % 90)
            for i in range(max(1, books // 10))
        )
        Book.objects.bulk_create(
            Book(
                title=f"The {chance.choice(WORDS)} and the {chance.choice(WORDS)}, volume {i}",
                author=chance.choice(authors),
                published=date(1950, 1, 1) + timedelta(days=chance.randint(0, 25_000)),
                pages=chance.randint(60, 900),
                subject=chance.choice(codes),
            )
            for i in range(books)
        )
