"""How far numbers differ between implementations, devices and types of computation."""
