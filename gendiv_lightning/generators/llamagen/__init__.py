"""LlamaGen: generator, transformer and tokenizer."""

from gendiv_lightning.generators.llamagen.generator import LlamaGen

__all__ = ["LlamaGen"]
