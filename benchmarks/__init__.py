"""Measurements of speed, of numerical parity and of what the method finds; run as `python -m benchmarks.FOLDER.NAME`.

Times in the docstrings are for two CPU cores.
"""
