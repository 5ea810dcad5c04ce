"""Records passed between data module, generator, metrics and run folder."""

from gendiv_lightning.records.design import NoiseKey, PromptBatch, SampleDesign
from gendiv_lightning.records.estimate import Estimate
from gendiv_lightning.records.prompts import LENGTHS, Paraphrase, Prompt, length_class, prompt_id
from gendiv_lightning.records.samples import (
    ImageBatch,
    LatentSamples,
    PromptSamples,
    SampleBatch,
    TokenSamples,
    split_by_prompt,
)

__all__ = [
    "LENGTHS",
    "Estimate",
    "ImageBatch",
    "LatentSamples",
    "NoiseKey",
    "Paraphrase",
    "Prompt",
    "PromptBatch",
    "PromptSamples",
    "SampleBatch",
    "SampleDesign",
    "TokenSamples",
    "length_class",
    "prompt_id",
    "split_by_prompt",
]
