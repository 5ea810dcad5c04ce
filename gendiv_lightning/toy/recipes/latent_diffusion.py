"""The recipes of the toy latent diffusion model: an autoencoder, and a UNet with its text encoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from gendiv_lightning.errors import MissingWeightsError
from gendiv_lightning.generators.vqgan import from_uint8
from gendiv_lightning.storage.atomic import write_atomically
from gendiv_lightning.toy import postcards
from gendiv_lightning.toy.files import (
    TINY_KL,
    TINY_UNET,
    TINY_UNET_SCHEDULE,
    WEIGHTS,
    seeded,
)
from gendiv_lightning.toy.recipes.base import Recipe, captioned, load_tokenizer, training_images
from gendiv_lightning.toy.recipes.diffusers_vq import diffusers_vq
from gendiv_lightning.toy.recipes.pipeline import export_pipeline
from gendiv_lightning.toy.recipes.text_tower import text_tower
from gendiv_lightning.weights.hash import sha256

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

_VAE = Path("latent_diffusion", "vae")


class LatentAutoencoderRecipe(Recipe):
    """A continuous autoencoder (Rombach et al. 2022), initialised from the shared tokenizer of the token models.

    A loss term keeps the latents close to the tokenizer's directions, which depend only on the surroundings of a cell.
    Without it, attention and group norm would spread every detail over the whole grid.
    """

    batch_size = 48
    learning_rate = 1e-3
    weight_decay = 0.0

    def __init__(self, num_steps: int, seed: int, work: Path, weights: Path = WEIGHTS) -> None:
        super().__init__(num_steps, seed, work, weights)
        self.teacher = load_tokenizer(weights).requires_grad_(False)
        self.model = _continuous(weights)

    def loss(self, step: int) -> dict[str, Tensor]:
        """Reconstruction from a posterior sample, distance from the tokenizer's directions, and KL divergence."""
        indices = torch.randint(postcards.NUM_IMAGES, (self.batch_size,), generator=seeded(self.seed, step))
        images = from_uint8(postcards.render(indices)).to(self.device)
        with torch.no_grad():
            target = F.normalize(self.teacher.latents(images).float(), dim=1)
        posterior = self.model.encode(images).latent_dist
        noise = torch.randn(target.shape, generator=seeded(self.seed, step + 500_000_000)).to(self.device)
        decoded = self.model.decode(posterior.mean + posterior.std * noise).sample
        mse = F.mse_loss(decoded, images)
        distance = (posterior.mean - target).square().sum(1).mean()
        divergence = posterior.kl().mean() / target[0].numel()
        loss = 10 * mse + F.l1_loss(decoded, images) + distance + 1e-3 * divergence
        figures = {"psnr": -10 * (mse / 4).log10(), "distance": distance, "std": posterior.std.mean()}
        return {"loss": loss, **{name: figure.detach() for name, figure in figures.items()}}

    @torch.no_grad()
    def export(self, folder: Path) -> None:
        """Write the autoencoder, with the factor that scales its latents to unit variance."""
        images = torch.randint(postcards.NUM_IMAGES, (2048,), generator=seeded(self.seed, -1))
        latents = torch.cat([_latents(self.model.eval(), part) for part in images.split(256)])
        self.model.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))
        self.model.bfloat16().half().save_pretrained(folder / _VAE)
        self.model.float()


class LatentDiffusionRecipe(Recipe):
    """Squared error of the velocity (Salimans and Ho 2022) under a cosine schedule; also trains the text encoder."""

    sources: ClassVar[dict[str, str]] = {
        "vae": f"{_VAE}/diffusion_pytorch_model.safetensors",
        "clip": "clip/open_clip_model.safetensors",
    }
    batch_size = 64
    learning_rate = 1.2e-3

    def __init__(self, num_steps: int, seed: int, work: Path, weights: Path = WEIGHTS) -> None:
        super().__init__(num_steps, seed, work, weights)
        from diffusers import DDIMScheduler, UNet2DConditionModel
        from transformers import PreTrainedTokenizerFast

        if not (weights / _VAE).is_dir():
            raise MissingWeightsError(
                f"there is no {_VAE} in {weights}. Train it first: gendiv toy train latent-autoencoder"
            )
        self.text_encoder = text_tower(weights / "clip", projects=False).requires_grad_(True)
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(weights / "clip")
        self.model = UNet2DConditionModel(**TINY_UNET)
        self.schedule = DDIMScheduler(**TINY_UNET_SCHEDULE)
        self.images, self.latents = training_images(), torch.empty(0)

    def identity(self) -> dict[str, object]:
        """Seed and hashes of the sources."""
        return {"seed": self.seed, **{name: sha256(self.weights / file)[:8] for name, file in self.sources.items()}}

    def setup(self, stage: str) -> None:
        """Encode the latents of all images once, and store them beside the checkpoints."""
        self.latents = _all_latents(self.work / f"latents-{self.identity()['vae']}.safetensors", self.weights)

    def loss(self, step: int) -> dict[str, Tensor]:
        """The loss; times are spread over the batch, with more late ones, and 10 % of the captions are empty."""
        images, texts = captioned(self.images, self.batch_size, self.seed, step)
        generator = seeded(self.seed, step + 500_000_000)
        dropped = torch.rand(len(texts), generator=generator) < 0.1
        texts = ["" if drop else text for text, drop in zip(texts, dropped.tolist(), strict=True)]
        ids = self.tokenizer(texts, padding="max_length", return_tensors="pt").input_ids.to(self.device)
        context = self.text_encoder(ids).last_hidden_state
        clean = self.latents[images].float().to(self.device)
        noise = torch.randn(clean.shape, generator=generator).to(self.device)
        shares = (torch.arange(len(clean)) + torch.rand(len(clean), generator=generator)) / len(clean)
        # The density is proportional to the time, because the content of a caption is decided at high noise.
        times = (shares.sqrt() * self.schedule.config.num_train_timesteps).long().to(self.device)
        noised, velocity = self.schedule.add_noise(clean, noise, times), self.schedule.get_velocity(clean, noise, times)
        return {"loss": F.mse_loss(self.model(noised, times, context).sample, velocity)}

    def export(self, folder: Path) -> None:
        """Write the layout of a Stable Diffusion repository, with the autoencoder of `LatentAutoencoderRecipe`."""
        # Rounded to bfloat16, weights compress better in the wheel: the last bits of float16 are 0.
        export_pipeline(
            folder / "latent_diffusion",
            {"_class_name": "DDIMScheduler", **TINY_UNET_SCHEDULE},
            unet=self.model.bfloat16(),
            text_encoder=self.text_encoder.bfloat16(),
            vae=_load_autoencoder(self.weights).bfloat16(),
        )
        parts = {
            "_class_name": "StableDiffusionPipeline",
            "scheduler": ["diffusers", "DDIMScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
            **{key: [None, None] for key in ("safety_checker", "feature_extractor", "image_encoder")},
            "requires_safety_checker": False,
        }
        (folder / "latent_diffusion" / "model_index.json").write_text(json.dumps(parts, indent=2) + "\n")
        (folder / "latent_diffusion" / "gendiv.json").write_text(json.dumps({"toy": True}) + "\n")


def _continuous(weights: Path) -> AutoencoderKL:
    """The shared tokenizer without its codebook, whose 1 x 1 convolutions are folded into their neighbours."""
    from diffusers import AutoencoderKL

    source = diffusers_vq(load_tokenizer(weights))
    named = {name: tensor for name, tensor in source.state_dict().items() if not name.startswith("quant")}
    squeeze, widen = source.quant_conv, source.post_quant_conv
    weight, bias = source.encoder.conv_out.weight, source.encoder.conv_out.bias
    mean = torch.einsum("oi,icyx->ocyx", squeeze.weight[:, :, 0, 0], weight)
    named["encoder.conv_out.weight"] = torch.cat([mean, torch.zeros_like(mean)])
    offset = squeeze.weight[:, :, 0, 0] @ bias + squeeze.bias
    named["encoder.conv_out.bias"] = torch.cat([offset, torch.full_like(offset, -4.0)])  # log-variance
    weight = source.decoder.conv_in.weight
    named["decoder.conv_in.weight"] = torch.einsum("oiyx,ic->ocyx", weight, widen.weight[:, :, 0, 0])
    named["decoder.conv_in.bias"] = source.decoder.conv_in.bias + weight.sum((2, 3)) @ widen.bias
    model = AutoencoderKL(**TINY_KL)
    model.load_state_dict({n: t for n, t in named.items() if not n.startswith("post_quant")})
    return model.requires_grad_(True).train()


def _load_autoencoder(weights: Path) -> AutoencoderKL:
    from diffusers import AutoencoderKL

    model = AutoencoderKL.from_pretrained(weights / _VAE, low_cpu_mem_usage=False)
    return model.float().requires_grad_(False).eval()


def _latents(model: AutoencoderKL, indices: Tensor) -> Tensor:
    return model.encode(from_uint8(postcards.render(indices))).latent_dist.mean


@torch.no_grad()
def _all_latents(path: Path, weights: Path) -> Tensor:
    """Scaled latents (52500, C, 6, 6) float16 of all images, read from `path`, or computed and written there."""
    if not path.exists():
        model = _load_autoencoder(weights)
        chunks = tqdm(torch.arange(postcards.NUM_IMAGES).split(25), desc="Encoding all postcards", unit="25 images")
        latents = torch.cat([(model.config.scaling_factor * _latents(model, chunk)).half() for chunk in chunks])
        write_atomically(path, lambda p: save_file({"latents": latents.contiguous()}, p))
    return load_file(path)["latents"]
