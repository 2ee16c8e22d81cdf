"""Neuron-level dissection of audio Transformers in JAX: audio in, class-specific neurons out."""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # public names, listed in __init__.pyi
