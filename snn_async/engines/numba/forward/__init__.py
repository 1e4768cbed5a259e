"""The event loop, compiled: docs/design.md, section 3."""
