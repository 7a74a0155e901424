"""A library's catalogue: books and authors in a database, subject headings in memory."""
