"""Sample applications, to be run, profiled and measured; see docs/copy-on-write.md."""
