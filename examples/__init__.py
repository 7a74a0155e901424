"""Sample applications, see docs/copy-on-write.md; and patterns, see channels/README.md."""
