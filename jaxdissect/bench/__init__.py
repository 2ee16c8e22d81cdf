"""Throughput of an encoder here."""
