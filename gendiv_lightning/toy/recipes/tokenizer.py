"""The recipe of the tokenizer shared by the toy models."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gendiv_lightning.generators.llamagen.tokenizer import VQModel
from gendiv_lightning.generators.vqgan import from_uint8
from gendiv_lightning.toy import postcards
from gendiv_lightning.toy.files import TINY_VQ, WEIGHTS, save_half, seeded
from gendiv_lightning.toy.recipes.base import Recipe, load_tokenizer


class TokenizerRecipe(Recipe):
    """The tokenizer: reconstruction, codebook and commitment losses; dead codes restart from latents of the batch.

    Args:
        local: continue from the exported tokenizer with an additional loss: cells that look the same in two images must
            have the same latents. Attention and group norm cover the whole image, so without this loss a token can
            change with something far away.
    """

    batch_size = 64
    learning_rate = 2e-3
    last_used: Tensor

    def __init__(self, num_steps: int, seed: int, work: Path, weights: Path = WEIGHTS, *, local: bool = False) -> None:
        super().__init__(num_steps, seed, work, weights)
        self.local = local
        if local:
            self.model, self.learning_rate = load_tokenizer(weights).train(), 1e-3
        else:
            self.model = VQModel(TINY_VQ)
            nn.init.normal_(self.model.quantize.embedding.weight)
        self.register_buffer("last_used", torch.zeros(TINY_VQ.codebook_size))

    def loss(self, step: int) -> dict[str, Tensor]:
        """Losses on uniformly drawn postcards, in pairs that differ in one group."""
        generator = seeded(self.seed, step)
        indices = torch.randint(postcards.NUM_IMAGES, (self.batch_size // 2,), generator=generator)
        pixels = postcards.render(torch.cat([indices, _change_one_group(indices, generator)]))
        images = from_uint8(pixels).to(self.device)
        latents = F.normalize(self.model.latents(images).float(), dim=1)
        tokens = self.model.quantize.nearest(latents)
        if not self.local:
            self._restart_dead_codes(latents, tokens, step, generator)
        codes = self.model.quantize.lookup(tokens, *latents.shape[2:])
        reconstruction = self.model.decode_codes(latents + (codes - latents).detach()).float()
        mse = F.mse_loss(reconstruction, images)
        codebook = (codes - latents.detach()).square().sum(1).mean()
        commitment = (codes.detach() - latents).square().sum(1).mean()
        one, other = latents.chunk(2)
        same = _same_cells(*pixels.chunk(2)).to(self.device)
        shift = ((one - other).square().sum(1) * same).sum() / same.sum()
        loss = 10 * mse + F.l1_loss(reconstruction, images) + codebook + 0.25 * commitment + 5 * self.local * shift
        psnr = -10 * (mse.detach() / 4).log10()
        used = (step - self.last_used < 100).float().sum()
        figures = {"psnr": psnr, "codebook": codebook, "codes_used": used, "shift": shift}
        return {"loss": loss, **{name: figure.detach() for name, figure in figures.items()}}

    @torch.no_grad()
    def _restart_dead_codes(self, latents: Tensor, tokens: Tensor, step: int, generator: torch.Generator) -> None:
        self.last_used[tokens.unique()] = step
        dead = (step - self.last_used > 50).nonzero()[:, 0]
        if step % 50 == 0 and step < self.num_steps // 2 and len(dead):
            flat = latents.transpose(0, 1).flatten(1).T
            self.model.quantize.embedding.weight[dead] = flat[
                torch.randint(len(flat), (len(dead),), generator=generator)
            ]
            self.last_used[dead] = step

    def export(self, folder: Path) -> None:
        """Write the weights with the official key names, including the training statistic's 65,536 zeros as fp16."""
        save_half(self.model.state_dict(), folder / "llamagen_vq.safetensors")


def _change_one_group(indices: Tensor, generator: torch.Generator) -> Tensor:
    values = postcards.values_of(indices)
    group = torch.randint(len(postcards.GROUPS), (len(indices), 1), generator=generator)
    size = postcards.GROUP_SIZES[group]
    step = 1 + (torch.rand(group.shape, generator=generator) * (size - 1)).long()
    return postcards.index_of(values.scatter(1, group, (values.gather(1, group) + step) % size))


def _same_cells(one: Tensor, other: Tensor) -> Tensor:
    """Which cells of 8 x 8 pixels, with a margin of 4 pixels, are the same in two images: (B, 6, 6)."""
    differs = ((one.int() - other.int()).abs().amax(1) > 1).float()[:, None]
    return F.max_pool2d(differs, 16, stride=8, padding=4)[:, 0] == 0
