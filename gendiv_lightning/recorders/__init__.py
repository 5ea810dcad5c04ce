"""Recorders: observers of a sampling loop, requested by the metric that needs them."""

from gendiv_lightning.recorders.base import Recordable, Recorder
from gendiv_lightning.recorders.likelihood import ParaphraseLikelihood
from gendiv_lightning.recorders.marginals import TokenMarginals

__all__ = ["ParaphraseLikelihood", "Recordable", "Recorder", "TokenMarginals"]
