"""Which classes share neurons."""
