"""What the method finds, and how far it can be trusted."""
