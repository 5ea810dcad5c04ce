"""DINOv2 features: the class token after the last norm, the pooler output of transformers' `Dinov2Model`.

Source: Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision" (2023); for Frechet distances:
Stein et al., "Exposing flaws of generative model evaluation metrics" (2023).
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn
from typing_extensions import override

from gendiv_lightning.features.base import ImageFeatures
from gendiv_lightning.features.preprocessing import Preprocessing, preprocessing_of
from gendiv_lightning.weights.hash import sha256
from gendiv_lightning.weights.load import load_pretrained, reading
from gendiv_lightning.weights.resolve import WEIGHT_FILES, fetch_one_of

DEFAULT_MODEL = "facebook/dinov2-base"


class DINOv2Features(ImageFeatures):
    """One vector per image, with 384, 768, 1024 or 1536 dimensions for the small, base, large and giant model.

    Args:
        model: `OWNER/REPO` on the Hugging Face Hub, or a folder with a `Dinov2Model` and its image processor.
    """

    def __init__(self, model: str = DEFAULT_MODEL) -> None:
        super().__init__()
        self.model = model

    @property
    @override
    def tag(self) -> str:
        return "dinov2" if self.model == DEFAULT_MODEL else Path(self.model).name

    @override
    def identity(self) -> dict[str, object]:
        folder = Path(self.model).expanduser()
        if not folder.is_dir():
            return {"network": self.model, "weights": None}
        return {"network": folder.name, "weights": sha256(folder)}

    @override
    def read(self) -> nn.Module:
        from transformers import AutoImageProcessor, Dinov2Model

        advice = "Load it once with access to the Hub, or pass a folder as `model`: cosine[dinov2,model=FOLDER]"
        with reading("DINOv2 model", self.model, advice):
            if not Path(self.model).expanduser().is_dir():
                fetch_one_of(self.model, WEIGHT_FILES)
            model = load_pretrained(Dinov2Model, self.model)
            processor = AutoImageProcessor.from_pretrained(self.model)
            return _Dinov2(model, preprocessing_of(processor.to_dict()))

    @override
    def embed(self, images: Tensor) -> Tensor:
        preprocessing = self.network.preprocessing
        pixels = preprocessing.resize(images).to(images.device)
        return self.network.model(preprocessing.scale(pixels)).pooler_output


class _Dinov2(nn.Module):
    """The model with its preprocessing."""

    def __init__(self, model: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.model, self.preprocessing = model, preprocessing
