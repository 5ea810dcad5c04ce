"""Colourfulness: how much the mean colour of a prompt's samples varies, as a plug-in of gendiv."""

import math

from gendiv_lightning.metrics.base import PromptMetric


class ColourSpread(PromptMetric):
    """Standard deviation, over the samples of a prompt, of their mean colour: a length in RGB, in [0, 1].

    It sees whether whole pictures are redder or brighter than others, and nothing of what is in them.
    """

    title = "spread of the mean colour"
    short = "colour spread"
    names = ("diversity/colour_spread",)
    method = "standard deviation of the mean colour over samples (N - 1); mean over prompts, BCa bootstrap over prompts"

    def measure(self, samples):
        """One number per name; NaN leaves the prompt out, here where it has one sample."""
        if len(samples.images) < 2:
            return [math.nan]
        colours = samples.images.double().mean((2, 3)) / 255  # (N, 3)
        return [colours.var(0, correction=1).sum().sqrt().item()]
