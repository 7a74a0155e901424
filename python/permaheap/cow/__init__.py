"""The copy-on-write profiler: which pages each worker has copied, and why."""
