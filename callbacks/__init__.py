"""What is done to a sampling loop (probes) and with its samples (measuring, storing): the classes that configs name."""

from gendiv_lightning.callbacks.codebook_usage import WriteUsage
from gendiv_lightning.callbacks.measure import Measure
from gendiv_lightning.callbacks.probes import (
    Argmax,
    CodebookSubset,
    FreezePath,
    Guidance,
    Paraphrase,
    Temperature,
    TopK,
    TopP,
)
from gendiv_lightning.callbacks.progress import SamplesPerSecond
from gendiv_lightning.callbacks.run_writer import RunWriter

__all__ = [
    "Argmax",
    "CodebookSubset",
    "FreezePath",
    "Guidance",
    "Measure",
    "Paraphrase",
    "RunWriter",
    "SamplesPerSecond",
    "Temperature",
    "TopK",
    "TopP",
    "WriteUsage",
]
