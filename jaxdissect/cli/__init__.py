"""The command line: it parses, calls a command, and prints its answer."""

from jaxdissect.cli.entry import main as main
