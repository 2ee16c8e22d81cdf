"""Limits of the system, for a test."""

import os
import resource
from contextlib import contextmanager


@contextmanager
def few_open_files(free):
    """Let this process open no more than `free` files more, until it raises the limit."""
    taken = [os.open(os.devnull, os.O_RDONLY) for _ in range(free + 1)]  # the lowest numbers that are free
    for file in taken:
        os.close(file)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken[-1], before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
