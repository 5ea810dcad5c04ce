"""Where does the diversity of an image generator come from? See README.md; the command is `gendiv`.

    import gendiv_lightning as gd

    generator = gd.load("toy/llamagen")
    samples = generator.generate(["red sky", "black tree left"], num_samples=8, seed=0, probes=[gd.Argmax()])
    print(gd.evaluate(samples, ["lpips[tiny]", "vendi[tiny]"]))
    samples.grid()

Importing this module imports nothing else: each name is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from gendiv_lightning.api import Estimates, evaluate, load, read_prompts
    from gendiv_lightning.callbacks.designs import Decompose, Paraphrase
    from gendiv_lightning.callbacks.probes import (
        Argmax,
        Branch,
        CodebookSubset,
        FreezePath,
        Guidance,
        PosteriorArgmax,
        Temperature,
        TopK,
        TopP,
    )
    from gendiv_lightning.generators.base import Generator, TokenGenerator
    from gendiv_lightning.generators.generate import Samples
    from gendiv_lightning.records import Estimate, Prompt

_MODULES = {
    "api": ("Estimates", "evaluate", "load", "read_prompts"),
    "callbacks.designs": ("Decompose", "Paraphrase"),
    "callbacks.probes": (
        *("Argmax", "Branch", "CodebookSubset", "FreezePath", "Guidance", "PosteriorArgmax", "Temperature"),
        *("TopK", "TopP"),
    ),
    "generators.base": ("Generator", "TokenGenerator"),
    "generators.generate": ("Samples",),
    "records": ("Estimate", "Prompt"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Argmax",
    "Branch",
    "CodebookSubset",
    "Decompose",
    "Estimate",
    "Estimates",
    "FreezePath",
    "Generator",
    "Guidance",
    "Paraphrase",
    "PosteriorArgmax",
    "Prompt",
    "Samples",
    "Temperature",
    "TokenGenerator",
    "TopK",
    "TopP",
    "evaluate",
    "load",
    "read_prompts",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
