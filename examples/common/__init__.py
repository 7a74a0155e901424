"""What the sample applications are run, loaded and measured with; no part of the applications.

    processes   start a family of processes, read its memory, end all of it
    in_mode     run a program as one of the modes that are compared (in the program's own process)
    load        a bounded load from concurrent clients, and what became of it
    sample      measure a sample application in every mode
    report      tables for the terminal and for docs/copy-on-write.md

Dependencies point up this list only.
"""
