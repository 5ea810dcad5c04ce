"""Janus and Janus-Pro (Chen et al. 2025, arXiv 2501.17811): autoregressive models over image tokens in raster order.

The language model has a separate embedding and head for image tokens.
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
    """Janus and Janus-Pro, text-to-image at 384 pixels: 576 tokens from a codebook of 16,384.

    Args:
        checkpoint: `deepseek-community/Janus-Pro-1B`, `deepseek-community/Janus-Pro-7B`, or a folder of that layout.
        dtype: dtype of the language model; the image tokenizer is always float32.
        guidance_scale: scale of classifier-free guidance (official: 5); 1 or less turns it off. The unconditional
            prompt has padding in place of all tokens of the prompt.
        temperature: divides the logits (official: 1).
        top_k: number of tokens to keep; 0 keeps all (official).
        top_p: probability mass to keep; 1 keeps all (official).
        decoding: "sequential" predicts one token per pass. "parallel" predicts a window of tokens, keeps those that are
            final if no logit is off by more than the tolerance of `sampling.parallel`, and gives the same tokens in
            fewer passes; float32 only. That tolerance was measured on LlamaGen's GPT-B on a CPU.
        window: number of tokens that a parallel pass predicts.
        batch_size: number of images sampled together. In float32 it affects speed and memory, not samples. In half
            precision it is part of the fingerprint of a run, since logits can depend on the number of rows.
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
        """Return the size in the name of the checkpoint, such as "Pro-1B"."""
        return self.checkpoint.rstrip("/").rpartition("/")[2].removeprefix("Janus-")

    def read_config(self, config: Any) -> None:
        """Read codebook size, grid and image size."""
        vq = config.vq_config
        self.codebook_size, self.grid = int(vq.num_embeddings), (int(vq.num_patches),) * 2
        self.pixels = self.grid[0] * 2 ** (len(vq.channel_multiplier) - 1)
        if self.pixels != config.vision_config.image_size:
            raise WrongWeightsError(
                f"checkpoint: images of {self.grid[0]} x {self.grid[0]} tokens have {self.pixels} pixels per side, but "
                f"vision_config.image_size is {config.vision_config.image_size}. Download the checkpoint again"
            )

    def prompt_ids(self, text: str) -> Ids:
        """Return the text as a user message, followed by the start of an image."""
        message = {"role": "user", "content": [{"type": "text", "text": text}]}
        prompt = self.processor.apply_chat_template([message], add_generation_prompt=True, tokenize=False)
        return tuple(self.processor(text=prompt, generation_mode="image", return_tensors="pt").input_ids[0].tolist())

    def null_ids(self, ids: Ids) -> Ids:
        """Replace every token except the starts of text and image by padding: only the length of the prompt matters."""
        tokenizer = self.processor.tokenizer
        kept = {tokenizer.bos_token_id, tokenizer.convert_tokens_to_ids(tokenizer.boi_token)}
        return tuple(token if token in kept else tokenizer.pad_token_id for token in ids)

    @property
    @override
    def network(self) -> Any:
        return self.model.model.language_model

    def embed(self, tokens: Tensor) -> Tensor:
        """Embed image tokens with their separate embedding."""
        return self.model.prepare_embeddings_for_image_generation(tokens)

    def head(self, states: Tensor) -> Tensor:
        """Return the logits of the separate head for image tokens."""
        return self.model.model.generation_head(states)

    def to_pixels(self, tokens: Tensor) -> Tensor:
        """Decode with the image tokenizer, whose output has channels last."""
        return self.model.decode_image_tokens(tokens).permute(0, 3, 1, 2)

    def to_tokens(self, image: Tensor) -> Tensor:
        """Encode with the image tokenizer, see `nearest_codes`."""
        return nearest_codes(self.model.model.vqmodel, image)


def nearest_codes(vq: Any, images: Tensor) -> Tensor:
    """Tokens (B, L) of images (B, 3, H, W) in [-1, 1] by cosine similarity, since the decoder normalises the codes.

    This agrees with the official tokenizer; `JanusVQVAE.encode` of transformers compares codes that are not normalised.
    """
    states = vq.quant_conv(vq.encoder(images)).flatten(2).transpose(1, 2)
    return (states @ normalize(vq.quantize.embedding.weight, dim=-1).T).argmax(-1)
