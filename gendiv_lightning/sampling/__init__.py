"""Everything that a sampling loop decides by chance, as a function of keyed noise."""

from gendiv_lightning.sampling.noise import Noise
from gendiv_lightning.sampling.sampler import (
    Draw,
    Observer,
    Probe,
    TokenGrid,
    TokenSampler,
    apply_probes,
    check_settings,
    plan_samples,
)

__all__ = [
    "Draw",
    "Noise",
    "Observer",
    "Probe",
    "TokenGrid",
    "TokenSampler",
    "apply_probes",
    "check_settings",
    "plan_samples",
]
