"""Options of every command. These modules import nothing heavy, so that `--help` answers at once."""
