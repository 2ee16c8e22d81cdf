"""Counting how often every neuron fires for every class."""
