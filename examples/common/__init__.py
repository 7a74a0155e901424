"""Tools that run, load and measure the sample applications; no part of the applications.

    processes   start a family of processes, read its memory, end all of it
    in_mode     run a program in one of the compared modes (in the program's own process)
    load        a bounded load from concurrent clients, and the answers
    sample      measure a sample application in every mode
    report      tables for the terminal and for docs/copy-on-write.md

A module uses only modules above it in this list.
"""
