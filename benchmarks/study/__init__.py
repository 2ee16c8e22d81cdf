"""What the method finds, and how far its results can be trusted."""
