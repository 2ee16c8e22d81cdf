"""Class-specific neurons by scores such as AAPE."""
