"""What permaheap costs and saves, measured side by side with what one would use instead.

``python -m benchmarks`` runs every measurement in fresh processes, prints the tables and, with
``--write``, writes docs/benchmarks.md and its plots. See ``python -m benchmarks --help``.
"""
