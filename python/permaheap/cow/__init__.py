"""The copy-on-write profiler: which pages each worker has copied, and why."""

from permaheap.cow._trace import Trace
from permaheap.cow._trace import find as find_trace
from permaheap.cow._trace import start as trace
from permaheap.cow._trace_file import TraceError

__all__ = ["Trace", "TraceError", "find_trace", "trace"]
