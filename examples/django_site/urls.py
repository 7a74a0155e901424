"""The addresses of the site, and their views."""

from catalogue import views
from django.contrib import admin
from django.urls import path

urlpatterns = [
    path("", views.BookList.as_view(), name="books"),
    path("book/<int:pk>/", views.BookDetail.as_view(), name="book"),
    path("author/<int:pk>/", views.AuthorDetail.as_view(), name="author"),
    path("subjects/", views.search, name="search"),
    path("subjects/<str:code>/", views.subject, name="subject"),
    path("admin/", admin.site.urls),
]
