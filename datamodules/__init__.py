"""Prompts and images in: the data modules that configs name."""

from .images import ImageFolderData
from .postcards import PostcardImages
from .prompts import PromptData

__all__ = ["ImageFolderData", "PostcardImages", "PromptData"]
