"""Reading neurons, changing them, and where their tokens come from."""
