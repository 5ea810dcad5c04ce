"""Janus and Janus-Pro (Chen et al. 2025, arXiv 2501.17811): captions to raster-order tokens to images.

A language model with an embedding and a head of their own for image tokens.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor
from torch.nn.functional import normalize
from typing_extensions import override

from gendiv_lightning.errors import WrongWeightsError
from gendiv_lightning.generators.base import Precision
from gendiv_lightning.generators.transformers_tokens import Ids, TransformersTokens


class Janus(TransformersTokens):
    """Janus under probes, text-to-image at 384 pixels: 576 tokens from a codebook of 16,384.

    Args:
        checkpoint: `deepseek-community/Janus-Pro-1B` or `deepseek-community/Janus-Pro-7B`, or a folder of that layout.
        dtype: of the language model; the tokenizer of images is always float32.
        guidance_scale: classifier-free guidance; 1 and below is off (official: 5). Its other half is the prompt with
            all of its tokens padded.
        temperature: divides the logits (official: 1).
        top_k: tokens kept; 0 keeps all (official).
        top_p: probability mass kept; 1 keeps all (official).
        decoding: "sequential" predicts one token a pass; "parallel" predicts a window of them, keeps those that it can
            prove to be final, and gives the same tokens in fewer passes. float32 only.
        window: tokens that a parallel pass predicts.
        batch_size: images sampled together. In float32 it changes speed and memory, not samples; in half precision it
            is part of the run's fingerprint, since a row's logits can depend on the number of rows.
    """

    family, title = "janus", "Janus"
    model_class, config_class, processor_class = "JanusForConditionalGeneration", "JanusConfig", "JanusProcessor"

    def __init__(
        self,
        checkpoint: str = "deepseek-community/Janus-Pro-1B",
        dtype: Precision = "bfloat16",
        guidance_scale: float = 5.0,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        decoding: Literal["sequential", "parallel"] = "sequential",
        window: int = 16,
        batch_size: int = 16,
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

    def size_name(self) -> str:
        """By the name of the checkpoint, "Pro-1B"."""
        return self.checkpoint.rstrip("/").rpartition("/")[2].removeprefix("Janus-")

    def read_config(self, config: Any) -> None:
        """Codebook and grid."""
        vq = config.vq_config
        self.codebook_size, self.grid = int(vq.num_embeddings), (int(vq.num_patches),) * 2
        self.pixels = self.grid[0] * 2 ** (len(vq.channel_multiplier) - 1)
        if self.pixels != config.vision_config.image_size:
            raise WrongWeightsError(
                f"checkpoint: images of {self.grid[0]} x {self.grid[0]} tokens have {self.pixels} pixels per side, but "
                f"vision_config.image_size is {config.vision_config.image_size}. Download the checkpoint again"
            )

    def prompt_ids(self, text: str) -> Ids:
        """The text as a user's message, and the start of an image."""
        message = {"role": "user", "content": [{"type": "text", "text": text}]}
        prompt = self.processor.apply_chat_template([message], add_generation_prompt=True, tokenize=False)
        return tuple(self.processor(text=prompt, generation_mode="image", return_tensors="pt").input_ids[0].tolist())

    def null_ids(self, ids: Ids) -> Ids:
        """Padding in the place of every token but the starts of text and image: it depends on the length alone."""
        tokenizer = self.processor.tokenizer
        kept = {tokenizer.bos_token_id, tokenizer.convert_tokens_to_ids(tokenizer.boi_token)}
        return tuple(token if token in kept else tokenizer.pad_token_id for token in ids)

    @property
    @override
    def network(self) -> Any:
        return self.model.model.language_model

    def embed(self, tokens: Tensor) -> Tensor:
        """By an embedding of their own."""
        return self.model.prepare_embeddings_for_image_generation(tokens)

    def head(self, states: Tensor) -> Tensor:
        """By a head of their own."""
        return self.model.model.generation_head(states)

    def to_pixels(self, tokens: Tensor) -> Tensor:
        """`decode_image_tokens`, which puts channels last."""
        return self.model.decode_image_tokens(tokens).permute(0, 3, 1, 2)

    def to_tokens(self, image: Tensor) -> Tensor:
        """The nearest codes by direction, which is all that the decoder reads of a code.

        As in the official tokenizer; `encode` of transformers compares codes of other lengths than the decoder's.
        """
        vq = self.model.model.vqmodel
        states = vq.quant_conv(vq.encoder(image)).flatten(2).transpose(1, 2)
        return (states @ normalize(vq.quantize.embedding.weight, dim=-1).T).argmax(-1)
