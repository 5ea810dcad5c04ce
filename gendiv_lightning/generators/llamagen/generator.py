"""LlamaGen (Sun et al. 2024, arXiv 2406.06525): raster-order tokens from captions or class labels.

The sampling loop is `sample_autoregressive`, which calls a `TokenPredictor`. The networks are in `transformer.py` and
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
from gendiv_lightning.sampling.branches import Branches
from gendiv_lightning.sampling.parallel import check_decoding, sample_in_parallel
from gendiv_lightning.text.lengths import TextLengths
from gendiv_lightning.text.t5 import CaptionFeatures
from gendiv_lightning.weights.hash import sha256
from gendiv_lightning.weights.load import DTYPES, load_strictly, read_checkpoint
from gendiv_lightning.weights.resolve import resolve

# Properties of official files that their shapes do not show: (kind, transformer, image sizes).
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
ADVICE = "  or, to run the toy model now:   gendiv fit-free predict --config configs/tiny/llamagen_argmax.yaml"


class Conditions(NamedTuple):
    """Conditions of B rows.

    Attributes:
        features: caption features (n, caption_dim) of each distinct text, or its class label as a scalar tensor.
        rows: (B,) index in `features` of each row.
    """

    features: list[Tensor]
    rows: Tensor


def pack_left(features: Sequence[Tensor], num_positions: int | None = None) -> tuple[Tensor, Tensor]:
    """Left-pad features (n_i, D) to (R, T, D), and return them with the mask (R, T) of valid positions.

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
    """The transformer with its cache, for a sampling loop: guided logits of image tokens given the previous ones.

    Args:
        gpt: the transformer.
        prefill: B rows of conditions, followed by B null rows under guidance.
        sampler: sampler with the guidance scale.
        cfg_interval: guidance stops after token cfg_interval + 1; -1 guides all tokens.
        decode: `gpt.decode`, or a compiled version of it.
        slots_at_a_time: increment of the number of attended cache slots; values above 1 limit the number of shapes of
            a compiled `decode`.
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
        """Logits (B, P, K) from position `start` on, given the token (B, P) before each; ignored for position 0."""
        logits = self._decode(previous, start - 1) if start else self.first_logits[:, None]
        num_guided = min(self.num_guided - start, previous.shape[1])
        if num_guided <= 0:
            return logits[: self.num_rows]
        guided = self.guide(*logits[:, :num_guided].split(self.num_rows))
        return torch.cat([guided, logits[: self.num_rows, num_guided:]], 1)

    def spread(self, branches: Branches) -> None:
        """Continue with all rows, after one row per group ran so far."""
        self.num_rows = len(branches.group)
        self.cache.spread(branches.spread)

    def _decode(self, tokens: Tensor, start: int) -> Tensor:
        """Logits (R, P, K) after the tokens (B, P) from `start` on; null rows are included while guidance is on."""
        stop = start + tokens.shape[1]
        tokens = tokens.repeat(2, 1) if start < self.num_guided else tokens
        length = min(self.num_tokens, -(-(stop + 1) // self.slots_at_a_time) * self.slots_at_a_time)
        return self.decode(tokens, self.positions[start:stop], length, self.cache)


class LlamaGen(TokenGenerator[Conditions]):
    """LlamaGen: text-to-image (GPT-XL, 256 and 512 pixels) or class-to-image (GPT-B to GPT-3B).

    Prompts of a class-to-image model are class numbers, such as "207".

    Args:
        gpt_checkpoint: transformer weights: a path, `OWNER/REPO:FILE` on the Hub, or `toy:FILE`. Official files load
            unchanged.
        vq_checkpoint: tokenizer weights, in the same forms.
        text_encoder: T5 encoder of a text-to-image model: a folder, `OWNER/REPO`, or `toy:FOLDER`. Not used by
            class-to-image models.
        gpt: size of the transformer: "GPT-B", "GPT-L", "GPT-XL", "GPT-XXL" or "GPT-3B"; or a JSON file with the fields
            of `GPTConfig`, such as `toy:llamagen_gpt.json`.
        vq: size of the tokenizer: "VQ-16" or "VQ-8"; or a JSON file with the fields of `VQConfig`.
        model_type: "t2i" is conditioned on captions, "c2i" on class labels.
        image_size: pixels per side, 256, 384 or 512 (48 for the toy). Checkpoints do not contain it, so it cannot be
            verified.
        dtype: dtype of transformer and text encoder; the image tokenizer always runs in float32.
        guidance_scale: scale of classifier-free guidance; values of at most 1 turn it off (official text-to-image:
            7.5).
        cfg_interval: guidance stops after token cfg_interval + 1; -1 guides all tokens.
        temperature: divides the logits.
        top_k: number of most probable tokens to keep (official: 1000); 0 keeps all.
        top_p: nucleus threshold; 1 keeps all.
        decoding: "sequential" predicts one token per pass; "parallel" predicts a window of tokens, keeps those that are
            final if no logit is off by more than the tolerance of `sampling.parallel`, and gives the same tokens in
            fewer passes; float32 only. That tolerance was measured on LlamaGen's GPT-B on a CPU.
        window: number of tokens per parallel pass.
        compile: compile the decoding step with torch.compile, which delays the first image.
        batch_size: number of images sampled together. In float32 it affects speed and memory but not samples; in half
            precision it is part of the run's fingerprint, because logits can depend on the number of rows.
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
            raise ConfigValueError(
                f"image_size must be a positive multiple of {self.vq_config.downsample}, got {image_size}. Use the "
                "size that the model was trained on"
            )
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
                    f"is {image_size}. Set them to the values in the file"
                )
        if self.gpt_config.vocab_size != self.vq_config.codebook_size:
            raise OptionConflictError(
                f"gpt and vq must have the same codebook size, got {gpt} ({self.gpt_config.vocab_size}) and {vq} "
                f"({self.vq_config.codebook_size}). Choose a matching pair"
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
        check_decoding(decoding, window, dtype)
        if decoding == "parallel" and compile:
            raise OptionConflictError(
                f"decoding: parallel requires compile: false, got {compile} (each width would be compiled separately). "
                "Change one of the two"
            )
        _check_official(gpt_checkpoint, "gpt_checkpoint", gpt, vq, model_type, image_size)
        _check_official(vq_checkpoint, "vq_checkpoint", vq, vq, model_type, image_size)
        self.gpt_checkpoint, self.vq_checkpoint, self.text_encoder = gpt_checkpoint, vq_checkpoint, text_encoder
        self.image_size, self.cfg_interval, self.compile_decode, self.is_toy = image_size, cfg_interval, compile, is_toy
        self.decoding, self.window = decoding, window
        self.captions: CaptionFeatures | None = None
        self._files: dict[str, Path] = {}
        self._null_prefills: dict[tuple[int, torch.device], Prefill] = {}
        self._decode: Callable[[Tensor, Tensor, int, Cache], Tensor] | None = None

    # --- before anything is loaded ---

    def locate(self) -> None:
        """Find the weight files, downloading them from the Hub if necessary."""
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
        """Weight hashes, sizes and sampling settings."""
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
        """Warn about captions that are truncated or empty after cleaning; ValueError for an invalid class label."""
        lengths = self.text_lengths(texts)
        if lengths is None:
            for text in texts:
                read_label(text, self.gpt_config.num_classes)
            return []
        empty = [text for text, length in zip(texts, lengths.lengths, strict=True) if length == 1]  # only </s>
        what = f"{len(empty)} of {len(texts)} texts are empty after the official cleaning"
        return [*lengths.warnings(), *([f"{what}; the first: {empty[0]!r}"] if empty else [])]

    def text_lengths(self, texts: Sequence[str]) -> TextLengths | None:
        """Lengths in T5 tokens after the official cleaning; None for class labels."""
        return None if self.captions is None else self.captions.lengths(texts)

    def size_name(self) -> str:
        """Size of the transformer; empty for the toy, which has a single size."""
        return "" if self.is_toy else self.size

    # --- weights ---

    def load(self) -> None:
        """Load transformer and tokenizer; the text encoder is loaded when a caption is not in the cache."""
        if not self._files:
            self.locate()
        with torch.device("meta"):
            gpt, vq = GPT(self.gpt_config), VQModel(self.vq_config)
        path = self._files["gpt_checkpoint"]
        load_strictly(gpt, read_checkpoint(path), path, DTYPES[self.dtype_name])
        # Not part of a checkpoint, and always float32.
        gpt.rotary = rotary_table(self.grid[0], self.gpt_config.head_dim, self.gpt_config.rope_base)
        path = self._files["vq_checkpoint"]
        load_strictly(vq, read_checkpoint(path), path, torch.float32)
        # Assigned only when both are loaded, because Lightning moves all attributes when it closes after an error.
        self.gpt, self.vq = gpt, vq
        self._null_prefills.clear()
        self._decode = torch.compile(self.gpt.decode, dynamic=False) if self.compile_decode else self.gpt.decode

    # --- prompts to images ---

    def encode_prompts(self, texts: Sequence[str]) -> Conditions:
        """Encode each distinct text once."""
        distinct = list(dict.fromkeys(texts))
        rows = torch.tensor([distinct.index(text) for text in texts], device=self.device)
        if self.captions is None:
            return Conditions(
                [torch.tensor(read_label(text, self.gpt_config.num_classes), device=self.device) for text in distinct],
                rows,
            )
        return Conditions(self.captions.encode(distinct, self.device), rows)

    def sample_tokens(self, conditions: Conditions, sampler: TokenSampler) -> TokenSamples:
        """Sample with `sample_autoregressive`, or with `sample_in_parallel`, which gives the same tokens."""
        prefill = self.prefill(conditions, sampler.is_guided)
        is_plain = self.decoding == "sequential" and not self.compile_decode
        branches = self.branches(sampler, 0) if is_plain else None
        predict = TokenPredictor(
            self.gpt,
            prefill if branches is None else Prefill(*map(branches.take, prefill)),
            sampler,
            cfg_interval=self.cfg_interval,
            decode=self._decode,
            # At most four compiled shapes per image size; the compiler caches eight.
            slots_at_a_time=max(64, -(-self.gpt_config.block_size // 4)) if self.compile_decode else 1,
        )
        if self.decoding == "parallel":
            return sample_in_parallel(predict, sampler, self.gpt_config.block_size, self.window)
        if branches is None:
            return sample_autoregressive(predict, sampler, self.gpt_config.block_size)

        def predict_once(previous: Tensor, step: int) -> Tensor:
            if self.branches(sampler, step) is not None:
                return branches.spread(predict(branches.take(previous), step))
            if predict.num_rows < len(previous):  # the first step at which rows differ
                predict.spread(branches)
            return predict(previous, step)

        return sample_autoregressive(predict_once, sampler, self.gpt_config.block_size)

    def score_tokens(self, conditions: Conditions, tokens: Tensor, sampler: TokenSampler) -> Tensor:
        """Log2-probability (B, L) in one pass over all tokens (teacher forcing), under the loop's distributions."""
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
        """Embedded null condition positions ("no caption" or "no label") for conditions with a mask (B, T)."""
        if self.captions is None:
            return self.gpt.cls_embedding(
                torch.full_like(mask[:, 0], self.gpt_config.num_classes, dtype=torch.int64)
            ), mask
        features, null_mask = self.gpt.null_features(mask.sum(1))
        return self.gpt.cls_embedding(features[:, -mask.shape[1] :]), null_mask[:, -mask.shape[1] :]

    def prefill(self, conditions: Conditions, guided: bool) -> Prefill:
        """Run each distinct condition once and expand it to its rows.

        Conditions are run one at a time, so that they do not depend on the batch. Null conditions depend on the length
        only and are cached.
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
        key = (num_valid, self.device)
        if key not in self._null_prefills:
            features, mask = self.gpt.null_features(torch.tensor([num_valid], device=self.device))
            self._null_prefills[key] = self.gpt.prefill_captions(features[:, -num_valid:], mask[:, -num_valid:])
        return self._null_prefills[key]

    def decode_tokens(self, tokens: Tensor) -> Tensor:
        """Decode tokens one image at a time, so that pixels do not depend on the batch size."""
        return torch.cat(
            [to_uint8(check_finite(self.vq.decode(image, *self.grid), PIXELS)) for image in tokens.split(1)]
        )

    @property
    @override
    def image_side(self) -> int:
        return self.image_size

    def encode_images(self, images: Tensor) -> Tensor:
        """Encode images one at a time, so that codebook counts are exact on any number of ranks."""
        if tuple(images.shape[2:]) != (self.image_size, self.image_size):
            raise ImageSizeError(
                f"images must be {self.image_size} x {self.image_size} pixels (image_size), got {tuple(images.shape)}. "
                "Resize them first"
            )
        return torch.cat([self.vq.encode(from_uint8(image.to(self.device))) for image in images.split(1)])


def _check_official(checkpoint: str, key: str, size: str, vq: str, model_type: str, image_size: int) -> None:
    file = checkpoint.replace(":", "/").rsplit("/", 1)[-1]
    if file not in OFFICIAL_FILES:
        return
    kind, name, image_sizes = OFFICIAL_FILES[file]
    is_other_grid = key == "gpt_checkpoint" and vq != "VQ-16"  # all transformers were trained on VQ-16
    if kind != model_type or name != size or image_size not in image_sizes or is_other_grid:
        raise WrongWeightsError(
            f"{key}: {file} is {kind}, {name}, for images of {' or '.join(map(str, image_sizes))} pixels, but the "
            f"settings are {model_type}, {size}, {vq}, {image_size} pixels, with which it would sample garbage. "
            "Correct the settings"
        )
