"""`Generator`: what a text-to-image model must be able to do, and the one predict step that uses it.

`TokenGenerator` is a generator that draws tokens from a codebook.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypeVar, cast

import torch
from lightning import LightningModule
from torch import Tensor

from gendiv_lightning.errors import ConfigValueError
from gendiv_lightning.generators.generate import Samples as PromptedSamples
from gendiv_lightning.generators.generate import generate
from gendiv_lightning.prompts.design import Design
from gendiv_lightning.recorders import Recordable, Recorder
from gendiv_lightning.records import (
    ImageBatch,
    LatentSamples,
    NoiseKey,
    Prompt,
    PromptBatch,
    SampleBatch,
    TokenSamples,
)
from gendiv_lightning.sampling import Noise, Observer, Probe, Sampler, TokenSampler, apply_probes, check_settings
from gendiv_lightning.text.lengths import TextLengths

Conditions = TypeVar("Conditions")
Samples = TypeVar("Samples", TokenSamples, LatentSamples)
Precision = Literal["float32", "bfloat16", "float16"]


class Chance(NamedTuple):
    """What a family of generators leaves to chance, in words for tables; empty where there is nothing.

    Attributes:
        path: "which drawn tokens stay".
        execution: "which token each position gets".
    """

    path: str
    execution: str


class Generator(LightningModule, ABC, Generic[Conditions, Samples]):
    """A text-to-image model whose sampling loop takes all chance from a `Sampler`.

    Subclasses implement weight lookup and loading, encoding of prompts, the sampling loop and decoding. Nothing here
    knows a family: a subclass describes itself by its class attributes.

    Attributes:
        family: identifies the family in protocols and run folders.
        title: the family as its authors write it.
        chance: what the family leaves to chance.
        codebook_size: K, entries that a token can take. 0 without tokens, and while it is unknown: it may be read from
            the checkpoint's configuration in `locate`.
        batch_size: rows (images) that are sampled together.
        pads_batches: fill up every micro-batch to `batch_size` rows. In half precision a row's logits can depend on
            the number of rows, and with them many tokens. In float32 only their last digits do: a sample depends on its
            batch where a uniform falls on the very edge between two tokens, and there on some machines only.
        has_likelihood: `score_tokens` is there.
        is_toy: the weights are a toy's, and so are all numbers.
    """

    family: ClassVar[str]
    title: ClassVar[str]
    chance: ClassVar[Chance]
    codebook_size: int = 0
    batch_size: int
    pads_batches: bool = False
    has_likelihood: bool = False
    is_toy: bool = False

    def __init__(self, *, guidance_scale: float, dtype: Precision, batch_size: int) -> None:
        super().__init__()
        check_settings(guidance=guidance_scale)
        if batch_size < 1:
            raise ConfigValueError(f"batch_size must be at least 1, got {batch_size}")
        self.guidance_scale, self.dtype_name, self.batch_size = guidance_scale, dtype, batch_size
        self.pads_batches = dtype != "float32"

    # --- before anything is loaded ---

    @abstractmethod
    def locate(self) -> None:
        """Find all weight files; ValueError if one is missing or cannot be what the settings say. Loads nothing."""

    @abstractmethod
    def identity(self) -> dict[str, object]:
        """All that can change a number (hashes of weights, sampling settings, dtype), for the run's fingerprint."""

    @abstractmethod
    def check_prompts(self, texts: Sequence[str]) -> list[str]:
        """Warnings about texts (such as being truncated); ValueError if one cannot be a condition. Loads no weights."""

    @abstractmethod
    def text_lengths(self, texts: Sequence[str]) -> TextLengths | None:
        """Lengths in tokens of the text encoder; None where prompts are no captions. Loads no weights."""

    def describe(self) -> dict[str, Any]:
        """The generator in words, for tables and pictures; `size` is empty where the family has one size."""
        return {
            "family": self.family,
            "title": self.title,
            "size": self.size_name(),
            "is_toy": self.is_toy,
            "chance": self.chance._asdict(),
        }

    def size_name(self) -> str:
        """Which of the family's sizes it is, "XL"; empty where there is one."""
        return ""

    # --- weights ---

    @abstractmethod
    def load(self) -> None:
        """Load the weights."""

    # --- prompts to images ---

    @abstractmethod
    def make_sampler(self, path: Noise, execution: Noise) -> Sampler:
        """A sampler with the generator's own settings, before any probe."""

    @abstractmethod
    def encode_prompts(self, texts: Sequence[str]) -> Conditions:
        """Conditions of B rows, one text each; what guidance needs is included or made from them later."""

    @abstractmethod
    def run_loop(self, conditions: Conditions, sampler: Any) -> Samples:
        """The sampling loop over B rows. All chance comes from `sampler`."""

    @abstractmethod
    def decode(self, samples: Samples) -> Tensor:
        """Samples of B rows to images (B, 3, H, W) uint8."""

    def sampler(self, seed: int, keys: Sequence[NoiseKey], probes: Sequence[Probe] = ()) -> Any:
        """The sampler of some rows, changed by probes."""
        path = Noise.of(seed, "path", [(k.prompt, k.paraphrase, k.path) for k in keys], self.device)
        execution = Noise.of(seed, "exec", [(k.prompt, k.paraphrase, k.sample) for k in keys], self.device)
        return apply_probes(self.make_sampler(path, execution), probes)

    def generate(
        self,
        prompts: str | Prompt | Sequence[str | Prompt],
        num_samples: int = 8,
        seed: int = 0,
        probes: Sequence[Probe | Design] = (),
        *,
        recorders: Sequence[type[Recorder]] = (),
        prompt_set: str = "prompts",
    ) -> PromptedSamples:
        """Sample some prompts, on the generator's device (move it with `generator.to("cuda")`); weights are loaded.

        A sample is the one that `gendiv predict` gives for the same settings, seed, prompt id and sample number. The
        id of a text is that of the same text in a prompt file of the name `prompt_set`: by default `prompts.txt`.

        Args:
            prompts: texts, or `Prompt`s with ids and paraphrases of their own (see `gendiv_lightning.read_prompts`).
            num_samples: images per prompt.
            seed: root seed of all noise.
            probes: probes and designs, in any order.
            recorders: what to keep of the loop, such as `TokenMarginals` for the metric `token_entropy`.
            prompt_set: name of the prompt set that texts belong to.

        Raises:
            ValueError: a prompt or the number of samples is impossible, probes contradict each other or do not fit the
                generator, or a prompt has too few paraphrases.
        """
        check_device(self.device)
        return generate(
            self,
            prompts,
            num_samples=num_samples,
            seed=seed,
            probes=probes,
            recorders=recorders,
            prompt_set=prompt_set,
        )

    @torch.inference_mode()
    def sample(
        self,
        batch: PromptBatch,
        probes: Sequence[Probe] = (),
        recorders: Sequence[type[Recorder]] = (),
        observers: Sequence[Observer] = (),
        progress: Callable[[int], object] = lambda num_rows: None,
    ) -> SampleBatch:
        """Sample and decode all rows of a batch, `batch_size` at a time; the result is on the CPU.

        Args:
            batch: whole prompts with the names of their samples.
            probes: change the sampler before the loop.
            recorders: classes of what to keep of the loop, beside the samples.
            observers: called with every draw.
            progress: called with the number of rows that were sampled since the last call.
        """
        texts, parts, images = batch.texts, [], []
        recordable = cast(Recordable, self)  # recorders of tokens apply to generators of tokens only
        recordings = [recorder(recordable, batch) for recorder in recorders if recorder.applies(recordable, batch)]
        for start in range(0, len(texts), self.batch_size):
            rows = list(range(start, min(start + self.batch_size, len(texts))))
            num_padded = self.batch_size - len(rows) if self.pads_batches else 0
            filled = rows + rows[-1:] * num_padded
            watching: list[Observer | None] = [recording.begin(rows, num_padded) for recording in recordings]
            sampler = replace(
                self.sampler(batch.seed, [batch.keys[row] for row in filled], probes),
                observers=(*observers, *(observer for observer in watching if observer is not None)),
            )
            drawn = self.run_loop(self.encode_prompts([texts[row] for row in filled]), sampler)
            for recording in recordings:
                recording.end(drawn, sampler)
            kept = type(drawn)(*(values[: len(rows)] for values in drawn))
            images.append(self.decode(kept).cpu())
            parts.append([values.cpu() for values in kept])
            progress(len(rows))
        return SampleBatch(
            batch,
            type(drawn)(*map(torch.cat, zip(*parts, strict=True))),
            torch.cat(images),
            {recording.name: recording.results() for recording in recordings if recording.scope == "prompt"},
            {recording.name: recording.results() for recording in recordings if recording.scope == "sample"},
        )

    # --- Lightning ---

    def predict_step(self, batch: PromptBatch, batch_idx: int = 0) -> SampleBatch:
        """`sample`, with the probes, recorders and observers that the trainer's callbacks are or request."""
        callbacks = self.trainer.callbacks  # type: ignore[attr-defined]
        recorders = dict.fromkeys(recorder for callback in callbacks for recorder in getattr(callback, "recorders", ()))
        observers = [callback for callback in callbacks if isinstance(callback, Observer)]
        return self.sample(batch, self._probes(), list(recorders), observers)

    def setup(self, stage: str) -> None:
        """Find the weights before anything expensive happens.

        Raises:
            ValueError: a weight file is missing, probes contradict each other, or the trainer would cast the tokenizer.
        """
        check_device(self.trainer.strategy.root_device)
        if self.trainer.precision != "32-true":
            raise ConfigValueError(
                f"trainer.precision must stay 32-true, got {self.trainer.precision}: the generator's own dtype "
                "(--model.dtype) casts what may be cast, and leaves the tokenizer in float32"
            )
        self.check_probes(self._probes())
        self.locate()

    def _probes(self) -> list[Probe]:
        return [callback for callback in self.trainer.callbacks if isinstance(callback, Probe)]  # type: ignore[attr-defined]

    def check_probes(self, probes: Sequence[Probe]) -> None:
        """Raise ValueError if a probe cannot work on this generator, or two contradict each other. Loads nothing."""
        if isinstance(self, TokenGenerator) and not self.codebook_size:
            self.locate()  # the checkpoint's configuration may say how large the codebook is
        for probe in probes:
            probe.check(self.codebook_size)
        sampler = self.sampler(0, (), probes)
        if self.codebook_size and (getattr(sampler, "top_k", None) or 0) > self.codebook_size:
            raise ConfigValueError(
                f"top_k must be at most {self.codebook_size}, the size of the codebook, got {sampler.top_k}. Use 0 to "
                "keep all tokens"
            )

    def configure_model(self) -> None:
        """Load the weights; Lightning calls this after the `setup` hooks of data and callbacks."""
        self.load()


def check_device(device: torch.device) -> None:
    """Raise ValueError for a device that cannot hold noise and distributions."""
    if device.type == "mps":
        raise ConfigValueError(
            "device mps has no float64, which noise and distributions need. Use the CPU: --trainer.accelerator cpu, "
            'or generator.to("cpu")'
        )


class TokenGenerator(Generator[Conditions, TokenSamples]):
    """A generator whose images are tokens from a codebook.

    Args:
        codebook_size: K; 0 if `locate` will read it from the checkpoint.
        grid: (h, w) tokens per image; (0, 0) if `locate` will read it.
        guidance_scale: classifier-free guidance; 1 and below is off.
        temperature: divides the logits.
        top_k: tokens kept; 0 keeps all.
        top_p: probability mass kept; 1 keeps all.
        dtype: of the networks that may be cast.
        batch_size: rows (images) that are sampled together.

    Attributes:
        rewrites_tokens: a token may be drawn more than once in the loop; the last draw counts.
    """

    rewrites_tokens: bool = False

    def __init__(
        self,
        *,
        codebook_size: int = 0,
        grid: tuple[int, int] = (0, 0),
        guidance_scale: float = 1.0,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        dtype: Precision = "float32",
        batch_size: int = 16,
    ) -> None:
        super().__init__(guidance_scale=guidance_scale, dtype=dtype, batch_size=batch_size)
        check_settings(temperature=temperature, top_k=top_k, top_p=top_p)
        self.codebook_size, self.grid = codebook_size, grid
        self.temperature, self.top_k, self.top_p = temperature, top_k, top_p

    def settings(self) -> dict[str, Any]:
        """The generator's own temperature, top_k, top_p and guidance, as fields of `TokenSampler`."""
        return {
            "temperature": self.temperature,
            "top_k": self.top_k or None,
            "top_p": self.top_p,
            "guidance": self.guidance_scale,
        }

    def make_sampler(self, path: Noise, execution: Noise) -> TokenSampler:
        """A sampler with the generator's own settings."""
        return TokenSampler(path, execution, self.codebook_size, **self.settings())

    @abstractmethod
    def sample_tokens(self, conditions: Conditions, sampler: TokenSampler) -> TokenSamples:
        """The sampling loop: B rows of tokens. All chance comes from `sampler`."""

    def score_tokens(self, conditions: Conditions, tokens: Tensor, sampler: TokenSampler) -> Tensor:
        """Log2-probability (B, L) of given tokens (B, L), each given those before it, as the loop would draw them."""
        raise NotImplementedError(f"{type(self).__name__} has no likelihood of a sequence of tokens")

    @abstractmethod
    def decode_tokens(self, tokens: Tensor) -> Tensor:
        """Tokens (B, L) to images (B, 3, H, W) uint8."""

    @abstractmethod
    def encode_images(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) uint8 to tokens (B, L), by the generator's own tokenizer."""

    def run_loop(self, conditions: Conditions, sampler: TokenSampler) -> TokenSamples:
        """`sample_tokens`."""
        return self.sample_tokens(conditions, sampler)

    def decode(self, samples: TokenSamples) -> Tensor:
        """`decode_tokens`."""
        return self.decode_tokens(samples.tokens)

    @property
    def image_side(self) -> int | None:
        """Pixels per side of the images that `encode_images` takes, once located; None if it takes any."""
        return None

    def validation_step(self, batch: ImageBatch, batch_idx: int = 0) -> dict[str, Tensor]:
        """Tokens (B, L) of a batch of images, under the key "tokens"."""
        with torch.inference_mode():
            return {"tokens": self.encode_images(batch.images)}
