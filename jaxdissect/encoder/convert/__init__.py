"""Checkpoints of PyTorch -> encoders, failing closed and without running pickled code."""
