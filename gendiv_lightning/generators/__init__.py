"""Generators: one module per family."""

from gendiv_lightning.generators.amused import Amused
from gendiv_lightning.generators.diffusers_pipeline import DiffusersPipeline
from gendiv_lightning.generators.emu3 import Emu3
from gendiv_lightning.generators.glm_image import GLMImage
from gendiv_lightning.generators.janus import Janus
from gendiv_lightning.generators.llamagen.generator import LlamaGen
from gendiv_lightning.generators.meissonic.generator import Meissonic
from gendiv_lightning.generators.var.generator import VAR
from gendiv_lightning.generators.vq_diffusion import VQDiffusion

__all__ = ["VAR", "Amused", "DiffusersPipeline", "Emu3", "GLMImage", "Janus", "LlamaGen", "Meissonic", "VQDiffusion"]
