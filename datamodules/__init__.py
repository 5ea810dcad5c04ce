"""Lightning data modules of prompts and images, which configs name."""

from .images import ImageData, ImageModule
from .prompts import PromptData, UnfinishedPrompts

__all__ = ["ImageData", "ImageModule", "PromptData", "UnfinishedPrompts"]
