"""The stages: each reads and writes a run directory."""
