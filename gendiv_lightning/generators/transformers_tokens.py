"""`TransformersTokens`: a model of transformers that draws the tokens of images one by one, and decodes them itself.

The library's classes do all the work of networks: the tokenizer of prompts, the language model, the tokenizer of
images. Its `generate` is not called: `TokenPredictor` asks the language model, and our own loops decide every token, so
that each probe means what it means elsewhere, prompts are run once for all of their samples, and parallel decoding
works as for every autoregressive family. Structure tokens, such as row ends, are fed where they belong: they are no
decision.

B rows, P positions, L positions in all, K codebook entries, S inputs of the language model, D its width.
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
Ids = tuple[int, ...]


class Prefix(NamedTuple):
    """What a prompt leaves behind in the language model.

    Attributes:
        layers: keys and values (1, heads, n, head size) of each layer.
        logits: (1, K), of image token 0.
    """

    layers: list[tuple[Tensor, Tensor]]
    logits: Tensor

    @property
    def length(self) -> int:
        """Inputs n."""
        return self.layers[0][0].shape[2]


class Conditions(NamedTuple):
    """Conditions of B rows.

    Attributes:
        ids: inputs of the language model of each distinct text, up to the first image token.
        rows: (B,) place in `ids` of each row.
    """

    ids: list[Ids]
    rows: list[int]


class TokenPredictor:
    """A language model with its cache, as a loop asks it: the guided logits of image tokens, given those before.

    Args:
        generator: its networks.
        prefixes: of B rows; under guidance followed by their B null rows.
        sampler: knows the guidance.
    """

    def __init__(self, generator: TransformersTokens, prefixes: Sequence[Prefix], sampler: TokenSampler) -> None:
        from transformers import DynamicCache

        self.generator, self.sampler = generator, sampler
        self.first_logits = torch.cat([prefix.logits for prefix in prefixes])
        device = self.first_logits.device
        self.lengths = torch.tensor([prefix.length for prefix in prefixes], device=device)
        self.longest = max(prefix.length for prefix in prefixes)
        # Shorter prompts are padded on the left. Without padding there is no mask, and attention is faster.
        is_real = torch.arange(self.longest, device=device) >= self.longest - self.lengths[:, None]
        self.mask = None if is_real.all() else is_real.long()
        self.cache: Any = DynamicCache()  # its layers may be of any kind, says their type
        for layer, parts in enumerate(zip(*(prefix.layers for prefix in prefixes), strict=True)):
            keys, values = (
                torch.cat([pad(part, (0, 0, self.longest - part.shape[2], 0)) for part in both])
                for both in zip(*parts, strict=True)
            )
            self.cache.update(keys, values, layer)

    def __call__(self, previous: Tensor, start: int) -> Tensor:
        """Logits (B, P, K) from position `start` on, given the tokens (B, P) before each; position 0 reads none."""
        logits = self._decode(previous, start - 1) if start else self.first_logits[:, None]
        return self.sampler.guide(*logits.chunk(2)) if self.sampler.is_guided else logits

    def _decode(self, tokens: Tensor, start: int) -> Tensor:
        """Logits (R, P, K) after the tokens (B, P) from position `start` on, and after the row ends among them."""
        generator, num_tokens = self.generator, tokens.shape[1]
        inputs = generator.embed(tokens)
        last: slice | list[int] = slice(None)
        if generator.row_end is not None:
            is_last = [(start + i + 1) % generator.grid[1] == 0 for i in range(num_tokens)]
            order = [place for i in range(num_tokens) for place in ((i, num_tokens) if is_last[i] else (i,))]
            row_end = generator.embed_ids([generator.row_end]).expand(len(inputs), -1, -1)
            inputs = torch.cat([inputs, row_end], 1)[:, order]
            # What follows a row's last token is predicted after the row's end.
            last = [i + sum(is_last[: i + 1]) for i in range(num_tokens)]
        if self.sampler.is_guided:
            inputs = inputs.repeat(2, 1, 1)
        return generator.head(self._run(inputs, generator.num_inputs(start))[:, last]).float()

    def _run(self, inputs: Tensor, seen: int) -> Tensor:
        """States (R, S, D) of inputs (R, S, D) that follow the prompt and `seen` others.

        Inputs that are fed again take the places of what was there; what is behind them stays.
        """
        start = self.longest + seen
        stop, layers = start + inputs.shape[1], self.cache.layers
        behind = [(layer.keys[:, :, stop:], layer.values[:, :, stop:]) for layer in layers]
        if self.cache.get_seq_length() > start:
            for layer in layers:
                layer.keys, layer.values = layer.keys[:, :, :start], layer.values[:, :, :start]
        places = seen + torch.arange(inputs.shape[1], device=inputs.device)
        mask = None if self.mask is None else pad(self.mask, (0, stop - self.longest), value=1)
        states = self.generator.run(inputs, self.lengths[:, None] + places, mask, self.cache)
        if behind[0][0].shape[2]:
            for layer, (keys, values) in zip(layers, behind, strict=True):
                layer.keys, layer.values = torch.cat([layer.keys, keys], 2), torch.cat([layer.values, values], 2)
        return states


class TransformersTokens(TokenGenerator[Conditions]):
    """A model of transformers that draws image tokens in raster order, from a folder or the Hugging Face Hub.

    Only safetensors are read, and no code of a repository is executed.

    Args:
        checkpoint: a folder as `save_pretrained` writes it, model and processor together, or `OWNER/REPO` on the Hub.
        dtype: of the language model; the tokenizer of images is always float32.
        guidance_scale: classifier-free guidance; 1 and below is off.
        temperature: divides the logits.
        top_k: tokens kept; 0 keeps all.
        top_p: probability mass kept; 1 keeps all.
        decoding: "sequential" predicts one token a pass; "parallel" predicts a window of them, keeps those that it can
            prove to be final, and gives the same tokens in fewer passes. float32 only.
        window: tokens that a parallel pass predicts.
        batch_size: rows (images) that are sampled together.

    Attributes:
        model: transformers' model.
        row_end: vocabulary entry that ends each row of tokens; None if there is none.
        pixels: per side of an image.
    """

    # Names of transformers' classes.
    model_class: ClassVar[str]
    config_class: ClassVar[str]
    processor_class: ClassVar[str]
    # transformers' own, which a type checker does not know.
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
        self._prefixes: dict[Ids, Prefix] = {}
        self._nulls: dict[Ids, Prefix] = {}

    # --- what a family defines ---

    @abstractmethod
    def read_config(self, config: Any) -> None:
        """Set `codebook_size`, `grid`, `pixels` and `row_end` by transformers' configuration of the checkpoint.

        Raises:
            ValueError: the checkpoint cannot draw such images.
        """

    @abstractmethod
    def prompt_ids(self, text: str) -> Ids:
        """Inputs of the language model for a text, up to the first image token."""

    @abstractmethod
    def null_ids(self, ids: Ids) -> Ids:
        """Those of guidance's other half, for a prompt's."""

    @abstractmethod
    def embed(self, tokens: Tensor) -> Tensor:
        """Image tokens (B, P) to inputs of the language model (B, P, D)."""

    @abstractmethod
    def head(self, states: Tensor) -> Tensor:
        """The language model's last states (..., D) to logits of image tokens (..., K)."""

    @property
    @abstractmethod
    def network(self) -> Any:
        """The language model without a head."""

    @abstractmethod
    def to_pixels(self, tokens: Tensor) -> Tensor:
        """Tokens (1, L) to an image (1, 3, H, W), normalised as the processor does."""

    @abstractmethod
    def to_tokens(self, image: Tensor) -> Tensor:
        """An image (1, 3, H, W), normalised as the processor does, to tokens of any shape that is L in all."""

    # --- before anything is loaded ---

    @property
    def folder(self) -> Path:
        """The checkpoint, found."""
        if self._folder is None:
            self.locate()
        assert self._folder is not None, "locate() sets it"
        return self._folder

    def locate(self) -> None:
        """Find the checkpoint, download it if it is on the Hub only, and read its configuration."""
        import transformers

        folder = resolve(self.checkpoint, "checkpoint", advice=ADVICE, folder=True)
        if not any((folder / f"model.safetensors{suffix}").exists() for suffix in ("", ".index.json")):
            raise MissingWeightsError(
                f"checkpoint: {folder} has no model.safetensors. Other formats are not read; choose a repository in "
                f"the format of transformers' {self.model_class}"
            )
        config_class = getattr(transformers, self.config_class)
        try:
            kind = transformers.PretrainedConfig.get_config_dict(folder)[0].get("model_type")
            if kind != config_class.model_type:
                raise WrongWeightsError(f"its model_type is {kind!r}, not {config_class.model_type!r}")
            self.config = config_class.from_pretrained(folder)
        except (OSError, ValueError) as error:
            raise WrongWeightsError(
                f"checkpoint: {folder} is not one of transformers' {self.model_class}: {first_line(error)}. Choose "
                "another one, or another generator"
            ) from error
        self.read_config(self.config)
        self._folder = folder

    def identity(self) -> dict[str, object]:
        """Hash of the checkpoint's files, and sampling settings."""
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
        """The library's processor of the checkpoint, which loads no weights."""
        if self._processor is None:
            import transformers

            try:
                self._processor = getattr(transformers, self.processor_class).from_pretrained(self.folder)
            except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
                raise WrongWeightsError(
                    f"checkpoint: {self.folder} does not hold a {self.processor_class}: {first_line(error)}. Download "
                    "the checkpoint again"
                ) from error
        return self._processor

    def check_prompts(self, texts: Sequence[str]) -> list[str]:
        """Nothing is cut: a text that leaves no room for its image is an error."""
        found = self.text_lengths(texts)
        if found.cut:
            raise PromptError(
                f"prompts must have at most {found.limit} tokens, or the language model has no room for an image of "
                f"{self.num_inputs(self.grid[0] * self.grid[1])}. Shorten {len(found.cut)} of {len(texts)} prompts, "
                f"the first of which is {found.cut[0][:60]!r}"
            )
        return []

    def text_lengths(self, texts: Sequence[str]) -> TextLengths:
        """By the language model's tokenizer, with the prompt's template; the limit is what leaves room for an image."""
        lengths = [len(self.prompt_ids(text)) for text in texts]
        limit = int(self.config.text_config.max_position_embeddings) - self.num_inputs(self.grid[0] * self.grid[1])
        return TextLengths(texts, lengths, limit)

    def num_inputs(self, num_tokens: int) -> int:
        """Inputs of the language model before image token `num_tokens`, row ends included."""
        return num_tokens + (num_tokens // self.grid[1] if self.row_end is not None else 0)

    # --- weights ---

    def load(self) -> None:
        """Load all networks; the tokenizer of images in float32."""
        import transformers

        library = getattr(transformers, self.model_class)
        # How transformers itself keeps a part in float32: a class declares it.
        declared = {"_keep_in_fp32_modules_strict": ["vqmodel"], "__module__": library.__module__}
        self.model = load_pretrained(type(self.model_class, (library,), declared), self.folder, DTYPES[self.dtype_name])
        self._prefixes.clear()
        self._nulls.clear()

    def run(self, inputs: Tensor, positions: Tensor, mask: Tensor | None, cache: Any) -> Tensor:
        """The language model's last states (R, S, D) of inputs (R, S, D); it adds them to the cache.

        Args:
            inputs: embedded.
            positions: (R, S) in the sequence.
            mask: (R, cached + S) of inputs that are not padding; None if all are.
            cache: of what was before.
        """
        network = self.network
        # transformers 5.24 renamed it.
        name = "cache" if "cache" in inspect.signature(network.forward).parameters else "past_key_values"
        return network(
            inputs_embeds=inputs, position_ids=positions, attention_mask=mask, use_cache=True, **{name: cache}
        ).last_hidden_state

    def embed_ids(self, ids: Sequence[int]) -> Tensor:
        """Vocabulary entries to inputs of the language model (1, S, D)."""
        return self.model.get_input_embeddings()(torch.tensor([list(ids)], device=self.device))

    # --- prompts to images ---

    def encode_prompts(self, texts: Sequence[str]) -> Conditions:
        """Each distinct text is split into tokens once."""
        distinct = list(dict.fromkeys(texts))
        return Conditions([self.prompt_ids(text) for text in distinct], [distinct.index(text) for text in texts])

    def predictor(self, conditions: Conditions, sampler: TokenSampler) -> TokenPredictor:
        """What the loops ask. A prompt runs once for all of its samples, alone, so that it depends on no other."""
        self._prefixes = {ids: self._prefixes.get(ids) or self._prefix(ids) for ids in conditions.ids}
        prefixes = [self._prefixes[conditions.ids[row]] for row in conditions.rows]
        if sampler.is_guided:
            nulls = [self.null_ids(ids) for ids in conditions.ids]
            self._nulls.update({ids: self._prefix(ids) for ids in nulls if ids not in self._nulls})
            prefixes += [self._nulls[nulls[row]] for row in conditions.rows]
        return TokenPredictor(self, prefixes, sampler)

    def _prefix(self, ids: Ids) -> Prefix:
        from transformers import DynamicCache

        cache: Any = DynamicCache()
        positions = torch.arange(len(ids), device=self.device)[None]
        states = self.run(self.embed_ids(ids), positions, None, cache)
        return Prefix([(layer.keys, layer.values) for layer in cache.layers], self.head(states[:, -1]).float())

    def sample_tokens(self, conditions: Conditions, sampler: TokenSampler) -> TokenSamples:
        """The loop of `sample_autoregressive`, or of `sample_in_parallel`, which gives the same tokens."""
        predict, num_tokens = self.predictor(conditions, sampler), self.grid[0] * self.grid[1]
        if self.decoding == "parallel":
            return sample_in_parallel(predict, sampler, num_tokens, self.window)
        return sample_autoregressive(predict, sampler, num_tokens)

    def score_tokens(self, conditions: Conditions, tokens: Tensor, sampler: TokenSampler) -> Tensor:
        """By passes over many given tokens (teacher forcing): the distributions that the loop would draw from."""
        predict = self.predictor(conditions, sampler)
        scores = [score_given_tokens(sampler, predict(tokens[:, :0], 0), tokens[:, :1])]
        for start in range(1, tokens.shape[1], SCORED_AT_ONCE):
            given = tokens[:, start - 1 : start - 1 + SCORED_AT_ONCE][:, : tokens.shape[1] - start]
            scored = tokens[:, start : start + SCORED_AT_ONCE]
            scores.append(score_given_tokens(sampler, predict(given, start), scored))
        return torch.cat(scores, 1)

    def decode_tokens(self, tokens: Tensor) -> Tensor:
        """By the tokenizer's decoder, one by one: the last digits, and so some pixels, would tell an image's batch."""
        mean, std = self._normalisation
        images = [check_finite(self.to_pixels(image), PIXELS).float() * std + mean for image in tokens.split(1)]
        # The library cuts decimals off, and so do the official scripts.
        return torch.cat([(255 * image).clamp(0, 255).to(torch.uint8) for image in images])

    @property
    @override
    def image_side(self) -> int:
        return self.pixels

    def encode_images(self, images: Tensor) -> Tensor:
        """By the tokenizer's encoder, one by one, for the same reason: counts are exact on any number of ranks."""
        if tuple(images.shape[2:]) != (self.pixels, self.pixels):
            raise ImageSizeError(
                f"images must be {self.pixels} pixels a side, as the checkpoint's, got {tuple(images.shape)}. Set "
                f"data.image_size to {self.pixels}"
            )
        mean, std = self._normalisation
        empty = torch.zeros(0, self.grid[0] * self.grid[1], dtype=torch.int64, device=self.device)
        scaled = [(image.to(self.device) / 255 - mean) / std for image in images.split(1) if len(image)]
        return torch.cat([empty, *(self.to_tokens(image).reshape(1, -1).long() for image in scaled)])

    @property
    def _normalisation(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (3, 1, 1) that the processor takes off images in [0, 1]."""
        processor = self.processor.image_processor
        mean, std = (torch.tensor(values, device=self.device) for values in (processor.image_mean, processor.image_std))
        return mean[:, None, None], std[:, None, None]
