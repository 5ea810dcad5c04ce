"""Emu3 (Wang et al. 2024, arXiv 2409.18869): an autoregressive model over image tokens in raster order with row ends.

Text and image tokens share one vocabulary.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from typing_extensions import override

from gendiv_lightning.errors import ConfigValueError, WrongWeightsError
from gendiv_lightning.generators.base import Precision
from gendiv_lightning.generators.transformers_tokens import Ids, TransformersTokens

NEGATIVE_PROMPT = (
    "lowres, bad anatomy, bad hands, text, error, missing fingers, extra digit, fewer digits, cropped, worst quality, "
    "low quality, normal quality, jpeg artifacts, signature, watermark, username, blurry."
)


class Emu3(TransformersTokens):
    """Emu3-Gen, text-to-image: at 720 pixels 8,100 tokens from a codebook of 32,768, and 90 row ends.

    Args:
        checkpoint: `BAAI/Emu3-Gen-hf`, or a folder of the same layout.
        image_size: image size in pixels per side (official: 720).
        suffix: text appended to every prompt (default: that of the official script).
        negative_prompt: unconditional prompt of guidance (default: that of the official script).
        dtype: dtype of the language model; the image tokenizer is always float32.
        guidance_scale: scale of classifier-free guidance (official: 3); 1 or less turns it off.
        temperature: divides the logits (official: 1).
        top_k: number of tokens to keep (official: 2048); 0 keeps all.
        top_p: probability mass to keep; 1 keeps all (official).
        decoding: "sequential" predicts one token per pass. "parallel" predicts a window of tokens, keeps those that are
            final if no logit is off by more than the tolerance of `sampling.parallel`, and gives the same tokens in
            fewer passes; float32 only. That tolerance was measured on LlamaGen's GPT-B on a CPU.
        window: number of tokens that a parallel pass predicts.
        batch_size: number of images sampled together. In float32 it affects speed and memory, not samples. In half
            precision it is part of the fingerprint of a run, since logits can depend on the number of rows.
    """

    entries: Tensor  # vocabulary entry of each codebook entry (K,)

    family, title = "emu3", "Emu3"
    model_class, config_class, processor_class = "Emu3ForConditionalGeneration", "Emu3Config", "Emu3Processor"

    def __init__(
        self,
        checkpoint: str = "BAAI/Emu3-Gen-hf",
        image_size: int = 720,
        suffix: str = " masterpiece, film grained, best quality.",
        negative_prompt: str = NEGATIVE_PROMPT,
        dtype: Precision = "bfloat16",
        guidance_scale: float = 3.0,
        temperature: float = 1.0,
        top_k: int = 2048,
        top_p: float = 1.0,
        decoding: Literal["sequential", "parallel"] = "sequential",
        window: int = 16,
        batch_size: int = 4,
    ) -> None:
        super().__init__(
            checkpoint=checkpoint,
            dtype=dtype,
            guidance_scale=guidance_scale,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            decoding=decoding,
            window=window,
            batch_size=batch_size,
        )
        self.pixels, self.suffix, self.negative_prompt = image_size, suffix, negative_prompt

    def read_config(self, config: Any) -> None:
        """Read codebook size, grid and row end."""
        vq, vocabulary = config.vq_config, config.vocabulary_map or {}
        per_token = 2 ** (len(vq.channel_multiplier) - 1)
        side, rest = divmod(self.pixels, per_token)
        if rest or side < 1:
            raise ConfigValueError(
                f"image_size must be a multiple of {per_token}, got {self.pixels}. The official size is 720"
            )
        num_visual = len({entry for name, entry in vocabulary.items() if name.startswith("<|visual token")})
        if num_visual != vq.codebook_size or "<|extra_200|>" not in vocabulary:
            raise WrongWeightsError(
                f"checkpoint: vocabulary_map must name {vq.codebook_size} visual tokens and the row end "
                f"<|extra_200|>, got {num_visual} different visual tokens. Download the checkpoint again"
            )
        self.codebook_size, self.grid = int(vq.codebook_size), (side, side)
        self.row_end = int(vocabulary["<|extra_200|>"])

    def identity(self) -> dict[str, object]:
        """Add image size, suffix and negative prompt."""
        return {
            **super().identity(),
            "image_size": self.pixels,
            "suffix": self.suffix,
            "negative_prompt": self.negative_prompt,
        }

    def load(self) -> None:
        """Load all networks and the vocabulary entries of the codebook."""
        super().load()
        self.register_buffer("entries", self.model.vocabulary_mapping.img2bpe_mapping_tensor.long(), persistent=False)

    def prompt_ids(self, text: str) -> Ids:
        """Return the text with its suffix, followed by the start and size of the image."""
        return self._ids(text + self.suffix)

    def null_ids(self, ids: Ids) -> Ids:
        """Return the negative prompt, the same for all prompts."""
        return self._ids(self.negative_prompt)

    def _ids(self, text: str) -> Ids:
        settings = {"return_for_image_generation": True, "ratio": "1:1", "image_area": self.pixels**2}
        return tuple(self.processor(text=[text], return_tensors="pt", **settings).input_ids[0].tolist())

    @property
    @override
    def network(self) -> Any:
        return self.model.model.text_model

    def embed(self, tokens: Tensor) -> Tensor:
        """Embed image tokens as vocabulary entries."""
        return self.model.get_input_embeddings()(self.entries[tokens])

    def head(self, states: Tensor) -> Tensor:
        """Return the logits of the vocabulary entries that are image tokens."""
        return self.model.lm_head(states)[..., self.entries]

    def to_pixels(self, tokens: Tensor) -> Tensor:
        """Decode with the image tokenizer."""
        return self.model.model.vqmodel.decode(tokens.unflatten(1, self.grid))

    def to_tokens(self, image: Tensor) -> Tensor:
        """Encode with the image tokenizer, by nearest codes."""
        return self.model.model.vqmodel.encode(image, torch.tensor([image.shape[2:]])).image_tokens[0]
