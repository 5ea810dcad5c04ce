"""The recipes of the embedded models, run by `gendiv zoo train NAME`: Lightning fits that can be stopped and resumed.

The data of a step is a function of (seed, step), so a resumed training is the training it would have been.
"""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader
from tqdm import tqdm

from gendiv_lightning.disk import write_atomically
from gendiv_lightning.features.lpips import TinyPerceptualNet
from gendiv_lightning.models.checkpoints import sha256
from gendiv_lightning.models.llamagen_gpt import GPT, CaptionEmbedder
from gendiv_lightning.models.llamagen_vq import VQModel, from_uint8
from gendiv_lightning.zoo import captions, world
from gendiv_lightning.zoo.files import (
    TINY_GPT,
    TINY_T5,
    TINY_VQ,
    WEIGHTS,
    load_float,
    num_words,
    save_half,
    seeded,
    write_tokenizer,
)


class Recipe(LightningModule, ABC):
    """One embedded model's training: AdamW, linear warm-up, cosine decay to zero over `num_steps`."""

    batch_size: int
    learning_rate: float
    weight_decay: float = 0.01

    def __init__(self, num_steps: int, seed: int, work: Path, weights: Path = WEIGHTS) -> None:
        super().__init__()
        self.num_steps, self.seed, self.work, self.weights = num_steps, seed, work, weights

    @abstractmethod
    def loss(self, step: int) -> dict[str, Tensor]:
        """Losses and figures of a step; "loss" is the one that is minimised."""

    @abstractmethod
    def export(self, folder: Path) -> None:
        """Write the trained weights for use."""

    def identity(self) -> dict[str, object]:
        """What a checkpoint must have in common with the training that goes on from it."""
        return {"seed": self.seed}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remember whose checkpoint it is."""
        checkpoint["recipe"] = self.identity()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse another training's checkpoint: going on from it would give neither of the two."""
        if checkpoint["recipe"] != self.identity():
            raise ValueError(
                f"{self.work} holds a training of {checkpoint['recipe']}, this one is of {self.identity()}: "
                "give another --work, or delete that checkpoint"
            )

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """A step; the data loader only counts, the data come from the step's number."""
        figures = self.loss(self.global_step)
        self.log_dict(figures, prog_bar=True)
        return figures["loss"]

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up and cosine decay."""
        optimizer = torch.optim.AdamW(
            self.parameters(), self.learning_rate, betas=(0.9, 0.98), weight_decay=self.weight_decay
        )

        def scale(step: int) -> float:
            return min(1.0, (step + 1) / 200) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.num_steps)))

        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, scale), "interval": "step"},
        }

    def train_dataloader(self) -> Iterable[Any]:
        """Numbers of steps."""
        # Anything with a length and numbered items will do, whatever the loader's type says.
        return DataLoader(range(self.num_steps), batch_size=None)  # type: ignore[arg-type]


class TokenizerRecipe(Recipe):
    """The tokenizer: reconstruction, codebook and commitment losses; dead codes restart from latents of the batch.

    Args:
        local: go on from the exported tokenizer, with one loss more: where two images look the same, their latents must
            be the same. Attention and group norm see the whole image, and without it a token may flip with something
            far away.
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
        """Images drawn uniformly from the world, in pairs that differ in one group."""
        generator = seeded(self.seed, step)
        indices = torch.randint(world.NUM_IMAGES, (self.batch_size // 2,), generator=generator)
        pixels = world.render(torch.cat([indices, _change_one_group(indices, generator)]))
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
        """Official key names, without the training statistic's 65536 zeros made larger than they are."""
        save_half(self.model.state_dict(), folder / "llamagen_vq.safetensors")


def _change_one_group(indices: Tensor, generator: torch.Generator) -> Tensor:
    values = world.values_of(indices)
    group = torch.randint(len(world.GROUPS), (len(indices), 1), generator=generator)
    size = world.GROUP_SIZES[group]
    step = 1 + (torch.rand(group.shape, generator=generator) * (size - 1)).long()
    return world.index_of(values.scatter(1, group, (values.gather(1, group) + step) % size))


def _same_cells(one: Tensor, other: Tensor) -> Tensor:
    """Which cells of 8 x 8 pixels, and 4 pixels around them, are the same in two images: (B, 6, 6)."""
    differs = ((one.int() - other.int()).abs().amax(1) > 1).float()[:, None]
    return F.max_pool2d(differs, 16, stride=8, padding=4)[:, 0] == 0


class LlamaGenRecipe(Recipe):
    """The transformer and its text encoder, end to end: next-token cross-entropy, a tenth of the captions dropped."""

    batch_size = 128
    learning_rate = 1.5e-3

    def __init__(self, num_steps: int, seed: int, work: Path, weights: Path = WEIGHTS) -> None:
        super().__init__(num_steps, seed, work, weights)
        from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

        write_tokenizer(work / "t5")
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(work / "t5")
        self.text_encoder = T5EncoderModel(T5Config(vocab_size=num_words(), **TINY_T5))
        self.gpt = GPT(TINY_GPT)
        self.apply(self._initialise)
        embedder = self.gpt.cls_embedding
        assert isinstance(embedder, CaptionEmbedder), "the embedded model is conditioned on captions"
        null = torch.randn(embedder.uncond_embedding.shape, generator=seeded(seed, -1))
        embedder.uncond_embedding.copy_(null / TINY_GPT.caption_dim**0.5)
        self.grids = torch.empty(0)
        allowed = torch.ones(world.NUM_IMAGES, dtype=torch.bool)
        allowed[captions.held_out()] = False
        self.images = allowed.nonzero()[:, 0]

    @staticmethod
    def _initialise(module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.05 if isinstance(module, nn.Linear) else 0.3)

    def identity(self) -> dict[str, object]:
        """Seed and tokenizer."""
        return {"seed": self.seed, "tokenizer": sha256(self.weights / "llamagen_vq.safetensors")[:8]}

    def setup(self, stage: str) -> None:
        """Token grids of all images, encoded once and kept beside the checkpoints."""
        self.grids = token_grids(self.work / f"grids-{self.identity()['tokenizer']}.safetensors", self.weights)

    def loss(self, step: int) -> dict[str, Tensor]:
        """Captions of one length class a step: batches pad little."""
        rng = random.Random(self.seed * 1_000_003 + step)
        picked = torch.randint(len(self.images), (self.batch_size,), generator=seeded(self.seed, step))
        images = self.images[picked]
        length = rng.choices(("short", "medium", "long"), (0.5, 0.35, 0.15))[0]
        texts = [
            captions.wording(
                captions.meaning(image, rng.choices((1, 2, 3, 4, 5), (3, 3, 4, 2, 4))[0], rng), length, rng
            )
            for image in images.tolist()
        ]
        encoded = self.tokenizer(texts, padding=True, padding_side="left", return_tensors="pt").to(self.device)
        mask = encoded.attention_mask.bool()
        features = self.text_encoder(input_ids=encoded.input_ids, attention_mask=mask).last_hidden_state
        null, _ = self.gpt.null_features(mask.sum(1))
        dropped = torch.rand(len(texts), generator=seeded(self.seed, step + 500_000_000)) < 0.1
        features = torch.where(dropped[:, None, None].to(self.device), null[:, -features.shape[1] :], features.float())
        tokens = self.grids[images].to(self.device)
        with sdpa_kernel(SDPBackend.MATH):  # on a CPU the fused kernel is several times slower for 36 positions
            logits = self.gpt(self.gpt.cls_embedding(features), mask, tokens)
        return {"loss": F.cross_entropy(logits.flatten(0, 1), tokens.flatten())}

    def export(self, folder: Path) -> None:
        """The transformer under official names, the encoder in the Hugging Face layout."""
        save_half(self.gpt.state_dict(), folder / "llamagen_gpt.safetensors")
        write_tokenizer(folder / "t5")
        self.text_encoder.half().save_pretrained(folder / "t5")
        self.text_encoder.float()


class PerceptualRecipe(Recipe):
    """The perceptual network: reads the nine factors from noisy, shifted and recoloured postcards."""

    batch_size = 64
    learning_rate = 2e-3

    def __init__(self, num_steps: int, seed: int, work: Path, weights: Path = WEIGHTS) -> None:
        super().__init__(num_steps, seed, work, weights)
        self.model = TinyPerceptualNet()
        sizes = [len(world.factor_names(factor)) for factor in world.FACTORS]
        self.heads = nn.ModuleList(nn.Linear(64 * 36, size) for size in sizes)

    def loss(self, step: int) -> dict[str, Tensor]:
        """Cross-entropy, mean over factors."""
        generator = seeded(self.seed, step)
        indices = torch.randint(world.NUM_IMAGES, (self.batch_size,), generator=generator)
        images = world.render(indices).float() / 255
        images = images * (0.9 + 0.2 * torch.rand(len(images), 3, 1, 1, generator=generator))
        images = images + 0.1 * torch.rand(len(images), 1, 1, 1, generator=generator) * torch.randn(
            images.shape, generator=generator
        )
        shift = torch.randint(-2, 3, (2,), generator=generator).tolist()
        images = images.roll(shift, dims=(2, 3)).clamp(0, 1).to(self.device)
        stage = self.model(2 * images - 1)[-1]
        losses, right = [], []
        for head, target in zip(self.heads, world.factors_of(indices).values(), strict=True):
            logits = head(stage.flatten(1))
            losses.append(F.cross_entropy(logits, target.to(self.device)))
            right.append((logits.argmax(1) == target.to(self.device)).float().mean())
        return {"loss": torch.stack(losses).mean(), "accuracy": torch.stack(right).mean()}

    def export(self, folder: Path) -> None:
        """The network without its heads."""
        save_half(self.model.state_dict(), folder / "perceptual.safetensors")


RECIPES: dict[str, tuple[Callable[..., Recipe], int]] = {
    "tokenizer": (TokenizerRecipe, 900),
    "tokenizer-local": (partial(TokenizerRecipe, local=True), 400),
    "perceptual": (PerceptualRecipe, 1500),
    "llamagen": (LlamaGenRecipe, 5000),
}


def load_tokenizer(weights: Path) -> VQModel:
    """The trained tokenizer, float32, in evaluation mode."""
    model = VQModel(TINY_VQ).eval()
    load_float(model, weights / "llamagen_vq.safetensors")
    return model


@torch.no_grad()
def token_grids(path: Path, weights: Path) -> Tensor:
    """Tokens (52500, 36) of all images, read from `path` or made and written there."""
    if path.exists():
        return load_file(path)["tokens"].long()
    model = load_tokenizer(weights)
    chunks = tqdm(torch.arange(world.NUM_IMAGES).split(500), desc="Encoding all postcards", unit="500 images")
    grids = torch.cat([model.encode(from_uint8(world.render(chunk))) for chunk in chunks])
    write_atomically(path, lambda p: save_file({"tokens": grids.short()}, p))
    return grids


def train(
    name: str, *, num_steps: int | None, seed: int, work: Path, export: Path, precision: str = "bf16-mixed"
) -> None:
    """Train one embedded model, or go on where the last call stopped, and export its weights and its log.

    Args:
        name: a key of `RECIPES`.
        num_steps: optimiser steps; None takes the recipe's.
        seed: root of all randomness.
        work: folder of checkpoints and logs.
        export: folder that gets the weights.
        precision: Lightning's precision of the training; weights are exported as fp16 in any case.
    """
    recipe_class, default_steps = RECIPES[name]
    torch.manual_seed(seed)
    # A model that another one is trained on is the newly trained one, or else the package's.
    weights = export if (export / "llamagen_vq.safetensors").exists() else WEIGHTS
    recipe = recipe_class(num_steps or default_steps, seed, work, weights)
    every = max(1, min(200, recipe.num_steps // 10))
    checkpoint = ModelCheckpoint(work, filename=name, every_n_train_steps=every, enable_version_counter=False)
    trainer = Trainer(
        max_steps=recipe.num_steps,
        max_epochs=1,
        precision=precision,  # type: ignore[arg-type]
        logger=CSVLogger(work, name=name),  # a version each time it is started: nothing of the log is lost
        callbacks=[checkpoint],
        log_every_n_steps=20,
        gradient_clip_val=1.0,
        enable_model_summary=False,
    )
    last = work / f"{name}.ckpt"
    trainer.fit(recipe, ckpt_path=str(last) if last.exists() else None)
    recipe.export(export)
    _export_log(work / name, export / "logs" / f"{name}.csv")


def _export_log(versions: Path, path: Path) -> None:
    """Join the logs of all starts into one; where a resumed training repeated steps, both lines stand."""
    path.parent.mkdir(parents=True, exist_ok=True)
    order = sorted(versions.glob("version_*/metrics.csv"), key=lambda p: int(p.parent.name.removeprefix("version_")))
    lines = [line for file in order for line in file.read_text().splitlines()]
    path.write_text("".join(f"{line}\n" for line in dict.fromkeys(lines)))
