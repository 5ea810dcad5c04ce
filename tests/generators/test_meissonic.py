"""Meissonic: one network call per step, the negative prompt of guidance, and settings."""

import json

import pytest
import torch

from gendiv_lightning.callbacks import Argmax, FreezePath
from gendiv_lightning.generators import Meissonic
from gendiv_lightning.generators.meissonic.transformer import MeissonicConfig, MeissonicTransformer, rotary_table

TEXTS = ("red sky", "black tree left")
SIZES = {
    "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2,
    "joint_attention_dim": 8, "pooled_projection_dim": 32, "axes_dims_rope": [4, 6, 6],
}  # fmt: skip


@pytest.fixture(scope="module")
def generator(make_meissonic):
    generator = make_meissonic()
    generator.load()
    return generator


def test_the_network_is_called_once_per_step_with_the_remaining_steps(generator, make_batch, monkeypatch):
    times, forward = [], generator.transformer.forward
    monkeypatch.setattr(
        generator.transformer, "forward", lambda tokens, time, *rest: times.append(time) or forward(tokens, time, *rest)
    )
    generator.sample(make_batch(*TEXTS))
    assert times == [4, 3, 2, 1, 0]


def test_the_negative_prompt_is_the_unconditional_input_of_guidance(generator, make_meissonic, make_batch):
    batch, probes = make_batch(*TEXTS), [Argmax(), FreezePath()]
    other = make_meissonic(negative_prompt="green hill")
    other.load()
    tokens = [g.sample(batch, probes).samples.tokens for g in (generator, other)]
    assert not torch.equal(*tokens)
    identities = [g.identity() for g in (generator, other)]
    assert identities[0] != identities[1]
    off = [make_meissonic(negative_prompt=text, guidance_scale=1.0) for text in ("", "green hill")]
    for g in off:
        g.load()
    assert torch.equal(*(g.sample(batch, probes).samples.tokens for g in off))


def test_captions_have_no_rotary_embedding_and_cells_use_row_and_column():
    cos, sin = rotary_table(3, 2, (4, 6, 6))
    assert cos.shape == sin.shape == (11, 16)
    assert (cos[:3] == 1).all()  # two captions and the first cell
    assert (sin[:3] == 0).all()
    first = torch.tensor([1.0, 2.0])
    torch.testing.assert_close(sin[3:5, 10], first.sin())  # the second and third cell of the first row: columns
    torch.testing.assert_close(sin[[5, 8], 4], first.sin())  # the first cells of the rows below
    assert (sin[:, :4] == 0).all()


@pytest.mark.parametrize("resized", [True, False])
def test_logits_are_on_the_grid_of_the_tokens(resized):
    config = MeissonicConfig(**SIZES, vocab_size=12, codebook_size=10, downsample=resized, upsample=resized)
    with torch.inference_mode():
        logits = MeissonicTransformer(config)(
            torch.zeros(2, 4, 4, dtype=torch.long), 3, torch.zeros(2, 5, 8), torch.zeros(2, 32), torch.zeros(2, 5)
        )
    assert logits.shape == (2, 10, 4, 4)


# --- settings ---


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pooled_projection_dim": 16}, "pooled_projection_dim must be 32.*16"),
        ({"axes_dims_rope": [4, 4, 4]}, "axes_dims_rope.*16"),
        ({"downsample": True}, "downsample and upsample"),
        ({"guidance_embeds": True}, "guidance_embeds"),
        ({"num_layers": None}, "num_layers"),
    ],
)
def test_invalid_sizes_are_an_error(change, words):
    values = {key: value for key, value in {**SIZES, **change}.items() if value is not None}
    with pytest.raises(ValueError, match=words):
        MeissonicConfig.of(values)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"image_size": 1000}, "image_size must be a multiple of 32, got 1000"),
        ({"image_size": 512, "size": "meissonic-1024"}, "image_size must be 1024 for meissonic-1024, got 512"),
        ({"num_steps": 0}, "num_steps"),
    ],
)
def test_invalid_settings_are_an_error(settings, words):
    with pytest.raises(ValueError, match=words):
        Meissonic(**settings)


def test_the_released_size_is_known_without_a_checkpoint():
    generator = Meissonic(size="meissonic-1024")
    assert (generator.codebook_size, generator.grid) == (8192, (64, 64))


def test_a_mask_token_of_another_codebook_is_an_error(make_meissonic, tmp_path):
    generator = make_meissonic()
    folder = generator.folder.path
    for part in folder.iterdir():
        (tmp_path / part.name).symlink_to(part.resolve())
    (tmp_path / "scheduler").unlink()
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps({"mask_token_id": 9000}))
    with pytest.raises(ValueError, match=r"mask token 9000.*256.*264"):
        make_meissonic(checkpoint=str(tmp_path)).locate()
