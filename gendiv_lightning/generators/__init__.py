"""Generators: one family a file."""

from gendiv_lightning.generators.amused import Amused
from gendiv_lightning.generators.llamagen import LlamaGen
from gendiv_lightning.generators.postcards import PerfectPostcards
from gendiv_lightning.generators.vq_diffusion import VQDiffusion

__all__ = ["Amused", "LlamaGen", "PerfectPostcards", "VQDiffusion"]
