"""`TransformersTokens`: base class of generators that use a transformers model to sample image tokens one by one.

All networks (prompt tokenizer, language model, image tokenizer) are classes of transformers. Their `generate` is not
used: `TokenPredictor` runs the language model and our loops sample every token, so that probes have the same meaning as
in other families, a prompt runs once for all its samples, and parallel decoding works as in every autoregressive
family. Structure tokens such as row ends are inserted between image tokens and are not sampled.

Notation: B rows, P positions, L positions in total, K codebook entries, S inputs of the language model, D its width.
"""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad
from typing_extensions import override

from gendiv_lightning.errors import ImageSizeError, MissingWeightsError, PromptError, WrongWeightsError
from gendiv_lightning.functional.finite import PIXELS, check_finite
from gendiv_lightning.generators.base import Chance, Precision, TokenGenerator
from gendiv_lightning.records import TokenSamples
from gendiv_lightning.sampling import TokenSampler
from gendiv_lightning.sampling.autoregressive import sample_autoregressive
from gendiv_lightning.sampling.likelihood import score_given_tokens
from gendiv_lightning.sampling.parallel import check_decoding, sample_in_parallel
from gendiv_lightning.text.lengths import TextLengths
from gendiv_lightning.weights.hash import sha256
from gendiv_lightning.weights.load import DTYPES, first_line, load_pretrained
from gendiv_lightning.weights.resolve import resolve

ADVICE = "  or, to run now on the toy model:   gendiv fit-free predict --config configs/tiny/llamagen_argmax.yaml"
SCORED_AT_ONCE = 256  # positions whose logits `score_tokens` holds in memory together
# In half precision the last digits depend on the length to which prompts are padded, and so on the other prompts of the
# batch. There it is a multiple of this many tokens: only longer prompts still matter.
PADDED_LENGTH = 256
Ids = tuple[int, ...]


class Prefix(NamedTuple):
    """Cached state of the language model after a prompt.

    Attributes:
        layers: keys and values (1, heads, n, head size) of each layer.
        logits: (1, K) logits of the first image token.
    """

    layers: list[tuple[Tensor, Tensor]]
    logits: Tensor

    @property
    def length(self) -> int:
        """Number n of inputs."""
        return self.layers[0][0].shape[2]


class Conditions(NamedTuple):
    """Conditions of B rows.

    Attributes:
        ids: input ids of each distinct text, up to the first image token.
        rows: (B,) index into `ids` of each row.
    """

    ids: list[Ids]
    rows: list[int]


class TokenPredictor:
    """Predicts guided logits of image tokens from earlier ones, with a language model and its cache.

    Args:
        generator: generator with loaded networks.
        prefixes: prefixes of B rows, with guidance followed by those of the B null rows.
        sampler: sampler with the guidance settings.
    """

    def __init__(self, generator: TransformersTokens, prefixes: Sequence[Prefix], sampler: TokenSampler) -> None:
        from transformers import DynamicCache

        self.generator, self.sampler = generator, sampler
        self.first_logits = torch.cat([prefix.logits for prefix in prefixes])
        device = self.first_logits.device
        self.lengths = torch.tensor([prefix.length for prefix in prefixes], device=device)
        self.longest = max(prefix.length for prefix in prefixes)
        if generator.pads_batches:
            self.longest = -(-self.longest // PADDED_LENGTH) * PADDED_LENGTH
        # Shorter prompts are left-padded. Without padding no mask is needed and attention is faster.
        is_real = torch.arange(self.longest, device=device) >= self.longest - self.lengths[:, None]
        self.mask = None if is_real.all() and not generator.pads_batches else is_real.long()
        self.cache: Any = DynamicCache()  # typed too widely: its layers may be of any kind
        for layer, parts in enumerate(zip(*(prefix.layers for prefix in prefixes), strict=True)):
            keys, values = (
                torch.cat([pad(part, (0, 0, self.longest - part.shape[2], 0)) for part in both])
                for both in zip(*parts, strict=True)
            )
            self.cache.update(keys, values, layer)

    def __call__(self, previous: Tensor, start: int) -> Tensor:
        """Return logits (B, P, K) from position `start` on, given the preceding tokens (B, P); position 0 has none."""
        logits = self._decode(previous, start - 1) if start else self.first_logits[:, None]
        return self.sampler.guide(*logits.chunk(2)) if self.sampler.is_guided else logits

    def _decode(self, tokens: Tensor, start: int) -> Tensor:
        """Return logits (R, P, K) that follow tokens (B, P) from position `start` on, with row ends inserted."""
        generator, num_tokens = self.generator, tokens.shape[1]
        inputs = generator.embed(tokens)
        last: slice | list[int] = slice(None)
        if generator.row_end is not None:
            is_last = [(start + i + 1) % generator.grid[1] == 0 for i in range(num_tokens)]
            order = [index for i in range(num_tokens) for index in ((i, num_tokens) if is_last[i] else (i,))]
            row_end = generator.embed_ids([generator.row_end]).expand(len(inputs), -1, -1)
            inputs = torch.cat([inputs, row_end], 1)[:, order]
            # The token after the last one of a row is predicted from the row end.
            last = [i + sum(is_last[: i + 1]) for i in range(num_tokens)]
        if self.sampler.is_guided:
            inputs = inputs.repeat(2, 1, 1)
        return generator.head(self._run(inputs, generator.num_inputs(start))[:, last]).float()

    def _run(self, inputs: Tensor, seen: int) -> Tensor:
        """Return states (R, S, D) of inputs (R, S, D) that follow the prompt and `seen` other inputs.

        Inputs that run again replace their cache entries; later entries are kept.
        """
        start = self.longest + seen
        stop, layers = start + inputs.shape[1], self.cache.layers
        later = [(layer.keys[:, :, stop:], layer.values[:, :, stop:]) for layer in layers]
        if self.cache.get_seq_length() > start:
            for layer in layers:
                layer.keys, layer.values = layer.keys[:, :, :start], layer.values[:, :, :start]
        offsets = seen + torch.arange(inputs.shape[1], device=inputs.device)
        mask = None if self.mask is None else pad(self.mask, (0, stop - self.longest), value=1)
        states = self.generator.run(inputs, self.lengths[:, None] + offsets, mask, self.cache)
        if later[0][0].shape[2]:
            for layer, (keys, values) in zip(layers, later, strict=True):
                layer.keys, layer.values = torch.cat([layer.keys, keys], 2), torch.cat([layer.values, values], 2)
        return states


class TransformersTokens(TokenGenerator[Conditions]):
    """Base class of transformers models that sample image tokens in raster order.

    Only safetensors are read, and no code of a repository is executed.

    Args:
        checkpoint: folder with model and processor in the format of `save_pretrained`, or `OWNER/REPO` on the Hub.
        dtype: dtype of the language model; the image tokenizer is always float32.
        guidance_scale: scale of classifier-free guidance; 1 or less turns it off.
        temperature: divides the logits.
        top_k: number of tokens to keep; 0 keeps all.
        top_p: probability mass to keep; 1 keeps all.
        decoding: "sequential" predicts one token per pass. "parallel" predicts a window of tokens, keeps those that are
            final if no logit is off by more than the tolerance of `sampling.parallel`, and gives the same tokens in
            fewer passes; float32 only. That tolerance was measured on LlamaGen's GPT-B on a CPU.
        window: number of tokens that a parallel pass predicts.
        batch_size: number of rows (images) sampled together.

    Attributes:
        model: model of transformers.
        row_end: vocabulary entry that ends each row of tokens, or None.
        pixels: image size in pixels per side.
    """

    # Class names in transformers.
    model_class: ClassVar[str]
    config_class: ClassVar[str]
    processor_class: ClassVar[str]
    # Objects of transformers, unknown to type checkers.
    model: Any
    config: Any

    chance = Chance(path="", execution="which token each position gets, in raster order")
    has_likelihood = True
    row_end: int | None = None
    pixels: int = 0

    def __init__(
        self,
        *,
        checkpoint: str,
        dtype: Precision,
        guidance_scale: float,
        temperature: float,
        top_k: int,
        top_p: float,
        decoding: Literal["sequential", "parallel"],
        window: int,
        batch_size: int,
    ) -> None:
        super().__init__(
            guidance_scale=guidance_scale,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            dtype=dtype,
            batch_size=batch_size,
        )
        check_decoding(decoding, window, dtype)
        self.checkpoint, self.decoding, self.window = checkpoint, decoding, window
        self._folder: Path | None = None
        self._processor: Any = None
        self._prefixes: dict[tuple[Ids, torch.device], Prefix] = {}

    # --- defined by each family ---

    @abstractmethod
    def read_config(self, config: Any) -> None:
        """Set `codebook_size`, `grid`, `pixels` and `row_end` from the transformers config of the checkpoint.

        Raises:
            ValueError: if the checkpoint does not support the image size.
        """

    @abstractmethod
    def prompt_ids(self, text: str) -> Ids:
        """Return the input ids of a text, up to the first image token."""

    @abstractmethod
    def null_ids(self, ids: Ids) -> Ids:
        """Return the unconditional input ids for guidance, given those of a prompt."""

    @abstractmethod
    def embed(self, tokens: Tensor) -> Tensor:
        """Embed image tokens (B, P) as inputs of the language model (B, P, D)."""

    @abstractmethod
    def head(self, states: Tensor) -> Tensor:
        """Map last hidden states (..., D) of the language model to logits of image tokens (..., K)."""

    @property
    @abstractmethod
    def network(self) -> Any:
        """The language model without its head."""

    @abstractmethod
    def to_pixels(self, tokens: Tensor) -> Tensor:
        """Decode tokens (1, L) to an image (1, 3, H, W), normalised as by the processor."""

    @abstractmethod
    def to_tokens(self, image: Tensor) -> Tensor:
        """Encode an image (1, 3, H, W), normalised as by the processor, as L tokens in any shape."""

    # --- before weights are loaded ---

    @property
    def folder(self) -> Path:
        """Local folder of the checkpoint."""
        if self._folder is None:
            self.locate()
        assert self._folder is not None, "locate() sets it"
        return self._folder

    def locate(self) -> None:
        """Find the checkpoint, download it if needed, and read its config."""
        import transformers

        folder = resolve(self.checkpoint, "checkpoint", advice=ADVICE, folder=True)
        if not any((folder / f"model.safetensors{suffix}").exists() for suffix in ("", ".index.json")):
            raise MissingWeightsError(
                f"checkpoint: {folder} has no model.safetensors, and other formats are not read. Choose a repository "
                f"in the format of transformers' {self.model_class}"
            )
        config_class = getattr(transformers, self.config_class)
        try:
            kind = transformers.PretrainedConfig.get_config_dict(folder)[0].get("model_type")
            if kind != config_class.model_type:
                raise WrongWeightsError(f"its model_type is {kind!r}, not {config_class.model_type!r}")
            self.config = config_class.from_pretrained(folder)
        except (OSError, ValueError) as error:
            raise WrongWeightsError(
                f"checkpoint: {folder} is not a checkpoint of transformers' {self.model_class}: {first_line(error)}. "
                "Choose another checkpoint or another generator"
            ) from error
        self.read_config(self.config)
        self._folder = folder

    def identity(self) -> dict[str, object]:
        """Return the hash of the checkpoint and the sampling settings."""
        return {
            "generator": self.family,
            "embedded": self.is_toy,
            "dtype": self.dtype_name,
            **self.settings(),
            "checkpoint": sha256(self.folder),
            **({"batch_size": self.batch_size} if self.pads_batches else {}),
        }

    @property
    def processor(self) -> Any:
        """Processor of the checkpoint; does not load weights."""
        if self._processor is None:
            import transformers

            try:
                self._processor = getattr(transformers, self.processor_class).from_pretrained(self.folder)
            except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
                raise WrongWeightsError(
                    f"checkpoint: {self.folder} has no valid {self.processor_class}: {first_line(error)}. Download "
                    "the checkpoint again"
                ) from error
        return self._processor

    def check_prompts(self, texts: Sequence[str]) -> list[str]:
        """Raise an error for prompts that are too long; prompts are never truncated."""
        lengths = self.text_lengths(texts)
        if lengths.cut:
            num_inputs = self.num_inputs(self.grid[0] * self.grid[1])
            raise PromptError(
                f"prompts must have at most {lengths.limit} tokens, so that the {num_inputs} tokens of an image fit "
                f"into the context of the language model. Shorten {len(lengths.cut)} of "
                f"{len(texts)} prompts, the first of which is {lengths.cut[0][:60]!r}"
            )
        return []

    def text_lengths(self, texts: Sequence[str]) -> TextLengths:
        """Count tokens with the prompt template; the limit leaves room for the image in the context."""
        lengths = [len(self.prompt_ids(text)) for text in texts]
        limit = int(self.config.text_config.max_position_embeddings) - self.num_inputs(self.grid[0] * self.grid[1])
        return TextLengths(texts, lengths, limit)

    def num_inputs(self, num_tokens: int) -> int:
        """Number of language model inputs for the first `num_tokens` image tokens, including row ends."""
        return num_tokens + (num_tokens // self.grid[1] if self.row_end is not None else 0)

    # --- weights ---

    def load(self) -> None:
        """Load all networks, the image tokenizer in float32."""
        import transformers

        library = getattr(transformers, self.model_class)
        # In transformers, a class declares which of its parts stay in float32.
        declared = {"_keep_in_fp32_modules_strict": ["vqmodel"], "__module__": library.__module__}
        self.model = load_pretrained(type(self.model_class, (library,), declared), self.folder, DTYPES[self.dtype_name])
        self._prefixes.clear()

    def run(self, inputs: Tensor, positions: Tensor, mask: Tensor | None, cache: Any) -> Tensor:
        """Run the language model and extend its cache.

        Args:
            inputs: (R, S, D) embedded inputs.
            positions: (R, S) positions in the sequence.
            mask: (R, cached + S), 1 for real inputs and 0 for padding; None if there is no padding.
            cache: cache of earlier inputs; extended in place.

        Returns:
            Last hidden states (R, S, D).
        """
        network = self.network
        # transformers 5.24 renamed the argument.
        name = "cache" if "cache" in inspect.signature(network.forward).parameters else "past_key_values"
        return network(
            inputs_embeds=inputs, position_ids=positions, attention_mask=mask, use_cache=True, **{name: cache}
        ).last_hidden_state

    def embed_ids(self, ids: Sequence[int]) -> Tensor:
        """Embed vocabulary entries as inputs of the language model (1, S, D)."""
        return self.model.get_input_embeddings()(torch.tensor([list(ids)], device=self.device))

    # --- prompts to images ---

    def encode_prompts(self, texts: Sequence[str]) -> Conditions:
        """Tokenize each distinct text once."""
        distinct = list(dict.fromkeys(texts))
        return Conditions([self.prompt_ids(text) for text in distinct], [distinct.index(text) for text in texts])

    def predictor(self, conditions: Conditions, sampler: TokenSampler) -> TokenPredictor:
        """Build the predictor of a batch. Each prompt runs once for all its samples, independently of other prompts."""
        nulls = [self.null_ids(ids) for ids in conditions.ids] if sampler.is_guided else []
        prefixes = self._prefixes_of([*conditions.ids, *nulls])
        blocks = [prefixes[: len(conditions.ids)], *([prefixes[len(conditions.ids) :]] if nulls else [])]
        return TokenPredictor(self, [block[row] for block in blocks for row in conditions.rows], sampler)

    def _prefixes_of(self, ids: Sequence[Ids]) -> list[Prefix]:
        """Prefixes of a batch, those of the last batch unchanged; others are dropped, because they fill the memory."""
        keys = [(one, self.device) for one in ids]
        self._prefixes = {key: self._prefixes.get(key) or self._prefix(key[0]) for key in dict.fromkeys(keys)}
        return [self._prefixes[key] for key in keys]

    def _prefix(self, ids: Ids) -> Prefix:
        from transformers import DynamicCache

        cache: Any = DynamicCache()
        positions = torch.arange(len(ids), device=self.device)[None]
        states = self.run(self.embed_ids(ids), positions, None, cache)
        return Prefix([(layer.keys, layer.values) for layer in cache.layers], self.head(states[:, -1]).float())

    def sample_tokens(self, conditions: Conditions, sampler: TokenSampler) -> TokenSamples:
        """Sample with `sample_autoregressive`, or with `sample_in_parallel`, which gives the same tokens."""
        predict, num_tokens = self.predictor(conditions, sampler), self.grid[0] * self.grid[1]
        if self.decoding == "parallel":
            return sample_in_parallel(predict, sampler, num_tokens, self.window)
        return sample_autoregressive(predict, sampler, num_tokens)

    def score_tokens(self, conditions: Conditions, tokens: Tensor, sampler: TokenSampler) -> Tensor:
        """Score given tokens by teacher forcing, with the distributions of the sampling loop."""
        predict = self.predictor(conditions, sampler)
        scores = [score_given_tokens(sampler, predict(tokens[:, :0], 0), tokens[:, :1])]
        for start in range(1, tokens.shape[1], SCORED_AT_ONCE):
            given = tokens[:, start - 1 : start - 1 + SCORED_AT_ONCE][:, : tokens.shape[1] - start]
            scored = tokens[:, start : start + SCORED_AT_ONCE]
            scores.append(score_given_tokens(sampler, predict(given, start), scored))
        return torch.cat(scores, 1)

    def decode_tokens(self, tokens: Tensor) -> Tensor:
        """Decode tokens one image at a time: in a batch, rounding could change pixels with the batch size."""
        mean, std = self._normalisation
        images = [check_finite(self.to_pixels(image), PIXELS).float() * std + mean for image in tokens.split(1)]
        # Truncated, not rounded, as in transformers and in the official scripts.
        return torch.cat([(255 * image).clamp(0, 255).to(torch.uint8) for image in images])

    @property
    @override
    def image_side(self) -> int:
        return self.pixels

    def encode_images(self, images: Tensor) -> Tensor:
        """Encode one image at a time, for the same reason: counts are exact for any number of ranks."""
        if tuple(images.shape[2:]) != (self.pixels, self.pixels):
            raise ImageSizeError(
                f"images must have {self.pixels} pixels per side, the size of the checkpoint, got "
                f"{tuple(images.shape)}. Set data.image_size to {self.pixels}"
            )
        mean, std = self._normalisation
        empty = torch.zeros(0, self.grid[0] * self.grid[1], dtype=torch.int64, device=self.device)
        scaled = [(image.to(self.device) / 255 - mean) / std for image in images.split(1) if len(image)]
        return torch.cat([empty, *(self.to_tokens(image).reshape(1, -1).long() for image in scaled)])

    @property
    def _normalisation(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (3, 1, 1) by which the processor normalises images in [0, 1]."""
        processor = self.processor.image_processor
        mean, std = (torch.tensor(values, device=self.device) for values in (processor.image_mean, processor.image_std))
        return mean[:, None, None], std[:, None, None]
