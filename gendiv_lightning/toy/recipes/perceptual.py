"""The recipe of the toy perceptual network."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gendiv_lightning.toy import postcards
from gendiv_lightning.toy.features import TinyPerceptualNet
from gendiv_lightning.toy.files import WEIGHTS, save_half, seeded
from gendiv_lightning.toy.recipes.base import Recipe


class PerceptualRecipe(Recipe):
    """Trains the perceptual network to classify the nine factors of noisy, shifted and recoloured postcards."""

    batch_size = 64
    learning_rate = 2e-3

    def __init__(self, num_steps: int, seed: int, work: Path, weights: Path = WEIGHTS) -> None:
        super().__init__(num_steps, seed, work, weights)
        self.model = TinyPerceptualNet()
        sizes = [len(postcards.factor_names(factor)) for factor in postcards.FACTORS]
        self.heads = nn.ModuleList(nn.Linear(64 * 36, size) for size in sizes)

    def loss(self, step: int) -> dict[str, Tensor]:
        """Cross-entropy, mean over factors."""
        generator = seeded(self.seed, step)
        indices = torch.randint(postcards.NUM_IMAGES, (self.batch_size,), generator=generator)
        images = postcards.render(indices).float() / 255
        images = images * (0.9 + 0.2 * torch.rand(len(images), 3, 1, 1, generator=generator))
        images = images + 0.1 * torch.rand(len(images), 1, 1, 1, generator=generator) * torch.randn(
            images.shape, generator=generator
        )
        shift = torch.randint(-2, 3, (2,), generator=generator).tolist()
        images = images.roll(shift, dims=(2, 3)).clamp(0, 1).to(self.device)
        stage = self.model(2 * images - 1)[-1]
        losses, right = [], []
        for head, target in zip(self.heads, postcards.factors_of(indices).values(), strict=True):
            logits = head(stage.flatten(1))
            losses.append(F.cross_entropy(logits, target.to(self.device)))
            right.append((logits.argmax(1) == target.to(self.device)).float().mean())
        return {"loss": torch.stack(losses).mean(), "accuracy": torch.stack(right).mean()}

    def export(self, folder: Path) -> None:
        """Write the network without its heads."""
        save_half(self.model.state_dict(), folder / "perceptual.safetensors")
