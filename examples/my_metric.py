"""ColourSpread: variation of the mean colour among the samples of a prompt, as a plug-in of gendiv."""

import math

from gendiv_lightning.metrics.base import PromptMetric


class ColourSpread(PromptMetric):
    """Standard deviation of the mean colour over the samples of a prompt: a length in RGB space, at least 0.

    It measures whether whole images are redder or brighter than others, but not their content.
    """

    title = "spread of the mean colour"
    short = "colour spread"
    names = ("diversity/colour_spread",)
    method = "standard deviation of the mean colour over samples (N - 1); mean over prompts, BCa bootstrap over prompts"

    def measure(self, samples):
        """One number per name; NaN leaves a prompt out, here a prompt with one sample."""
        if len(samples.images) < 2:
            return [math.nan]
        colours = samples.images.double().mean((2, 3)) / 255  # (N, 3)
        return [colours.var(0, correction=1).sum().sqrt().item()]
