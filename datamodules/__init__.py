"""Prompts and images in: the data modules that configs name."""

from gendiv_lightning.toy.images import PostcardImages

from .images import ImageData
from .prompts import PromptData

__all__ = ["ImageData", "PostcardImages", "PromptData"]
