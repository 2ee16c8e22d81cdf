"""Traces that JAX's profiler has written."""

import gzip
import json
from collections import Counter


def trace_files(folder):
    return sorted(folder.glob("plugins/profile/*/*.trace.json.gz"))


def spans(folder):
    """Number of spans of the one trace in a folder, by name."""
    (file,) = trace_files(folder)
    with gzip.open(file) as opened:
        return Counter(event["name"] for event in json.load(opened)["traceEvents"] if event.get("ph") == "X")
