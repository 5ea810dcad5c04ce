"""Runs: how they are assembled, stored, described and loaded."""
