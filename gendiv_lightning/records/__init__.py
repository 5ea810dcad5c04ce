"""Records passed between data module, generator, metrics and run folder."""

from gendiv_lightning.records.design import NoiseKey, PromptBatch, SamplePlan
from gendiv_lightning.records.estimate import Estimate
from gendiv_lightning.records.prompts import Paraphrase, Prompt, length_class, prompt_id
from gendiv_lightning.records.samples import ImageBatch, PromptSamples, SampleBatch, TokenSamples, split_by_prompt

__all__ = [
    "Estimate",
    "ImageBatch",
    "NoiseKey",
    "Paraphrase",
    "Prompt",
    "PromptBatch",
    "PromptSamples",
    "SampleBatch",
    "SamplePlan",
    "TokenSamples",
    "length_class",
    "prompt_id",
    "split_by_prompt",
]
