"""Feature networks by name: registered ones (`gendiv.features`), and any CLIP by its Hub name or folder."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from gendiv_lightning import plugins
from gendiv_lightning.errors import UnknownNameError
from gendiv_lightning.features.base import ImageFeatures
from gendiv_lightning.features.clip import ClipFeatures
from gendiv_lightning.features.lpips import PerceptualFeatures

_LPIPS = "lpips-"  # prefix of the names of LPIPS networks


def features_of(name: str) -> Callable[..., ImageFeatures]:
    """The constructor of the features with this name; it takes their options as arguments."""
    if name in plugins.registered("features"):
        return plugins.load("features", name)
    return partial(ClipFeatures, name)


def clip_of(name: str) -> ClipFeatures:
    """The CLIP with this name: a registered one, or a name that `ClipFeatures` accepts.

    Raises:
        ValueError: there is none.
    """
    features = features_of(name)()
    if not isinstance(features, ClipFeatures):
        raise UnknownNameError(
            f"backbone must be a CLIP with a text encoder, got {name!r}. Leave it out for the default"
        )
    return features


def perceptual_of(net: str, weights: str | None = None) -> PerceptualFeatures:
    """The LPIPS network that is registered as `lpips-NET`.

    Raises:
        ValueError: there is none.
    """
    nets = [name.removeprefix(_LPIPS) for name in plugins.registered("features") if name.startswith(_LPIPS)]
    if net not in nets:
        raise UnknownNameError(f"net must be one of {', '.join(nets)}, got {net!r}")
    return plugins.load("features", f"{_LPIPS}{net}")(weights=weights)
