"""`Generator`, the base class of text-to-image models, and `TokenGenerator`, which draws tokens from a codebook."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypeVar, cast

import torch
from lightning import LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

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
from gendiv_lightning.sampling.branches import Branches, branches_at
from gendiv_lightning.text.lengths import TextLengths

Conditions = TypeVar("Conditions")
Samples = TypeVar("Samples", TokenSamples, LatentSamples)
Precision = Literal["float32", "bfloat16", "float16"]


class Chance(NamedTuple):
    """Descriptions of a family's random decisions, for tables; empty if there are none of that kind.

    Attributes:
        path: such as "which drawn tokens stay".
        execution: such as "which token each position gets".
    """

    path: str
    execution: str


class Generator(LightningModule, ABC, Generic[Conditions, Samples]):
    """A text-to-image model whose sampling loop takes all randomness from a `Sampler`.

    Subclasses implement weight lookup and loading, prompt encoding, the sampling loop and decoding. The base class is
    independent of the family; a subclass describes itself by its class attributes.

    Attributes:
        family: identifier of the family in fingerprints and run folders.
        title: name of the family as its authors write it.
        chance: descriptions of the family's random decisions.
        codebook_size: number of codebook entries K. 0 for models without tokens, and until `locate` has read it from
            the checkpoint's configuration.
        batch_size: number of rows (images) sampled together.
        pads_batches: pad every micro-batch to `batch_size` rows. In half precision the logits of a row, and with them
            many tokens, can depend on the number of rows. In float32 only their last digits do: a sample depends on its
            batch only if a uniform is on the boundary between two tokens, and then only on some machines.
        has_likelihood: whether `score_tokens` is implemented.
        is_toy: the weights, and therefore all numbers, are those of a toy model.
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
        """Find all weight files without loading them; ValueError if one is missing or does not match the settings."""

    @abstractmethod
    def identity(self) -> dict[str, object]:
        """Everything that can change a number (weight hashes, sampling settings, dtype), for the run's fingerprint."""

    @abstractmethod
    def check_prompts(self, texts: Sequence[str]) -> list[str]:
        """Warnings about texts, such as truncation; ValueError if one is not a valid prompt. Loads no weights."""

    @abstractmethod
    def text_lengths(self, texts: Sequence[str]) -> TextLengths | None:
        """Lengths in tokens of the text encoder; None if prompts are not captions. Loads no weights."""

    def describe(self) -> dict[str, Any]:
        """Description of the generator, for tables and figures; `size` is empty if the family has a single size."""
        return {
            "family": self.family,
            "title": self.title,
            "size": self.size_name(),
            "is_toy": self.is_toy,
            "chance": self.chance._asdict(),
        }

    def size_name(self) -> str:
        """Name of the model size, such as "XL"; empty if the family has a single size."""
        return ""

    # --- weights ---

    @abstractmethod
    def load(self) -> None:
        """Load the weights."""

    # --- prompts to images ---

    @abstractmethod
    def make_sampler(self, path: Noise, execution: Noise) -> Sampler:
        """A sampler with the generator's settings, before probes are applied."""

    @abstractmethod
    def encode_prompts(self, texts: Sequence[str]) -> Conditions:
        """Encode texts into conditions of B rows; null conditions for guidance are included or derived later."""

    @abstractmethod
    def run_loop(self, conditions: Conditions, sampler: Any) -> Samples:
        """Run the sampling loop over B rows, with all randomness from `sampler`."""

    @abstractmethod
    def decode(self, samples: Samples) -> Tensor:
        """Decode samples of B rows into images (B, 3, H, W) uint8."""

    def branches(self, sampler: Sampler, step: int) -> Branches | None:
        """Return the groups of rows that the network may run once at a step of the loop, or None in half precision.

        In half precision the result of a row depends on the number of rows, so samples would depend on their batch.
        """
        return None if self.pads_batches else branches_at(sampler, step)

    def sampler(self, seed: int, keys: Sequence[NoiseKey], probes: Sequence[Probe] = ()) -> Any:
        """The sampler for rows with these noise keys, with probes applied."""
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
        """Sample prompts on the generator's device (move it with `generator.to("cuda")`); weights must be loaded.

        A sample equals that of `gendiv predict` for the same settings, seed, prompt id and sample number. The id of a
        text is that of the same text in a prompt file with the name `prompt_set`, by default `prompts.txt`.

        Args:
            prompts: texts, or `Prompt`s with their own ids and paraphrases (see `gendiv_lightning.read_prompts`).
            num_samples: images per prompt.
            seed: root seed of all noise.
            probes: probes and designs, in any order.
            recorders: recorders of the loop, such as `TokenMarginals` for the metric `token_entropy`.
            prompt_set: name of the prompt set that the texts belong to.

        Returns:
            The samples, in the order of the prompts.

        Raises:
            ValueError: a prompt or the number of samples is invalid, probes conflict with each other or the generator,
                or a prompt has too few paraphrases.
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
            batch: whole prompts with the noise keys of their samples.
            probes: probes to apply to the sampler.
            recorders: recorder classes.
            observers: called with every draw.
            progress: called with the number of rows sampled since the last call.
        """
        texts, parts, images = batch.texts, [], []
        recordable = cast(Recordable, self)  # token recorders apply to token generators only
        recordings = [recorder(recordable, batch) for recorder in recorders if recorder.applies(recordable, batch)]
        for start in range(0, len(texts), self.batch_size):
            rows = list(range(start, min(start + self.batch_size, len(texts))))
            num_padded = self.batch_size - len(rows) if self.pads_batches else 0
            filled = rows + rows[-1:] * num_padded
            loop_observers: list[Observer | None] = [recording.begin(rows, num_padded) for recording in recordings]
            sampler = replace(
                self.sampler(batch.seed, [batch.keys[row] for row in filled], probes),
                observers=(*observers, *(observer for observer in loop_observers if observer is not None)),
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
        """Call `sample` with the probes and observers among the trainer's callbacks and the requested recorders."""
        callbacks = self.trainer.callbacks  # type: ignore[attr-defined]
        recorders = dict.fromkeys(recorder for callback in callbacks for recorder in getattr(callback, "recorders", ()))
        observers = [callback for callback in callbacks if isinstance(callback, Observer)]
        return self.sample(batch, self._probes(), list(recorders), observers)

    def setup(self, stage: str) -> None:
        """Check probes and find the weights before any expensive work.

        Raises:
            ValueError: a weight file is missing, probes conflict, or the trainer's precision would cast the tokenizer.
        """
        check_device(self.trainer.strategy.root_device)
        check_precision(self.trainer)
        self.check_probes(self._probes())
        self.locate()

    def _probes(self) -> list[Probe]:
        return [callback for callback in self.trainer.callbacks if isinstance(callback, Probe)]  # type: ignore[attr-defined]

    def check_probes(self, probes: Sequence[Probe]) -> None:
        """Raise ValueError if a probe does not fit this generator or probes conflict. Loads no weights."""
        if isinstance(self, TokenGenerator) and not self.codebook_size:
            self.locate()  # reads the codebook size from the checkpoint's configuration
        if self.codebook_size:  # without a codebook, `sampler` refuses the probes that need one
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


def check_precision(trainer: Trainer) -> None:
    """Raise ConfigValueError if a trainer would cast the tokenizer."""
    if trainer.precision != "32-true":
        raise ConfigValueError(
            f"trainer.precision must be 32-true, got {trainer.precision}. Set --model.dtype instead, which keeps the "
            "tokenizer in float32"
        )


def check_device(device: torch.device) -> None:
    """Raise ValueError for a device without float64."""
    if device.type == "mps":
        raise ConfigValueError(
            "device mps does not support float64, which noise and distributions require. Use the CPU: "
            '--trainer.accelerator cpu, or generator.to("cpu")'
        )


class TokenGenerator(Generator[Conditions, TokenSamples]):
    """A generator whose images are tokens from a codebook.

    Args:
        codebook_size: number of codebook entries K; 0 if `locate` reads it from the checkpoint.
        grid: (h, w) tokens per image; (0, 0) if `locate` reads it.
        guidance_scale: scale of classifier-free guidance; values of at most 1 turn it off.
        temperature: divides the logits.
        top_k: number of most probable tokens to keep; 0 keeps all.
        top_p: nucleus threshold; 1 keeps all.
        dtype: dtype of the networks; an image tokenizer stays in float32.
        batch_size: number of rows (images) sampled together.

    Attributes:
        rewrites_tokens: the loop may draw a token more than once; the last draw counts.
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
        """The generator's temperature, top_k, top_p and guidance, as fields of `TokenSampler`."""
        return {
            "temperature": self.temperature,
            "top_k": self.top_k or None,
            "top_p": self.top_p,
            "guidance": self.guidance_scale,
        }

    def make_sampler(self, path: Noise, execution: Noise) -> TokenSampler:
        """A sampler with the generator's settings."""
        return TokenSampler(path, execution, self.codebook_size, **self.settings())

    @abstractmethod
    def sample_tokens(self, conditions: Conditions, sampler: TokenSampler) -> TokenSamples:
        """Run the sampling loop for B rows of tokens, with all randomness from `sampler`."""

    def score_tokens(self, conditions: Conditions, tokens: Tensor, sampler: TokenSampler) -> Tensor:
        """Log2-probability (B, L) of given tokens (B, L) in the loop, each given the tokens before it."""
        raise NotImplementedError(f"{type(self).__name__} has no likelihood of token sequences")

    @abstractmethod
    def decode_tokens(self, tokens: Tensor) -> Tensor:
        """Decode tokens (B, L) into images (B, 3, H, W) uint8."""

    @abstractmethod
    def encode_images(self, images: Tensor) -> Tensor:
        """Encode images (B, 3, H, W) uint8 into tokens (B, L) with the generator's tokenizer."""

    @override
    def run_loop(self, conditions: Conditions, sampler: TokenSampler) -> TokenSamples:
        return self.sample_tokens(conditions, sampler)

    @override
    def decode(self, samples: TokenSamples) -> Tensor:
        return self.decode_tokens(samples.tokens)

    @property
    def image_side(self) -> int | None:
        """Height and width in pixels of the images that `encode_images` takes, once located; None if it takes any."""
        return None

    def validation_step(self, batch: ImageBatch, batch_idx: int = 0) -> dict[str, Tensor]:
        """Tokens (B, L) of a batch of images, under the key "tokens"."""
        with torch.inference_mode():
            return {"tokens": self.encode_images(batch.images)}
