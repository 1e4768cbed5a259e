"""The replay, compiled: docs/design.md, section 5."""
