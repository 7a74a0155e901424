"""The pages of the site."""

import heapq

from django.http import Http404, JsonResponse
from django.views.generic import DetailView, ListView

import permaheap
from catalogue.models import Author, Book
from catalogue.subjects import SUBJECTS

SHOWN = 20


class BookList(ListView):
    """All books, a page at a time."""

    paginate_by = 50
    queryset = Book.objects.select_related("author")


class BookDetail(DetailView):
    """One book, with its subject and the related subjects."""

    queryset = Book.objects.select_related("author")

    def get_context_data(self, **kwargs):
        subject = SUBJECTS.get(self.object.subject)
        related = [SUBJECTS[code] for code in subject["related"]] if subject else []
        return super().get_context_data(subject=subject, related=related, **kwargs)


class AuthorDetail(DetailView):
    """One author, with all books."""

    queryset = Author.objects.prefetch_related("books")


def as_json(content):
    """Return a response with content as JSON.

    Until 3.14 frozen dicts have the type mappingproxy. json does not know that type. JsonResponse
    treats everything but a dict as unsafe: old browsers ran a list in a response as a script.
    """
    return JsonResponse(content, safe=False, json_dumps_params={"default": permaheap.json_default})


def subject(request, code):
    """Answer with one heading."""
    try:
        return as_json(SUBJECTS[code])
    except KeyError:
        raise Http404(f"no subject {code!r}") from None


def search(request):
    """Answer with the heaviest headings whose label has a word."""
    word = request.GET.get("q", "")
    found = [record for record in SUBJECTS.values() if word in record["label"]]
    best = heapq.nlargest(SHOWN, found, key=lambda record: record["weight"])
    return as_json({"found": len(found), "results": best})
