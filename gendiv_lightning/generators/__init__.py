"""Generators: one family a file."""

from gendiv_lightning.generators.llamagen import LlamaGen

__all__ = ["LlamaGen"]
