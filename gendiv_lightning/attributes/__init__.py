"""Attribute lists: what a prompt leaves open and what it states, as questions with fixed values."""
