"""Encoders by family: one module each, and the attention and blocks that they share."""
