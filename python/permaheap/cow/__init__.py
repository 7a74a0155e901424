"""The copy-on-write profiler: which pages each worker has copied, and why."""

from permaheap.cow._map import leave_map
from permaheap.cow._model import Cause, Page, Profile, Sample, Worker
from permaheap.cow._snapshot import snapshot

__all__ = ["Cause", "Page", "Profile", "Sample", "Worker", "leave_map", "snapshot"]
