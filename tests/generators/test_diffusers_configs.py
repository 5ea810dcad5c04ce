"""The configs of real models, compared with the pipelines they name, without weights."""

import inspect
from pathlib import Path

import diffusers
import pytest
import yaml

MODELS = Path(__file__).parents[2] / "configs" / "models"


def settings(path: Path) -> dict:
    return yaml.safe_load(path.read_text())


FILES = [
    path
    for path in sorted(MODELS.glob("*.yaml"))
    if settings(path)["class_path"].endswith(".DiffusersPipeline") and not path.stem.startswith("tiny")
]


def test_every_model_has_a_config() -> None:
    names = [
        "flux_schnell",
        "lcm",
        "pixart_sigma",
        "qwen_image",
        "sana",
        "sd15",
        "sd35_medium",
        "sdxl",
        "sdxl_turbo",
        "z_image",
    ]
    assert [path.stem for path in FILES] == names


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_pipeline_call_accepts_every_argument_of_the_config(path: Path) -> None:
    given = settings(path)["init_args"]
    pipeline = getattr(diffusers, given["pipeline"])
    names = inspect.signature(pipeline.__call__).parameters
    expected = {"prompt", "num_images_per_prompt", "num_inference_steps", "output_type", "height", "width"}
    assert expected | given.get("call_args", {}).keys() <= names.keys()
    guided = {"guidance_scale", "true_cfg_scale"} & names.keys()
    assert given["guidance_scale"] is None or guided


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_scheduler_accepts_every_argument_of_the_config(path: Path) -> None:
    given = settings(path)["init_args"]
    scheduler = getattr(diffusers, given.get("scheduler") or "FlowMatchEulerDiscreteScheduler")
    assert given.get("scheduler_args", {}).keys() <= inspect.signature(scheduler.__init__).parameters.keys()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_header_gives_licence_and_size_of_the_weights(path: Path) -> None:
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any(line.startswith("# Licence: ") for line in header)
    assert any(line.startswith("# Weights, from the Hub") and " GB " in line for line in header)
