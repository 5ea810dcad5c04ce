"""Paraphrases of prompts: asked of a model, held against their prompts, and the same set however often interrupted."""
