"""Log-mel -> tokens -> embedding: the `Encoder` protocol (`protocol`), M2D, encoder directories and conversion."""
