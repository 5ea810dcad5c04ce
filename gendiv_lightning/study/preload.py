"""Imports everything that a run imports; the processes of a study are forked from a process with this module."""

import datasets  # noqa: F401
import open_clip  # noqa: F401
import wandb  # noqa: F401
from diffusers import Transformer2DModel, UVit2DModel, VQModel  # noqa: F401
from transformers import CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel  # noqa: F401

import gendiv_lightning.cli.predict  # noqa: F401
