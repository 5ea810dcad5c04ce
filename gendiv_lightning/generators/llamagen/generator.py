"""LlamaGen (Sun et al. 2024, arXiv 2406.06525): captions or class labels to raster-order tokens to images.

The sampling loop is `sample_autoregressive`; `TokenPredictor` is what it asks. The networks are in `transformer.py` and
`tokenizer.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from gendiv_lightning.errors import ConfigValueError, ImageSizeError, OptionConflictError, WrongWeightsError
from gendiv_lightning.functional.finite import PIXELS, check_finite
from gendiv_lightning.generators.base import Chance, TokenGenerator
from gendiv_lightning.generators.labels import read_label
from gendiv_lightning.generators.llamagen.tokenizer import VQ_SIZES, VQConfig, VQModel, to_uint8
from gendiv_lightning.generators.llamagen.transformer import (
    GPT,
    GPT_SIZES,
    Cache,
    GPTConfig,
    Prefill,
    join_prefills,
    rotary_table,
)
from gendiv_lightning.generators.size_files import read_sizes
from gendiv_lightning.generators.vqgan import from_uint8
from gendiv_lightning.records import TokenSamples
from gendiv_lightning.sampling import Draw, TokenSampler
from gendiv_lightning.sampling.autoregressive import sample_autoregressive
from gendiv_lightning.sampling.parallel import sample_in_parallel
from gendiv_lightning.text.lengths import TextLengths
from gendiv_lightning.text.t5 import CaptionFeatures
from gendiv_lightning.weights.hash import sha256
from gendiv_lightning.weights.load import DTYPES, load_strictly, read_checkpoint
from gendiv_lightning.weights.resolve import resolve

# What an official file is cannot be read from its shapes: (kind, transformer, image sizes).
OFFICIAL_FILES: dict[str, tuple[str, str, tuple[int, ...]]] = {
    "t2i_XL_stage1_256.pt": ("t2i", "GPT-XL", (256,)),
    "t2i_XL_stage2_512.pt": ("t2i", "GPT-XL", (512,)),
    "c2i_B_256.pt": ("c2i", "GPT-B", (256,)),
    "c2i_B_384.pt": ("c2i", "GPT-B", (384,)),
    "c2i_L_256.pt": ("c2i", "GPT-L", (256,)),
    "c2i_L_384.pt": ("c2i", "GPT-L", (384,)),
    "c2i_XL_384.pt": ("c2i", "GPT-XL", (384,)),
    "c2i_XXL_384.pt": ("c2i", "GPT-XXL", (384,)),
    "c2i_3B_384.pt": ("c2i", "GPT-3B", (384,)),
    "vq_ds16_t2i.pt": ("t2i", "VQ-16", (256, 384, 512)),
    "vq_ds16_c2i.pt": ("c2i", "VQ-16", (256, 384, 512)),
    "vq_ds8_c2i.pt": ("c2i", "VQ-8", (256, 384, 512)),
}
ADVICE = "  or, to run now on the embedded model:   gendiv fit-free predict --config configs/tiny/llamagen_argmax.yaml"


class Conditions(NamedTuple):
    """Conditions of B rows.

    Attributes:
        features: caption features (n, caption_dim) of each distinct text, or its class label as a tensor of one number.
        rows: (B,) place in `features` of each row.
    """

    features: list[Tensor]
    rows: Tensor


def pack_left(features: Sequence[Tensor], num_positions: int | None = None) -> tuple[Tensor, Tensor]:
    """Features (n_i, D), each at the right end of its row of (R, T, D), and the mask (R, T) of what is valid.

    T is `num_positions`, by default the largest n_i.
    """
    num_positions = num_positions or max(len(f) for f in features)
    packed = features[0].new_zeros(len(features), num_positions, features[0].shape[1])
    mask = torch.zeros(len(features), num_positions, dtype=torch.bool, device=packed.device)
    for row, feature in enumerate(features):
        packed[row, num_positions - len(feature) :] = feature
        mask[row, num_positions - len(feature) :] = True
    return packed, mask


class TokenPredictor:
    """The transformer with its cache, as a loop asks it: the guided logits of image tokens, given those before.

    Args:
        gpt: the transformer.
        prefill: the conditions' B rows; under guidance followed by their B null rows.
        sampler: knows the guidance.
        cfg_interval: guidance, and with it the null rows, stops after token cfg_interval + 1; -1 guides all tokens.
        decode: `gpt.decode`, or a compiled form of it.
        slots_at_a_time: attended cache slots grow by so many; more than 1 keeps the shapes of a compiled `decode` few.
    """

    def __init__(
        self,
        gpt: GPT,
        prefill: Prefill,
        sampler: TokenSampler,
        *,
        cfg_interval: int = -1,
        decode: Callable[[Tensor, Tensor, int, Cache], Tensor] | None = None,
        slots_at_a_time: int = 1,
    ) -> None:
        self.num_tokens, self.slots_at_a_time = gpt.config.block_size, slots_at_a_time
        self.decode = decode or gpt.decode
        self.guide, self.num_guided = sampler.guide, 0
        if sampler.is_guided:
            self.num_guided = self.num_tokens if cfg_interval < 0 else cfg_interval + 2
        self.num_rows = len(prefill.logits) // 2 if sampler.is_guided else len(prefill.logits)
        self.first_logits, self.cache = prefill.logits, Cache(prefill, self.num_tokens)
        self.positions = torch.arange(self.num_tokens, device=prefill.logits.device)

    def __call__(self, previous: Tensor, start: int) -> Tensor:
        """Logits (B, P, K) from position `start` on, given the tokens (B, P) before each; position 0 reads none."""
        logits = self._decode(previous, start - 1) if start else self.first_logits[:, None]
        num_guided = min(self.num_guided - start, previous.shape[1])
        if num_guided <= 0:
            return logits[: self.num_rows]
        guided = self.guide(*logits[:, :num_guided].split(self.num_rows))
        return torch.cat([guided, logits[: self.num_rows, num_guided:]], 1)

    def _decode(self, tokens: Tensor, start: int) -> Tensor:
        """Logits (R, P, K) after the tokens (B, P) from `start` on; the null rows go as far as guidance does."""
        stop = start + tokens.shape[1]
        tokens = tokens.repeat(2, 1) if start < self.num_guided else tokens
        length = min(self.num_tokens, -(-(stop + 1) // self.slots_at_a_time) * self.slots_at_a_time)
        return self.decode(tokens, self.positions[start:stop], length, self.cache)


class LlamaGen(TokenGenerator[Conditions]):
    """LlamaGen under probes: text-to-image (GPT-XL, 256 and 512 px) or class-to-image (GPT-B to GPT-3B).

    Prompts of a class-to-image model are class numbers, "207".

    Args:
        gpt_checkpoint: transformer weights: a path, `OWNER/REPO:FILE` on the Hub, or `toy:FILE`. Official files load
            unchanged.
        vq_checkpoint: tokenizer weights, likewise.
        text_encoder: T5 encoder of a text-to-image model: a folder, `OWNER/REPO`, or `toy:FOLDER`. Unused by
            class-to-image.
        gpt: size of the transformer: "GPT-B", "GPT-L", "GPT-XL", "GPT-XXL" or "GPT-3B"; or a JSON file with the fields
            of `GPTConfig`, such as `toy:llamagen_gpt.json`.
        vq: size of the tokenizer: "VQ-16" or "VQ-8"; or a JSON file with the fields of `VQConfig`.
        model_type: "t2i" is conditioned on captions, "c2i" on class labels.
        image_size: pixels per side, 256, 384 or 512 (48 for the toy). No checkpoint contains it: it must be right.
        dtype: of the transformer and the text encoder; the tokenizer is always float32.
        guidance_scale: classifier-free guidance; 1 and below is off. (Official text-to-image: 7.5.)
        cfg_interval: guidance stops after token cfg_interval + 1; -1 guides all tokens.
        temperature: divides the logits.
        top_k: tokens kept (official: 1000); 0 keeps all.
        top_p: probability mass kept; 1 keeps all.
        decoding: "sequential" predicts one token a pass; "parallel" predicts a window of them, keeps those that it can
            prove to be final, and gives the same tokens in fewer passes. float32 only.
        window: tokens that a parallel pass predicts.
        compile: compile the decoding step with torch.compile; the first image waits for the compiler.
        batch_size: images sampled together. In float32 it changes speed and memory, not samples; in half precision it
            is part of the run's fingerprint, since a row's logits can depend on the number of rows.
    """

    family, title = "llamagen", "LlamaGen"
    chance = Chance(path="", execution="which token each position gets, in raster order")
    has_likelihood = True

    def __init__(
        self,
        gpt_checkpoint: str = "peizesun/llamagen_t2i:t2i_XL_stage1_256.pt",
        vq_checkpoint: str = "peizesun/llamagen_t2i:vq_ds16_t2i.pt",
        text_encoder: str = "google/flan-t5-xl",
        gpt: str = "GPT-XL",
        vq: str = "VQ-16",
        model_type: Literal["t2i", "c2i"] = "t2i",
        image_size: int = 256,
        dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16",
        guidance_scale: float = 7.5,
        cfg_interval: int = -1,
        temperature: float = 1.0,
        top_k: int = 1000,
        top_p: float = 1.0,
        decoding: Literal["sequential", "parallel"] = "sequential",
        window: int = 16,
        compile: bool = False,
        batch_size: int = 16,
    ) -> None:
        self.vq_config = VQ_SIZES[vq] if vq in VQ_SIZES else read_sizes(vq, "vq", VQConfig, VQ_SIZES)[0]
        side, rest = divmod(image_size, self.vq_config.downsample)
        if rest or side < 1:
            raise ConfigValueError(f"image_size must be a multiple of {self.vq_config.downsample}, got {image_size}")
        if gpt in GPT_SIZES:
            num_positions = 120 if model_type == "t2i" else 1
            self.gpt_config = GPTConfig(
                **GPT_SIZES[gpt], model_type=model_type, block_size=side**2, cls_token_num=num_positions
            )
            self.size, is_toy = gpt, False
        else:
            self.gpt_config, facts = read_sizes(gpt, "gpt", GPTConfig, GPT_SIZES)
            self.size, is_toy = facts.get("name", Path(gpt).stem), facts.get("toy", False)
            trained = self.gpt_config.model_type, math.isqrt(self.gpt_config.block_size) * self.vq_config.downsample
            if trained != (model_type, image_size):
                raise OptionConflictError(
                    f"gpt: {gpt} is {trained[0]} at {trained[1]} pixels, but model_type is {model_type} and image_size "
                    f"is {image_size}. Set them to what the file says"
                )
        if self.gpt_config.vocab_size != self.vq_config.codebook_size:
            raise OptionConflictError(
                f"gpt and vq must share a codebook, got {gpt} ({self.gpt_config.vocab_size} tokens) and {vq} "
                f"({self.vq_config.codebook_size})"
            )
        if cfg_interval < -1:
            raise ConfigValueError(f"cfg_interval must be at least -1, got {cfg_interval}")
        super().__init__(
            codebook_size=self.gpt_config.vocab_size,
            grid=(side, side),
            guidance_scale=guidance_scale,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            dtype=dtype,
            batch_size=batch_size,
        )
        _check_decoding(decoding, window, dtype, compile)
        _check_official(gpt_checkpoint, "gpt_checkpoint", gpt, vq, model_type, image_size)
        _check_official(vq_checkpoint, "vq_checkpoint", vq, vq, model_type, image_size)
        self.gpt_checkpoint, self.vq_checkpoint, self.text_encoder = gpt_checkpoint, vq_checkpoint, text_encoder
        self.image_size, self.cfg_interval, self.compile_decode, self.is_toy = image_size, cfg_interval, compile, is_toy
        self.decoding, self.window = decoding, window
        self.captions: CaptionFeatures | None = None
        self._files: dict[str, Path] = {}
        self._null_prefills: dict[int, Prefill] = {}
        self._decode: Callable[[Tensor, Tensor, int, Cache], Tensor] | None = None

    # --- before anything is loaded ---

    def locate(self) -> None:
        """Find the files, download what is on the Hub only."""
        names = {"gpt_checkpoint": self.gpt_checkpoint, "vq_checkpoint": self.vq_checkpoint}
        if self.gpt_config.model_type == "t2i":
            names["text_encoder"] = self.text_encoder
        self._files = {
            key: resolve(name, key, advice=ADVICE, folder=key == "text_encoder") for key, name in names.items()
        }
        if self.gpt_config.model_type == "t2i":
            num_positions = self.gpt_config.cls_token_num
            self.captions = CaptionFeatures(self._files["text_encoder"], num_positions, DTYPES[self.dtype_name])

    def identity(self) -> dict[str, object]:
        """Hashes of the weights, sizes and sampling settings."""
        weights = {key: sha256(path) for key, path in self._files.items()}
        return {
            "generator": self.family,
            "embedded": self.is_toy,
            "gpt": self.size,
            "model_type": self.gpt_config.model_type,
            "image_size": self.image_size,
            "dtype": self.dtype_name,
            "cfg_interval": self.cfg_interval,
            **self.settings(),
            **weights,
            **({"batch_size": self.batch_size, "compile": self.compile_decode} if self.pads_batches else {}),
        }

    def check_prompts(self, texts: Sequence[str]) -> list[str]:
        """Captions longer than the encoder reads, or empty once cleaned; labels that are no class."""
        found = self.text_lengths(texts)
        if found is None:
            for text in texts:
                read_label(text, self.gpt_config.num_classes)
            return []
        empty = [text for text, length in zip(texts, found.lengths, strict=True) if length == 1]  # </s> alone
        what = f"{len(empty)} of {len(texts)} wordings are empty after the official cleaning"
        return [*found.warnings(), *([f"{what}; the first: {empty[0]!r}"] if empty else [])]

    def text_lengths(self, texts: Sequence[str]) -> TextLengths | None:
        """By T5's tokenizer, after the official cleaning; class labels are no captions."""
        return None if self.captions is None else self.captions.lengths(texts)

    def size_name(self) -> str:
        """Size of the transformer; the toy has one."""
        return "" if self.is_toy else self.size

    # --- weights ---

    def load(self) -> None:
        """Load transformer and tokenizer; the text encoder is loaded when a caption is new to the cache."""
        if not self._files:
            self.locate()
        with torch.device("meta"):
            gpt, vq = GPT(self.gpt_config), VQModel(self.vq_config)
        path = self._files["gpt_checkpoint"]
        load_strictly(gpt, read_checkpoint(path), path, DTYPES[self.dtype_name])
        # Not part of a checkpoint, and float32 whatever the weights are.
        gpt.rotary = rotary_table(self.grid[0], self.gpt_config.head_dim, self.gpt_config.rope_base)
        path = self._files["vq_checkpoint"]
        load_strictly(vq, read_checkpoint(path), path, torch.float32)
        # Not before both are whole: Lightning moves what it finds here when it closes after an error.
        self.gpt, self.vq = gpt, vq
        self._null_prefills.clear()
        self._decode = torch.compile(self.gpt.decode, dynamic=False) if self.compile_decode else self.gpt.decode

    # --- prompts to images ---

    def encode_prompts(self, texts: Sequence[str]) -> Conditions:
        """Each distinct text is encoded once."""
        distinct = list(dict.fromkeys(texts))
        rows = torch.tensor([distinct.index(text) for text in texts], device=self.device)
        if self.captions is None:
            return Conditions(
                [torch.tensor(read_label(text, self.gpt_config.num_classes), device=self.device) for text in distinct],
                rows,
            )
        return Conditions(self.captions.encode(distinct, self.device), rows)

    def sample_tokens(self, conditions: Conditions, sampler: TokenSampler) -> TokenSamples:
        """The loop of `sample_autoregressive`, or of `sample_in_parallel`, which gives the same tokens."""
        predict = TokenPredictor(
            self.gpt,
            self.prefill(conditions, sampler.is_guided),
            sampler,
            cfg_interval=self.cfg_interval,
            decode=self._decode,
            # Four shapes to compile an image, whatever its size: the compiler keeps eight.
            slots_at_a_time=max(64, -(-self.gpt_config.block_size // 4)) if self.compile_decode else 1,
        )
        if self.decoding == "parallel":
            return sample_in_parallel(predict, sampler, self.gpt_config.block_size, self.window)
        return sample_autoregressive(predict, sampler, self.gpt_config.block_size)

    def score_tokens(self, conditions: Conditions, tokens: Tensor, sampler: TokenSampler) -> Tensor:
        """By one pass over all tokens (teacher forcing): the distributions that the loop would draw from."""
        num_rows, num_tokens = tokens.shape
        packed = self._condition_positions(conditions)
        logits = self.gpt(*packed, tokens)
        if sampler.is_guided:
            guided = sampler.guide(logits, self.gpt(*self._null_positions(packed[1]), tokens))
            end = num_tokens if self.cfg_interval < 0 else min(num_tokens, self.cfg_interval + 2)
            logits = torch.cat([guided[:, :end], logits[:, end:]], 1)
        rows = torch.arange(num_rows, device=tokens.device).repeat_interleave(num_tokens)
        positions = torch.arange(num_tokens, device=tokens.device).repeat(num_rows)
        filtered = sampler.filter_logits(logits).flatten(0, 1)
        if sampler.exec.is_off:
            log_prob = torch.where(filtered.argmax(-1) == tokens.flatten(), 0.0, -torch.inf)
        else:
            log_prob = Draw(0, rows, positions, tokens.flatten(), filtered).log_prob
        return log_prob.view_as(tokens)

    def _condition_positions(self, conditions: Conditions) -> tuple[Tensor, Tensor]:
        """Embedded condition positions (B, T, dim) and their mask (B, T)."""
        features = [conditions.features[row] for row in conditions.rows.tolist()]
        if self.captions is None:
            labels = torch.stack(features)
            return self.gpt.cls_embedding(labels), torch.ones(len(labels), 1, dtype=torch.bool, device=labels.device)
        packed, mask = pack_left(features)
        return self.gpt.cls_embedding(packed), mask

    def _null_positions(self, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Those of "no caption" or "no label", for conditions of a mask (B, T)."""
        if self.captions is None:
            return self.gpt.cls_embedding(
                torch.full_like(mask[:, 0], self.gpt_config.num_classes, dtype=torch.int64)
            ), mask
        features, null_mask = self.gpt.null_features(mask.sum(1))
        return self.gpt.cls_embedding(features[:, -mask.shape[1] :]), null_mask[:, -mask.shape[1] :]

    def prefill(self, conditions: Conditions, guided: bool) -> Prefill:
        """Run each distinct condition once, alone, and spread it over its rows.

        Alone, so that it does not depend on its batch. Null conditions depend on the length alone and are kept.
        """
        if self.captions is None:
            both = self.gpt.prefill_labels(torch.stack(conditions.features))
            num = len(conditions.features)
            rows = torch.cat([conditions.rows, conditions.rows + num]) if guided else conditions.rows
            return both.take(rows)
        prefills = [self.gpt.prefill_captions(*pack_left([feature])) for feature in conditions.features]
        conditional = join_prefills(prefills).take(conditions.rows)
        if not guided:
            return conditional
        null = join_prefills([self._null_prefill(len(feature)) for feature in conditions.features])
        return join_prefills([conditional, null.take(conditions.rows)])

    def _null_prefill(self, num_valid: int) -> Prefill:
        if num_valid not in self._null_prefills:
            features, mask = self.gpt.null_features(torch.tensor([num_valid], device=self.device))
            self._null_prefills[num_valid] = self.gpt.prefill_captions(features[:, -num_valid:], mask[:, -num_valid:])
        return self._null_prefills[num_valid]

    def decode_tokens(self, tokens: Tensor) -> Tensor:
        """By the tokenizer's decoder, one by one: the last digits, and so some pixels, would tell an image's batch."""
        return torch.cat(
            [to_uint8(check_finite(self.vq.decode(image, *self.grid), PIXELS)) for image in tokens.split(1)]
        )

    @property
    @override
    def image_side(self) -> int:
        return self.image_size

    def encode_images(self, images: Tensor) -> Tensor:
        """By the tokenizer's encoder, one by one, for the same reason: counts are exact on any number of ranks."""
        if tuple(images.shape[2:]) != (self.image_size, self.image_size):
            raise ImageSizeError(
                f"images must be {self.image_size} pixels a side, as image_size says, got {tuple(images.shape)}"
            )
        return torch.cat([self.vq.encode(from_uint8(image.to(self.device))) for image in images.split(1)])


def _check_official(checkpoint: str, key: str, size: str, vq: str, model_type: str, image_size: int) -> None:
    file = checkpoint.replace(":", "/").rsplit("/", 1)[-1]
    if file not in OFFICIAL_FILES:
        return
    kind, name, image_sizes = OFFICIAL_FILES[file]
    is_other_grid = key == "gpt_checkpoint" and vq != "VQ-16"  # on which all transformers were trained
    if kind != model_type or name != size or image_size not in image_sizes or is_other_grid:
        raise WrongWeightsError(
            f"{key}: {file} is {kind}, {name}, for images of {' or '.join(map(str, image_sizes))} pixels; the settings "
            f"say {model_type}, {size}, {vq}, {image_size} pixels, which would load without an error and sample garbage"
        )


def _check_decoding(decoding: str, window: int, dtype: str, compiles: bool) -> None:
    if decoding not in ("sequential", "parallel"):
        raise ConfigValueError(f'decoding must be "sequential" or "parallel", got {decoding!r}. Choose one of the two.')
    if window < 1:
        raise ConfigValueError(
            f"window must be at least 1, got {window}. Give the number of tokens that a pass predicts."
        )
    if decoding == "parallel" and (dtype != "float32" or compiles):
        raise OptionConflictError(
            f"decoding: parallel needs dtype: float32 and compile: false, got {dtype} and {compiles}: in half "
            "precision passes of different widths give different tokens, and the compiler makes a program for each "
            "width. Change these settings, or use decoding: sequential."
        )
