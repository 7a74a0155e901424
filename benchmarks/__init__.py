"""The costs and savings of permaheap, measured side by side with its alternatives.

``python -m benchmarks`` runs every measurement in new processes and prints the tables. With
``--write`` it also writes docs/benchmarks.md and its plots. See ``python -m benchmarks --help``.
"""
