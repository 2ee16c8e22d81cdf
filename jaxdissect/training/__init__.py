"""Training of encoders: self-supervised (M2D, MSM-MAE) and supervised, by one loop."""
