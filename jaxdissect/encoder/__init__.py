"""Log-mel -> tokens -> embedding: the `Encoder` protocol (`base`), M2D, encoder directories and conversion."""
