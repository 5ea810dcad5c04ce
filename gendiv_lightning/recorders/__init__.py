"""Observers of a sampling loop, requested by the metric that needs them."""
