"""Sampling loops and samplers: every random decision is a function of keyed noise."""

from gendiv_lightning.sampling.latents import LatentSampler
from gendiv_lightning.sampling.noise import Noise
from gendiv_lightning.sampling.sampler import (
    AnySampler,
    Description,
    Draw,
    Observer,
    Probe,
    Sampler,
    TokenGrid,
    TokenSampler,
    apply_probes,
    check_settings,
)

__all__ = [
    "AnySampler",
    "Description",
    "Draw",
    "LatentSampler",
    "Noise",
    "Observer",
    "Probe",
    "Sampler",
    "TokenGrid",
    "TokenSampler",
    "apply_probes",
    "check_settings",
]
