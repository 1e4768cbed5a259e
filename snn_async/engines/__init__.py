"""Engines: several implementations of one contract (docs/design.md, section 6), chosen by `backend=`."""
