"""Prompts and images in: the data modules that configs name."""

from .images import ImageData, ImageModule
from .prompts import PromptData, UnfinishedPrompts

__all__ = ["ImageData", "ImageModule", "PromptData", "UnfinishedPrompts"]
