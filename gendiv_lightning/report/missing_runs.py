"""Which run to make for what a report lacks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CONFIGS = {"llamagen": "llamagen", "amused": "amused", "vqdiffusion": "vq_diffusion"}
_ADD = "--trainer.callbacks+=gendiv_lightning.callbacks."
_SUBSET = f"{_ADD}CodebookSubset --trainer.callbacks.ratio=0.25"
_DROP = f"{_ADD}CodebookSubset --trainer.callbacks.select=drop_most_frequent --trainer.callbacks.ratio=0.05"
RUNS = {  # config, and what is added to it
    "baseline": ("", ""),
    "argmax": ("_argmax", ""),
    "subset": ("_subset", "--trainer.callbacks.ratio=0.25"),
    "paraphrases": ("_paraphrase", ""),
    "decompose": ("_decompose", ""),
    "decompose under argmax": ("_decompose", f"{_ADD}Argmax"),
    "decompose under subset": ("_decompose", _SUBSET),
    "the enhancement": ("_paraphrase", _DROP),
}


def command_for(identity: Mapping[str, Any], run: str) -> str:
    """The command, in backticks; for a generator without configs here, the run in words.

    Args:
        identity: of the generator, from a run's protocol.
        run: a key of `RUNS`.
    """
    config, (suffix, added) = CONFIGS.get(identity["generator"]), RUNS[run]
    if config is None:
        return f"the same generator with {run}"
    is_embedded = bool(identity.get("embedded"))
    folder, usage = ("configs/tiny", f"toy:{config}") if is_embedded else ("configs", f"runs/{config}_codebook/")
    words = ["gendiv fit-free predict --config", f"{folder}/{config}{suffix}.yaml"]
    if added:
        words.append(added)
    if "CodebookSubset" in added:
        words.append(f"--trainer.callbacks.usage={usage}{'_' if is_embedded else ''}usage.safetensors")
    return f"`{' '.join(words)}`"
