"""Cached text encodings: equal to computed ones, one row per text, and separate for each text encoder."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_pipelines
import torch
from safetensors.torch import load_file, save_file

from gendiv_lightning.generators.diffusers_pipeline import DiffusersPipeline
from gendiv_lightning.generators.text_encodings import _from_disk, _pack, _unpack, remembered_encodings
from gendiv_lightning.records import NoiseKey, Prompt, PromptBatch
from gendiv_lightning.storage.feature_cache import FeatureCache

pytestmark = pytest.mark.filterwarnings("ignore")  # deprecations in diffusers and transformers


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(equal, one, other))
    return one is other


ROW, OTHER = torch.randn(1, 7, 4), torch.randn(1, 7, 4)
ENCODINGS = {
    "tensor": ROW.repeat(3, 1, 1),
    "pair with None": (ROW.repeat(3, 1, 1).bfloat16(), None),
    "mask": (ROW.repeat(3, 1, 1), torch.ones(3, 7, dtype=torch.bool), torch.zeros(7, 3)),
    "ragged lists": ([torch.ones(5, 2)] * 3, [torch.zeros(4, 2)] * 3),
    "rows that differ": torch.randn(3, 7, 4),
    "one row that is not repeated": (ROW.repeat(3, 1, 1), OTHER),
    "number": torch.tensor(2.0),
}


@pytest.mark.parametrize("num_rows", [1, 3])
@pytest.mark.parametrize("name", ENCODINGS)
def test_an_encoding_survives_the_cache_unchanged(name: str, num_rows: int) -> None:
    assert equal(_unpack(_pack(ENCODINGS[name], num_rows), num_rows, "cpu"), ENCODINGS[name])


def test_equal_rows_are_stored_once() -> None:
    wide = torch.randn(1, 77, 64)
    sizes = [len(_pack((wide.repeat(n, 1, 1), None), n)) for n in (1, 8)]
    assert sizes[1] - sizes[0] < 100


def test_an_encoding_of_another_type_is_computed_each_time() -> None:
    calls: list[int] = []
    cache = FeatureCache("test", "another kind")
    for _ in range(2):
        assert _from_disk(cache, "a", 1, "cpu", lambda: calls.append(1) or {"text": ROW})["text"] is ROW
    assert len(calls) == 2


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return tiny_pipelines.build("StableDiffusionXLPipeline", tmp_path)


def sample(checkpoint: Path) -> tuple[torch.Tensor, int]:
    """Latents of four samples of a newly loaded generator, and the number of calls of its text encoder."""
    generator = DiffusersPipeline(str(checkpoint), num_steps=2, image_size=32, guidance_scale=3.0, batch_size=2)
    generator.load()
    calls: list[int] = []
    generator.pipeline.text_encoder.register_forward_hook(lambda *_: calls.append(1))
    keys = tuple(NoiseKey("a", 0, number, number) for number in range(4))
    batch = PromptBatch(0, (Prompt("a", "red sky"),), (0,), keys, (0,) * 4)
    return generator.sample(batch).samples.latents, len(calls)


def test_a_later_run_reads_the_encodings_of_the_first(checkpoint: Path) -> None:
    first, num_first = sample(checkpoint)
    again, num_again = sample(checkpoint)
    assert torch.equal(first, again)
    assert num_first > 0
    assert num_again == 0


def test_a_setting_of_the_pipeline_is_in_the_key_of_its_encodings_and_in_the_fingerprint(checkpoint: Path) -> None:
    first, _ = sample(checkpoint)
    path = checkpoint / "model_index.json"
    index = json.loads(path.read_text())
    by_default = DiffusersPipeline(str(checkpoint))
    by_default.locate()
    assert index["force_zeros_for_empty_prompt"] is True
    assert "pipeline_settings" not in by_default.identity()
    path.write_text(json.dumps({**index, "force_zeros_for_empty_prompt": False}))
    changed = DiffusersPipeline(str(checkpoint))
    changed.locate()
    assert changed.identity() == {
        **by_default.identity(),
        "pipeline_settings": {"force_zeros_for_empty_prompt": False},
    }
    other, num_calls = sample(checkpoint)
    assert num_calls > 0
    assert not torch.equal(first, other)


def test_another_text_encoder_computes_its_encodings(checkpoint: Path) -> None:
    first, _ = sample(checkpoint)
    (path,) = (checkpoint / "text_encoder").glob("*.safetensors")
    save_file({name: 1.5 * tensor for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})
    other, num_calls = sample(checkpoint)
    assert num_calls > 0
    assert not torch.equal(first, other)


def key_of(checkpoint: Path, **settings: Any) -> str:
    generator = DiffusersPipeline(str(checkpoint), **settings)
    generator.locate()
    return generator._name_of_encoders()


def test_the_key_contains_the_class_the_dtype_and_the_width_that_the_denoiser_expects(checkpoint: Path) -> None:
    """Stable Diffusion 3 without T5 fills in zeros of this width, which no text encoder determines."""
    keys = [
        key_of(checkpoint),
        key_of(checkpoint, dtype="bfloat16"),
        key_of(checkpoint, pipeline="StableDiffusionXLPAGPipeline"),
    ]
    path = checkpoint / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "cross_attention_dim": 99}))
    assert len({*keys, key_of(checkpoint)}) == 4
    assert key_of(checkpoint, num_steps=7, scheduler="EulerDiscreteScheduler") == key_of(checkpoint)


class Encoder:
    """A pipeline that encodes a text as rows of its length."""

    _execution_device = torch.device("cpu")

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def encode_prompt(
        self, prompt: str, num_images_per_prompt: int = 1, device: Any = None, more: Any = None
    ) -> torch.Tensor:
        self.calls.append(more)
        return torch.full((num_images_per_prompt, 2), float(len(prompt)))


def encode(pipeline: Encoder, cache: FeatureCache, *args: Any, **kwargs: Any) -> torch.Tensor:
    with remembered_encodings(pipeline, {}, cache):
        return pipeline.encode_prompt(*args, **kwargs)


def test_numbers_of_rows_and_devices_have_their_own_entries() -> None:
    cache = FeatureCache("test", "rows")
    for _ in range(2):  # the second time from the cache
        for num_rows in (1, 2, 3):
            assert encode(Encoder(), cache, "sky", num_rows).shape == (num_rows, 2)
    read, elsewhere = Encoder(), Encoder()
    elsewhere._execution_device = torch.device("meta")
    for pipeline in (read, elsewhere):
        encode(pipeline, cache, "sky", 2)
    assert (len(read.calls), len(elsewhere.calls)) == (0, 1)


def test_arguments_that_their_representation_does_not_determine_are_encoded_each_time() -> None:
    pipeline, cache = Encoder(), FeatureCache("test", "objects")
    long = [torch.zeros(2000), torch.zeros(2000)]
    long[1][1000] = 1
    assert repr(long[0]) == repr(long[1])
    for more in (*long, [long[0]], [long[1]], {"image": object()}, ["plain", 1.5], ["plain", 1.5]):
        encode(pipeline, cache, "sky", more=more)
    assert len(pipeline.calls) == 6
