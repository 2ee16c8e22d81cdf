"""Linear probes on embeddings."""
