"""Audio files -> fixed-length PCM (`decode`) -> log-mel spectrogram (`log_mel`)."""
