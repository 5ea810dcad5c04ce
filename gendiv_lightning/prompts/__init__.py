"""Readers of prompt sets, their filters and how they are sampled."""
