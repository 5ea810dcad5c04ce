"""Untruncated: top-k and top-p off, as a plug-in of gendiv."""

from dataclasses import replace

from gendiv_lightning.callbacks.probes import ProbeCallback


class Untruncated(ProbeCallback):
    """Draw tokens from the complete distribution of the model; the difference to the baseline is due to truncation."""

    sets = ("top_k", "top_p")
    isolates = "the diversity that truncation removes"

    def apply(self, sampler):
        """Return a sampler without truncation, which the loop calls for every token, regardless of the family."""
        return replace(sampler, top_k=None, top_p=1.0)
