"""Which clips, which labels, which split (`table`, `known`, `synthesis`), and their batches (`loader`)."""
