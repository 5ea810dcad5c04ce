"""Prompts and images in: the data modules that configs name."""

from .images import ImageData
from .postcards import PostcardImages
from .prompts import PromptData

__all__ = ["ImageData", "PostcardImages", "PromptData"]
