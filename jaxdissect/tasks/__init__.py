"""Which clips, which labels, which split (`table`, `known`, `notes`), and their batches (`loader`)."""
