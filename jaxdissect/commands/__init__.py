"""The commands: what each one asks for, does and answers."""
