"""Imports what a run imports at its start or later: the processes of a study fork from one that has done so."""

import datasets  # noqa: F401
import open_clip  # noqa: F401
import wandb  # noqa: F401
from diffusers import Transformer2DModel, UVit2DModel, VQModel  # noqa: F401
from transformers import CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel  # noqa: F401

import gendiv_lightning.cli.predict  # noqa: F401
