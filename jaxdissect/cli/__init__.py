"""The command line: it parses, calls a command, and prints its answer."""

import os

if os.environ.get("NO_COLOR"):  # tyro reads a variable of its own instead, when it is imported
    os.environ.setdefault("PYTHON_TYRO_ANSI_CODES", "False")

from jaxdissect.cli.entry import main as main
