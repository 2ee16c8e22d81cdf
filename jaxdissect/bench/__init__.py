"""Throughput of an encoder on this machine."""
