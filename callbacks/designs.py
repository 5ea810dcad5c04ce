"""Designs as callbacks: they choose paraphrases and paths of the samples and do not change the sampler."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from gendiv_lightning.errors import DesignError, ProbeError
from gendiv_lightning.prompts.design import Design, share_paths
from gendiv_lightning.records import SampleDesign
from gendiv_lightning.sampling import Description

from .probes import SettingCallback

Length = Literal["short", "medium", "long", "mixed", "any"]


class DesignCallback(SettingCallback, Design):
    """A design that a config names."""


class Paraphrase(DesignCallback):
    """Spread the samples of a prompt over its paraphrases: the prompt path.

    Args:
        num_paraphrases: number of paraphrases; the number of samples must be a multiple of it and at least twice it.
        length: "short", "medium", "long", "mixed" (evenly from the three) or "any" (in the order of the prompt set).
    """

    isolates = "the diversity that other words for the same meaning add"

    def __init__(self, num_paraphrases: int = 4, length: Length = "any") -> None:
        if num_paraphrases < 1:
            raise DesignError(f"num_paraphrases must be at least 1, got {num_paraphrases}. Give a positive integer")
        self.num_paraphrases, self.length = num_paraphrases, length

    def describe(self, codebook_size: int) -> Description:
        """Describe the number and length of the paraphrases."""
        short = "paraphrases" if self.length == "any" else self.length
        return Description(f"{self.num_paraphrases} {_adjective(self.length)}paraphrases", short, self.isolates)

    def design(self, design: SampleDesign) -> SampleDesign:
        """Set the paraphrases."""
        if design.num_paraphrases:
            raise ProbeError("Paraphrase and Decompose both select paraphrases. Use only one of them")
        return replace(design, num_paraphrases=self.num_paraphrases, length=self.length)


class Decompose(DesignCallback):
    """Give each prompt `num_paths` x `num_paths` samples per paraphrase, which separates H_path from H_exec.

    Each path has as many executions as there are paths. Groups of samples that share a path, and groups with one sample
    per path, then have the same size, so that small-sample bias cancels in their difference. Samples of a path share
    its noise; each sample has its own execution noise. The design can be combined with probes. `data.num_samples` is
    ignored.

    Args:
        num_paths: sampler paths per paraphrase, and samples per path; an even number.
        num_paraphrases: paraphrases per prompt, a divisor of `num_paths`; 0 uses only the original prompt, so that no
            prompt path is measured.
        length: length of the paraphrases, see `Paraphrase`.
    """

    isolates = "path and execution, each with its own noise"

    def __init__(self, num_paths: int = 4, num_paraphrases: int = 0, length: Length = "any") -> None:
        if num_paths < 2 or num_paths % 2:
            raise DesignError(f"num_paths must be an even number of at least 2, got {num_paths}. Try 4")
        if num_paraphrases and (num_paraphrases < 2 or num_paths % num_paraphrases):
            raise DesignError(
                f"num_paraphrases must be 0 or a divisor of num_paths above 1, got {num_paraphrases} for {num_paths} "
                "paths. "
                "Use 0 for the original prompt alone"
            )
        self.num_paths, self.num_paraphrases, self.length = num_paths, num_paraphrases, length

    def describe(self, codebook_size: int) -> Description:
        """Describe the number of paths, executions and paraphrases."""
        num, pool = self.num_paths, self.num_paraphrases
        texts = f" x {pool} {_adjective(self.length)}paraphrases" if pool else ""
        return Description(f"decomposed ({num} paths x {num} executions{texts})", "decomposed", self.isolates)

    def design(self, design: SampleDesign) -> SampleDesign:
        """Set the crossed design."""
        if design.num_paraphrases:
            raise ProbeError(
                "Paraphrase and Decompose both select paraphrases. Set num_paraphrases of Decompose, and remove "
                "Paraphrase"
            )
        return replace(
            share_paths(design, self.num_paths),
            num_samples=self.num_paths**2 * max(1, self.num_paraphrases),
            num_paraphrases=self.num_paraphrases,
            length=self.length,
        )


def _adjective(length: str) -> str:
    return "" if length == "any" else f"{length} "
