"""`Generator`: what a discrete-latent text-to-image model must be able to do, and the one predict step that uses it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor

from gendiv_lightning.recorders.marginals import MarginalSums
from gendiv_lightning.records import ImageBatch, NoiseKey, PromptBatch, SampleBatch, TokenSamples
from gendiv_lightning.sampling import Noise, Observer, Probe, TokenSampler, apply_probes
from gendiv_lightning.text.lengths import TextLengths


class Generator(LightningModule, ABC):
    """A generator is three methods on the way from prompts to images, one on the way back, and how it is loaded.

    Attributes:
        codebook_size: K, entries that a token can take.
        grid: (h, w) tokens of an image.
        batch_size: rows (images) that are sampled together.
        pads_batches: fill up every micro-batch to `batch_size` rows. In half precision a row's logits can depend on
            the number of rows, and with them many tokens. In float32 only their last digits do: a sample depends on its
            batch where a uniform falls on the very edge between two tokens, and there on some machines only.
        temperature: divides the logits.
        top_k: tokens kept; 0 keeps all.
        top_p: probability mass kept; 1 keeps all.
        guidance_scale: of classifier-free guidance; 1 and below is off.
        rewrites_tokens: a token may be drawn more than once in the loop; the last time counts.
        has_likelihood: `score_tokens` is there.
    """

    codebook_size: int
    grid: tuple[int, int]
    batch_size: int
    pads_batches: bool = False
    temperature: float
    top_k: int
    top_p: float
    guidance_scale: float
    rewrites_tokens: bool = False
    has_likelihood: bool = False

    @abstractmethod
    def locate(self) -> None:
        """Find all weight files; ValueError if one is missing or cannot be what the settings say. Loads nothing."""

    @abstractmethod
    def load(self) -> None:
        """Load the weights."""

    @abstractmethod
    def identity(self) -> dict[str, object]:
        """All that can change a number (hashes of weights, sampling settings, dtype), for the run's fingerprint."""

    @abstractmethod
    def check_prompts(self, texts: Sequence[str]) -> list[str]:
        """Warnings about wordings (such as being cut); ValueError if one cannot be a condition. Loads no weights."""

    @abstractmethod
    def text_lengths(self, texts: Sequence[str]) -> TextLengths | None:
        """Wordings in tokens of the text encoder; None where wordings are no captions. Loads no weights."""

    def settings(self) -> dict[str, Any]:
        """The generator's own temperature, top_k, top_p and guidance, as fields of `TokenSampler`."""
        return {
            "temperature": self.temperature,
            "top_k": self.top_k or None,
            "top_p": self.top_p,
            "guidance": self.guidance_scale,
        }

    @abstractmethod
    def encode_prompts(self, texts: Sequence[str]) -> Any:
        """Conditions of B rows, one text each, guidance's empty prompt included."""

    @abstractmethod
    def sample_tokens(self, conditions: Any, sampler: TokenSampler) -> TokenSamples:
        """The sampling loop: B rows of tokens. All chance comes from `sampler`."""

    def score_tokens(self, conditions: Any, tokens: Tensor, sampler: TokenSampler) -> Tensor:
        """Log2-probability (B, L) of given tokens (B, L), each given those before it, as the loop would draw them."""
        raise NotImplementedError(f"{type(self).__name__} has no likelihood of a sequence of tokens")

    @abstractmethod
    def decode_tokens(self, tokens: Tensor) -> Tensor:
        """Tokens (B, L) to images (B, 3, H, W) uint8."""

    @abstractmethod
    def encode_images(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) uint8 to tokens (B, L), by the generator's own tokenizer."""

    def sampler(self, seed: int, keys: Sequence[NoiseKey], probes: Sequence[Probe] = ()) -> TokenSampler:
        """The sampler of some rows, changed by probes."""
        path = Noise.of(seed, "path", [(k.prompt, k.paraphrase, k.path) for k in keys], self.device)
        execution = Noise.of(seed, "exec", [(k.prompt, k.paraphrase, k.sample) for k in keys], self.device)
        return apply_probes(TokenSampler(path, execution, self.codebook_size, **self.settings()), probes)

    @torch.inference_mode()
    def sample(
        self, batch: PromptBatch, probes: Sequence[Probe] = (), observers: tuple[Observer, ...] = ()
    ) -> SampleBatch:
        """Sample and decode all rows of a batch, `batch_size` at a time; the result is on the CPU."""
        texts, samples, images, scores = batch.texts, [], [], []
        marginals = None
        if batch.records_marginals:
            num_tokens = self.grid[0] * self.grid[1]
            marginals = MarginalSums(batch, num_tokens, self.codebook_size, self.rewrites_tokens)
            observers = (*observers, marginals)
        for start in range(0, len(texts), self.batch_size):
            rows = list(range(start, min(start + self.batch_size, len(texts))))
            filled = rows + rows[-1:] * (self.batch_size - len(rows) if self.pads_batches else 0)
            sampler = replace(
                self.sampler(batch.seed, [batch.keys[row] for row in filled], probes), observers=observers
            )
            if marginals:
                marginals.begin(rows, len(filled) - len(rows))
            part = self.sample_tokens(self.encode_prompts([texts[row] for row in filled]), sampler)
            if marginals:
                marginals.end()
            samples.append([x[: len(rows)].cpu() for x in part])
            images.append(self.decode_tokens(part.tokens[: len(rows)]).cpu())
            if batch.scores_wordings and self.has_likelihood:
                scores.append(self._score_wordings(batch, filled, part.tokens, sampler)[: len(rows)].cpu())
        return SampleBatch(
            batch,
            TokenSamples(*map(torch.cat, zip(*samples, strict=True))),
            torch.cat(images),
            marginals.results() if marginals else None,
            torch.cat(scores) if scores else None,
        )

    def _score_wordings(self, batch: PromptBatch, rows: list[int], tokens: Tensor, sampler: TokenSampler) -> Tensor:
        """Log2-probability (B, Q) of whole images under each wording of their prompts."""
        wordings = [sorted({k.paraphrase for k in batch.keys if k.prompt == prompt.id}) for prompt in batch.prompts]
        columns = []
        for number in range(len(wordings[0])):
            prompts = [batch.rows[row] for row in rows]
            conditions = self.encode_prompts([batch.prompts[p].wording(wordings[p][number]) for p in prompts])
            columns.append(self.score_tokens(conditions, tokens, sampler).sum(1))
        return torch.stack(columns, 1)

    def predict_step(self, batch: PromptBatch, batch_idx: int = 0) -> SampleBatch:
        """`sample`, under the probes and before the observers among the trainer's callbacks."""
        callbacks = self.trainer.callbacks  # type: ignore[attr-defined]
        observers = tuple(callback for callback in callbacks if isinstance(callback, Observer))
        return self.sample(batch, self._probes(), observers)

    def validation_step(self, batch: ImageBatch, batch_idx: int = 0) -> dict[str, Tensor]:
        """Tokens (B, L) of a batch of images, under the key "tokens"."""
        with torch.inference_mode():
            return {"tokens": self.encode_images(batch.images)}

    def setup(self, stage: str) -> None:
        """Find the weights before anything expensive happens.

        Raises:
            ValueError: a weight file is missing, probes contradict each other, or the trainer would cast the tokenizer.
        """
        if self.trainer.strategy.root_device.type == "mps":
            raise ValueError("noise and distributions need float64, which MPS has not: --trainer.accelerator cpu")
        if self.trainer.precision != "32-true":
            raise ValueError(
                f"trainer.precision must stay 32-true, got {self.trainer.precision}: the generator's own dtype "
                "(--model.dtype) casts what may be cast, and leaves the tokenizer in float32"
            )
        self.sampler(0, (), self._probes())
        self.locate()

    def _probes(self) -> list[Probe]:
        return [callback for callback in self.trainer.callbacks if isinstance(callback, Probe)]  # type: ignore[attr-defined]

    def configure_model(self) -> None:
        """Called by Lightning once callbacks and data have had their say: load the weights."""
        self.load()
