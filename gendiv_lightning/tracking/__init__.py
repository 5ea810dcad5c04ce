"""Logging to Weights & Biases."""
