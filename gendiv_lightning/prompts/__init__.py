"""Readers and filters of prompt sets, sampling designs, and paraphrases."""
