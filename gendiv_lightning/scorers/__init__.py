"""Scorers: models that answer questions about images."""
