"""Analyses of stored runs, as pure functions that can be imported in a notebook."""
