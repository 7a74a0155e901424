"""The copy-on-write profiler: which pages each worker has copied, and why."""

from permaheap.cow._map import leave_map
from permaheap.cow._model import Cause, Page, Profile, Sample, Worker
from permaheap.cow._snapshot import snapshot
from permaheap.cow._trace import Trace
from permaheap.cow._trace import find as find_trace
from permaheap.cow._trace import start as trace
from permaheap.cow._trace_file import TraceError

__all__ = [
    "Cause",
    "Page",
    "Profile",
    "Sample",
    "Trace",
    "TraceError",
    "Worker",
    "find_trace",
    "leave_map",
    "snapshot",
    "trace",
]
