"""Callbacks that configs name: probes and designs change the sampling, others measure and store the samples."""

from .codebook_counts import CodebookCounts, WriteUsage
from .designs import Decompose, Paraphrase
from .measure import Measure
from .probes import (
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
from .progress import SamplesPerSecond
from .run_writer import RunWriter

__all__ = [
    "Argmax",
    "Branch",
    "CodebookCounts",
    "CodebookSubset",
    "Decompose",
    "FreezePath",
    "Guidance",
    "Measure",
    "Paraphrase",
    "PosteriorArgmax",
    "RunWriter",
    "SamplesPerSecond",
    "Temperature",
    "TopK",
    "TopP",
    "WriteUsage",
]
