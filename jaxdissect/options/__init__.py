"""Options of every command, checked where they are declared. Nothing heavy is imported, so `--help` answers at once."""
