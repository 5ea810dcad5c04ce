"""Untruncated: top-k and top-p off, as a plug-in of gendiv."""

from dataclasses import replace

from gendiv_lightning.callbacks.probes import ProbeCallback


class Untruncated(ProbeCallback):
    """Draw tokens from the model's whole distribution. The baseline's distance to it is what truncation takes away."""

    sets = ("top_k", "top_p")
    isolates = "the diversity that truncation takes away"

    def apply(self, sampler):
        """A sampler without truncation. The loop asks it for every token, whatever the family."""
        return replace(sampler, top_k=None, top_p=1.0)
