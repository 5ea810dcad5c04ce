"""MyGenerator: an autoregressive transformer over image tokens, in raster order, as a plug-in of gendiv.

The network is transformers' GPT-2 at toy size with random weights, so it generates noise, but in the same way as a
trained model generates images. The first positions are the bytes of the prompt; each further position is an image
token, a square of one colour.
"""

import torch
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel

from gendiv_lightning import TokenGenerator
from gendiv_lightning.generators.base import Chance
from gendiv_lightning.sampling.autoregressive import sample_autoregressive

SIDE, PIXELS, NUM_COLOURS = 6, 8, 64  # tokens per side, pixels per token, codebook size: 4 shades of each channel
TEXT, BYTES = 32, 256  # positions of the prompt; bytes follow the image tokens in the vocabulary


class MyGenerator(TokenGenerator):
    """A tiny GPT-2 that paints with 64 colours.

    Args:
        seed: seed of the random weights.
        num_layers: number of layers of the transformer.
        temperature: divides the logits.
        guidance_scale: scale of classifier-free guidance; values of at most 1 turn it off.
        batch_size: number of images sampled together.
    """

    family, title = "my_generator", "My generator"
    chance = Chance(path="", execution="which token each position gets")
    has_likelihood = False

    def __init__(
        self,
        seed: int = 0,
        num_layers: int = 2,
        temperature: float = 1.0,
        guidance_scale: float = 1.5,
        batch_size: int = 16,
    ) -> None:
        super().__init__(
            codebook_size=NUM_COLOURS,
            grid=(SIDE, SIDE),
            temperature=temperature,
            guidance_scale=guidance_scale,
            batch_size=batch_size,
        )
        self.seed, self.num_layers = seed, num_layers

    def locate(self):
        """There are no files; a model with weights calls `gendiv_lightning.weights.resolve.resolve` here."""

    def identity(self):
        """Everything that can change a sample; a model with weights adds the hash of each file."""
        return {"generator": self.family, "seed": self.seed, "num_layers": self.num_layers, **self.settings()}

    def check_prompts(self, texts):
        """Warn about texts that are truncated."""
        cut = [text for text in texts if len(text.encode()) > TEXT]
        return (
            [f"{len(cut)} prompts are longer than {TEXT} bytes and are truncated; the first: {cut[0]!r}"] if cut else []
        )

    def text_lengths(self, texts):
        """None, because there is no text encoder."""

    def load(self):
        """Draw random weights, larger than usual so that samples vary and depend on the prompt."""
        config = GPT2Config(
            vocab_size=NUM_COLOURS + BYTES,
            n_positions=TEXT + SIDE**2,
            n_embd=48,
            n_layer=self.num_layers,
            n_head=3,
            initializer_range=0.3,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.network = GPT2LMHeadModel(config).eval()

    def encode_prompts(self, texts):
        """Byte ids (B, TEXT); texts are truncated or padded to a fixed length, so rows are independent."""
        rows = [[NUM_COLOURS + byte for byte in text.encode()[:TEXT].ljust(TEXT, b"\0")] for text in texts]
        return torch.tensor(rows, device=self.device)

    def sample_tokens(self, conditions, sampler):
        """Sample one token after another; under guidance an empty prompt is run as a second half of the rows."""
        num_rows, cache = len(conditions), DynamicCache()
        prompt = torch.cat([conditions, torch.full_like(conditions, NUM_COLOURS)]) if sampler.is_guided else conditions

        def predict(previous, step):
            """Guided logits (B, 1, K) from the tokens (B, 1) of the previous position."""
            ids = prompt if step == 0 else previous.repeat(len(prompt) // num_rows, 1)
            logits = self.network(ids, cache, use_cache=True).logits[:, -1:, :NUM_COLOURS]
            return sampler.guide(logits[:num_rows], logits[num_rows:]) if sampler.is_guided else logits

        return sample_autoregressive(predict, sampler, SIDE**2)

    def decode_tokens(self, tokens):
        """Decode tokens (B, L) into images (B, 3, H, W); each token is a square of its colour."""
        colours = torch.stack([tokens // 16, tokens // 4 % 4, tokens % 4], 1) * 85
        squares = colours.to(torch.uint8).unflatten(2, self.grid)
        return squares.repeat_interleave(PIXELS, 2).repeat_interleave(PIXELS, 3)

    def encode_images(self, images):
        """Encode images (B, 3, H, W) into tokens (B, L), the nearest colour of each square."""
        if tuple(images.shape[1:]) != (3, SIDE * PIXELS, SIDE * PIXELS):
            raise ValueError(f"images must be {SIDE * PIXELS} pixels per side, got {tuple(images.shape)}. Resize them")
        squares = images.float().unfold(2, PIXELS, PIXELS).unfold(3, PIXELS, PIXELS).mean((4, 5)).flatten(2)
        red, green, blue = (squares / 85).round().long().unbind(1)
        return 16 * red + 4 * green + blue
