"""`DiffusersPipeline`: any text-to-image pipeline of diffusers. Path: initial noise; execution: scheduler noise.

The pipeline runs unchanged, from the text encoders to the decoder. Only its random draws are replaced by normals that
are keyed by sample (see `keyed_pipeline`).
"""

from __future__ import annotations

import inspect
import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import Tensor

from gendiv_lightning.errors import (
    ConfigKeyError,
    ConfigValueError,
    GendivError,
    OptionConflictError,
    PackageError,
    PipelineError,
    ProbeError,
    UnknownNameError,
    WrongWeightsError,
)
from gendiv_lightning.functional.finite import LATENTS, PIXELS, check_finite
from gendiv_lightning.generators.base import Chance, Generator, Precision
from gendiv_lightning.generators.keyed_pipeline import draws_step_noise, keyed_noise
from gendiv_lightning.generators.text_encodings import FORMAT, remembered_encodings
from gendiv_lightning.records import LatentSamples, NoiseKey
from gendiv_lightning.sampling import LatentSampler, Noise, Probe
from gendiv_lightning.storage.feature_cache import FeatureCache
from gendiv_lightning.storage.named_files import expand
from gendiv_lightning.text.lengths import TextLengths
from gendiv_lightning.weights.hash import sha256
from gendiv_lightning.weights.load import DTYPES
from gendiv_lightning.weights.resolve import MissingWeightsError

# Components that only filter or describe images.
_LEFT_OUT = ("safety_checker", "feature_extractor", "image_encoder")
_DENOISERS = ("unet", "transformer", "decoder")
_NO_ENCODERS = ("unet", "transformer", "vae")
_SET_ELSEWHERE = {
    "prompt": "the prompt set",
    "num_inference_steps": "num_steps",
    "guidance_scale": "guidance_scale",
    "true_cfg_scale": "guidance_scale",
    "height": "image_size",
    "width": "image_size",
    "generator": "the keyed noise",
    "latents": "the keyed noise",
    "num_images_per_prompt": "batch_size",
    "output_type": "gendiv",
    "return_dict": "gendiv",
    "callback": "gendiv",
    "callback_on_step_end": "gendiv",
}


class DiffusersPipeline(Generator[list[str], LatentSamples]):
    """A text-to-image pipeline of diffusers, from a local folder or the Hugging Face Hub. Safetensors only.

    Args:
        checkpoint: a folder with a `model_index.json`, `OWNER/REPO` on the Hub, or `toy:FOLDER`.
        pipeline: a pipeline class of diffusers; None uses the class that the checkpoint names.
        scheduler: a scheduler class of diffusers, configured like the checkpoint's; None uses the checkpoint's class.
        scheduler_args: scheduler settings that override the checkpoint's.
        num_steps: number of sampling steps; None uses the default of the pipeline.
        guidance_scale: scale of classifier-free guidance; None for models without guidance, such as distilled ones.
        image_size: pixels per side, or (height, width); None uses the default of the pipeline.
        call_args: additional arguments of the pipeline's call, such as `eta` or `negative_prompt`.
        dtype: dtype of all networks.
        offload: keep idle networks ("model") or layers ("sequential") on the CPU, which is slower.
        batch_size: number of images of one text sampled together.
    """

    family = "diffusers"
    title = "diffusers"
    chance = Chance("the initial noise", "the noise that the scheduler adds at each step")

    def __init__(
        self,
        checkpoint: str,
        pipeline: str | None = None,
        scheduler: str | None = None,
        scheduler_args: dict[str, Any] | None = None,
        num_steps: int | None = None,
        guidance_scale: float | None = None,
        image_size: int | tuple[int, int] | None = None,
        call_args: dict[str, Any] | None = None,
        dtype: Precision = "float32",
        offload: Literal["none", "model", "sequential"] = "none",
        batch_size: int = 8,
    ) -> None:
        scale = 1.0 if guidance_scale is None else guidance_scale
        super().__init__(guidance_scale=scale, dtype=dtype, batch_size=batch_size)
        if num_steps is not None and num_steps < 1:
            raise ConfigValueError(f"num_steps must be at least 1, got {num_steps}. Set the number of sampling steps")
        self.checkpoint, self.pipeline_name, self.num_steps, self.offload = checkpoint, pipeline, num_steps, offload
        self.scheduler_name, self.scheduler_args = scheduler, scheduler_args or {}
        self.has_guidance, self.image_size = guidance_scale is not None, image_size
        self.call_args = call_args or {}
        if taken := [name for name in self.call_args if name in _SET_ELSEWHERE]:
            raise OptionConflictError(f"call_args must not contain {taken[0]}. It is set by {_SET_ELSEWHERE[taken[0]]}")
        check_call_values(self.call_args)
        self._folder: Path | None = None
        self._index: dict[str, Any] = {}
        self._pipeline: Any = None
        self._encodings: dict[str, Any] = {}
        self._encodings_on_disk: FeatureCache | None = None
        self.adds_noise = True

    # --- before anything is loaded ---

    @property
    def folder(self) -> Path:
        """The located checkpoint."""
        if self._folder is None:
            self.locate()
        assert self._folder is not None, "locate() sets the folder"
        return self._folder

    def locate(self) -> None:
        """Find or download the checkpoint, and check all settings against its configurations.

        Raises:
            ValueError: the pipeline has another task or a missing part; or the scheduler, an argument, the size or the
                guidance does not fit it.
        """
        folder = _find(self.checkpoint)
        self._index = _read_json(folder / "model_index.json")
        self._class = _pipeline_class(self.pipeline_name or self._index.get("_class_name"), folder)
        self._arguments = inspect.signature(self._class.__call__).parameters
        for part in self._model_parts():
            if not (folder / part).is_dir():
                raise MissingWeightsError(f"checkpoint: {folder} has no folder {part!r}. Download the checkpoint again")
            if not any((folder / part).glob("*.safetensors")):
                raise MissingWeightsError(
                    f"checkpoint: {folder / part} has no .safetensors file, the only supported format. Convert it first"
                )
        if self.offload != "none" and find_spec("accelerate") is None:
            raise PackageError("offload requires the package accelerate. Install it, or set offload to none")
        self._check_parts(folder)
        self._check_call(folder)
        self._scheduler = self._make_scheduler(folder)
        # Some schedulers change their configuration when their steps are set.
        self._scheduler_config = {k: v for k, v in self._scheduler.config.items() if not k.startswith("_")}
        self.adds_noise = draws_step_noise(self._scheduler, self._steps(), {**self._step_defaults(), **self.call_args})
        metadata = folder / "gendiv.json"
        self.is_toy = metadata.exists() and _read_json(metadata).get("toy") is True
        self._folder = folder

    def identity(self) -> dict[str, object]:
        """Weight hashes, the complete scheduler configuration and all settings of the call."""
        import diffusers

        parts = {part: sha256(self.folder / part) for part in [*self._model_parts(), *self._tokenizer_parts()]}
        return {
            "generator": self.family,
            "embedded": self.is_toy,
            "pipeline": self._class.__name__,
            "diffusers": diffusers.__version__,
            "dtype": self.dtype_name,
            "num_steps": self._steps(),
            "guidance": self.guidance_scale if self.has_guidance else None,
            "image_size": self.image_size,
            "call_args": self.call_args,
            "scheduler": {"class": type(self._scheduler).__name__, **self._scheduler_config},
            "execution_noise": self.adds_noise,
            **({"pipeline_settings": settings} if (settings := self._pipeline_settings()) else {}),
            **parts,
            **({"batch_size": self.batch_size} if self.pads_batches else {}),
        }

    def describe(self) -> dict[str, Any]:
        """Includes the name of the pipeline; an ODE sampler has no execution noise by construction."""
        title = self._class.__name__.removesuffix("Pipeline")
        chance = self.chance if self.adds_noise else Chance(self.chance.path, "")
        return {**super().describe(), "title": title, "chance": chance._asdict()}

    def check_prompts(self, texts: Sequence[str]) -> list[str]:
        """Warn about texts that every text encoder truncates."""
        lengths = self.text_lengths(texts)
        return lengths.warnings() if lengths else []

    def text_lengths(self, texts: Sequence[str]) -> TextLengths | None:
        """Lengths in tokens of the tokenizer with the longest context; None if the pipeline has no tokenizer."""
        from transformers import AutoTokenizer

        folder = self.folder
        tokenizers = [AutoTokenizer.from_pretrained(folder / part) for part in self._tokenizer_parts()]
        if not tokenizers:
            return None
        longest = max(tokenizers, key=lambda tokenizer: tokenizer.model_max_length)
        known = self._arguments.get("max_sequence_length")
        limits = [longest.model_max_length, self.call_args.get("max_sequence_length", known and known.default)]
        lengths = [len(ids) for ids in longest(list(texts), verbose=False)["input_ids"]] if texts else []
        return TextLengths(texts, lengths, min(int(limit) for limit in limits if isinstance(limit, int)))

    # --- weights ---

    def load(self) -> None:
        """Load all networks in `dtype`, without the safety checker, which would replace images by black ones."""
        folder = self.folder
        known = inspect.signature(self._class.__init__).parameters
        left_out: dict[str, Any] = {part: None for part in _LEFT_OUT if part in known}
        if "requires_safety_checker" in known:
            left_out["requires_safety_checker"] = False
        with warnings.catch_warnings(), _explained_loading(folder):
            # The argument was renamed; every supported version of diffusers accepts the old name.
            warnings.filterwarnings("ignore", "`torch_dtype` is deprecated", FutureWarning)
            pipeline = self._class.from_pretrained(
                folder,
                torch_dtype=DTYPES[self.dtype_name],
                use_safetensors=True,
                local_files_only=True,
                scheduler=self._scheduler,
                **left_out,
            )
        pipeline.set_progress_bar_config(disable=True)
        if self.offload == "model":
            pipeline.enable_model_cpu_offload()
        elif self.offload == "sequential":
            pipeline.enable_sequential_cpu_offload()
        self._pipeline = pipeline
        self._encodings.clear()
        self._encodings_on_disk = FeatureCache("text_encodings", self._name_of_encoders())

    def _name_of_encoders(self) -> str:
        """Cache key: everything that can change an encoding, except the arguments of `encode_prompt` and the device."""
        identity = self.identity()
        parts = [p for p in [*self._model_parts(), *self._tokenizer_parts()] if p not in _NO_ENCODERS]
        versions = [version(package) for package in ("torch", "transformers", "diffusers")]
        settings = [*((part, identity[part]) for part in parts), *self._pipeline_settings().items()]
        # Without one of its encoders, a pipeline fills in zeros of the width that its denoiser expects.
        sizes = [(part, _read_json(self.folder / part / "config.json")) for part in _NO_ENCODERS if part in identity]
        return json.dumps([FORMAT, self._class.__name__, self.dtype_name, *versions, *settings, *sizes])

    @property
    def pipeline(self) -> Any:
        """The pipeline, on the generator's device."""
        if self._pipeline is None:
            self.load()
        if self.offload == "none":
            self._pipeline.to(self.device)
        return self._pipeline

    # --- prompts to images ---

    def make_sampler(self, path: Noise, execution: Noise) -> LatentSampler:
        """A sampler that draws its noise on the CPU, regardless of the device of the networks."""
        return LatentSampler(path.to("cpu"), execution.to("cpu"), guidance=self.guidance_scale)

    def sampler(self, seed: int, keys: Sequence[NoiseKey], probes: Sequence[Probe] = ()) -> LatentSampler:
        """The sampler with probes applied; ValueError if a probe sets guidance and it would have no effect."""
        sets_guidance = any("guidance" in probe.sets for probe in probes)
        if not self.has_guidance and sets_guidance:
            raise ProbeError(
                f"the Guidance probe requires a pipeline with guidance, but model.guidance_scale of {self.checkpoint} "
                "is null. Remove the probe, or set model.guidance_scale if the model is not distilled"
            )
        sampler: LatentSampler = super().sampler(seed, keys, probes)
        if sets_guidance:
            if self._folder is None:
                self.locate()
            if self._lacks_negative_prompt(sampler.guidance):
                raise ProbeError(
                    f"the Guidance probe sets {sampler.guidance}, which would have no effect: guidance of "
                    f"{self.checkpoint} is a second pass with a negative prompt, but there is none. Set "
                    'model.call_args.negative_prompt (" " for an empty one), or remove the probe'
                )
        return sampler

    def encode_prompts(self, texts: Sequence[str]) -> list[str]:
        """The texts themselves; the pipeline encodes each of them once for all of its rows."""
        return list(texts)

    def run_loop(self, conditions: list[str], sampler: LatentSampler) -> LatentSamples:
        """Call the pipeline once per distinct text, for all rows of that text, padded as in `Generator.sample`."""
        latents: dict[int, Tensor] = {}
        images: dict[int, Tensor] = {}
        for text in dict.fromkeys(conditions):
            rows = [row for row, other in enumerate(conditions) if other == text]
            num_padded = self.batch_size - len(rows) if self.pads_batches else 0
            samples = self._call(text, sampler.take(rows + rows[-1:] * num_padded))
            for index, row in enumerate(rows):
                latents[row], images[row] = samples.latents[index], samples.images[index]
        order = range(len(conditions))
        return LatentSamples(torch.stack([latents[row] for row in order]), torch.stack([images[row] for row in order]))

    def _call(self, text: str, sampler: LatentSampler) -> LatentSamples:
        pipeline, num_rows = self.pipeline, len(sampler.path.keys)
        arguments = {**self.call(text, num_rows, sampler.guidance), **self.more_arguments(text, sampler)}
        encodings = remembered_encodings(pipeline, self._encodings, self._encodings_on_disk)
        with keyed_noise(pipeline, sampler, self.branches) as trace, encodings, _explained(pipeline):
            output = pipeline(**arguments)
        images: Any = getattr(output, "images", ())
        if trace.latents is None or len(trace.latents) != num_rows or len(images) != num_rows:
            raise PipelineError(
                f"{type(pipeline).__name__} was called for {num_rows} images of one prompt and returned "
                f"{len(images)}. gendiv requires one row of latents per image"
            )
        latents = check_finite(trace.latents, LATENTS)
        images = check_finite(images.float(), PIXELS)
        return LatentSamples(latents, (255 * images).round().clamp(0, 255).to(torch.uint8))

    def call(self, text: str, num_rows: int, guidance: float) -> dict[str, Any]:
        """Arguments of the pipeline's call for `num_rows` images of one text."""
        arguments: dict[str, Any] = {
            "prompt": text,
            "num_images_per_prompt": num_rows,
            "output_type": "pt",
            **self.call_args,
        }
        if self.num_steps is not None:
            arguments["num_inference_steps"] = self.num_steps
        if self.image_size is not None:
            arguments["height"], arguments["width"] = sides_of(self.image_size)
        if self._guidance_name is not None and (self.has_guidance or not self._guidance_is_input):
            # Distilled pipelines expect 0; values below 1 turn guidance off in every pipeline.
            arguments[self._guidance_name] = guidance if self.has_guidance else 0.0
        return arguments

    def more_arguments(self, text: str, sampler: LatentSampler) -> dict[str, Any]:
        """Arguments of the call that depend on noise; for pipelines with a stage before the diffusion."""
        return {}

    def decode(self, samples: LatentSamples) -> Tensor:
        """The images that the pipeline decoded at the end of its call."""
        return samples.images

    # --- checks ---

    def _model_parts(self) -> list[str]:
        return [name for name in self._parts() if not self._is_tokenizer(name) and name != "scheduler"]

    def _tokenizer_parts(self) -> list[str]:
        return [name for name in self._parts() if self._is_tokenizer(name)]

    def _is_tokenizer(self, part: str) -> bool:
        return "Tokenizer" in self._index[part][1] or "Processor" in self._index[part][1]

    def _parts(self) -> list[str]:
        return [name for name, (library, _) in self._listed().items() if library and name not in _LEFT_OUT]

    def _listed(self) -> dict[str, list[Any]]:
        """Library and class of each component in the index."""
        return {name: value for name, value in self._index.items() if isinstance(value, list) and len(value) == 2}

    def _pipeline_settings(self) -> dict[str, Any]:
        """Settings in the index, such as `force_zeros_for_empty_prompt`, that differ from the defaults of the class."""
        known = inspect.signature(self._class.__init__).parameters
        given = {name: value for name, value in self._index.items() if name in known and name not in self._listed()}
        given.pop("requires_safety_checker", None)  # never loaded
        return {name: value for name, value in given.items() if not _equal_as_json(value, known[name].default)}

    def _step_defaults(self) -> dict[str, Any]:
        """Arguments that the pipeline passes to the scheduler's step by default; the step itself has other defaults."""
        return {"eta": self._arguments["eta"].default} if "eta" in self._arguments else {}

    def _steps(self) -> int:
        return self.num_steps or int(self._arguments["num_inference_steps"].default)

    def _check_parts(self, folder: Path) -> None:
        known = inspect.signature(self._class.__init__).parameters.values()
        needed = [p.name for p in known if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
        optional = {"self", "scheduler", *_LEFT_OUT, *self._class._optional_components}
        if missing := [name for name in needed if name not in optional and name not in self._listed()]:
            raise PipelineError(
                f"pipeline: {self._class.__name__} needs {missing[0]}, which {folder} does not have. Use the class "
                f"that the checkpoint names, {self._index.get('_class_name')}, or download the checkpoint again"
            )

    def _check_call(self, folder: Path) -> None:
        names, title = set(self._arguments), self._class.__name__
        if unknown := sorted(self.call_args.keys() - names):
            raise ConfigKeyError(
                f"call_args: {title} has no argument {unknown[0]!r}. It takes {', '.join(sorted(names))}"
            )
        if self.image_size is not None:
            if not {"height", "width"} <= names:
                raise ConfigValueError(f"image_size: {title} takes no size. Set image_size to null")
            factor = _pixels_per_latent(folder)
            if wrong := [side for side in sides_of(self.image_size) if side < 1 or side % factor]:
                raise ConfigValueError(
                    f"image_size must be a multiple of {factor}, the scale of the checkpoint's autoencoder, got "
                    f"{wrong[0]}. Try {max(factor, round(wrong[0] / factor) * factor)}"
                )
        self._guidance_name, self._guidance_is_input = _guidance(names, folder)
        if self.has_guidance and self._guidance_name is None:
            raise ConfigValueError(
                f"guidance_scale: {title} has no guidance, got {self.guidance_scale}. Set guidance_scale to null"
            )
        if self._lacks_negative_prompt(self.guidance_scale):
            raise OptionConflictError(
                f"guidance_scale: this checkpoint of {title} has no guidance input, so guidance {self.guidance_scale} "
                "requires a second pass with a negative prompt, but there is none. Set guidance_scale to null, or set "
                'call_args.negative_prompt (" " for an empty one)'
            )

    def _lacks_negative_prompt(self, guidance: float) -> bool:
        """Whether the pipeline would ignore this guidance, because it has no negative prompt for a second pass."""
        return self._guidance_name == "true_cfg_scale" and guidance > 1 and not self.call_args.get("negative_prompt")

    def _make_scheduler(self, folder: Path) -> Any:
        import diffusers

        config = _read_json(folder / "scheduler" / "scheduler_config.json")
        name = self.scheduler_name or config.get("_class_name")
        scheduler_class: Any = getattr(diffusers, str(name), None)
        bases = (diffusers.SchedulerMixin, diffusers.ConfigMixin)
        if not (inspect.isclass(scheduler_class) and all(issubclass(scheduler_class, base) for base in bases)):
            raise UnknownNameError(
                f"scheduler: diffusers has no scheduler {name!r}. Choose a class such as DDIMScheduler"
            )
        parameters = inspect.signature(scheduler_class.__init__).parameters
        known = [parameter for parameter in parameters if parameter != "self"]
        if unknown := sorted(self.scheduler_args.keys() - set(known)):
            raise ConfigKeyError(f"scheduler_args: {name} has no argument {unknown[0]!r}. It takes {', '.join(known)}")
        scheduler: Any = scheduler_class
        try:
            return scheduler.from_config(config, **self.scheduler_args)
        except (AttributeError, ImportError, NotImplementedError, TypeError, ValueError) as error:
            raise PipelineError(
                f"scheduler: {name} cannot be made from the checkpoint's configuration ({error}). Choose another "
                "class, or add what is missing to scheduler_args"
            ) from error


def check_call_values(values: Any, name: str = "call_args") -> None:
    """Raise ConfigValueError for a number in `call_args` that is not finite, or an eta that is not in [0, 1]."""
    items = values.items() if isinstance(values, Mapping) else enumerate(values) if isinstance(values, list) else ()
    for key, value in items:
        check_call_values(value, f"{name}.{key}")
    if isinstance(values, float) and not math.isfinite(values):
        raise ConfigValueError(f"{name} must be a finite number, got {values}. Correct it, or remove it")
    if name == "call_args.eta" and not (isinstance(values, int | float) and 0 <= values <= 1):
        raise ConfigValueError(f"{name} must be in [0, 1], got {values}. 0 is an ODE, 1 is DDPM's noise")


@contextmanager
def _explained_loading(folder: Path) -> Iterator[None]:
    """Turn errors about weights, such as truncated files or other shapes, into one with the folder."""
    try:
        yield
    except (GendivError, torch.OutOfMemoryError):
        raise
    except (AttributeError, LookupError, OSError, RuntimeError, SafetensorError, TypeError, ValueError) as error:
        reason = next(iter(str(error).strip().splitlines()), "")
        raise WrongWeightsError(
            f"checkpoint: {folder} cannot be loaded ({type(error).__name__}: {reason}). Download it again, or check "
            "that its configurations and weights belong together"
        ) from error


@contextmanager
def _explained(pipeline: Any) -> Iterator[None]:
    """Turn errors inside a pipeline, for example about a scheduler that it cannot use, into one with its name."""
    try:
        yield
    except (GendivError, torch.OutOfMemoryError):
        raise
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        name, scheduler = type(pipeline).__name__, type(pipeline.scheduler).__name__
        raise PipelineError(
            f"{name} fails with these settings ({type(error).__name__}: {error}). Check model.call_args, and whether "
            f"{scheduler} belongs to this checkpoint"
        ) from error


def _find(checkpoint: str) -> Path:
    """The folder of a checkpoint; from the Hub, only the files that diffusers itself would download."""
    path = expand(checkpoint)
    if path.is_dir():
        return path
    if checkpoint.count("/") != 1 or checkpoint.startswith((".", "/", "~")):
        raise MissingWeightsError(
            f"checkpoint: there is no folder {checkpoint!r}. Pass a folder with a model_index.json, or OWNER/REPO on "
            "the Hugging Face Hub"
        )
    from diffusers import DiffusionPipeline

    try:
        return Path(DiffusionPipeline.download(checkpoint, use_safetensors=True))
    except (OSError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise MissingWeightsError(
            f"checkpoint: the Hub repository {checkpoint!r} is neither in the Hub's local cache nor could it be "
            f"downloaded ({reason}).\n  to get it:   hf download {checkpoint}\n  or, with a copy on this machine:   "
            "--model.checkpoint /path/to/folder"
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise WrongWeightsError(f"checkpoint: {path} cannot be read: {error}. Download the checkpoint again") from error
    if not isinstance(content, dict):
        raise WrongWeightsError(f"checkpoint: {path} must contain an object. Download the checkpoint again")
    return content


def _pipeline_class(name: Any, folder: Path) -> Any:
    import diffusers
    from diffusers.pipelines import auto_pipeline

    pipeline_class = getattr(diffusers, name, None) if isinstance(name, str) else None
    if not (inspect.isclass(pipeline_class) and issubclass(pipeline_class, diffusers.DiffusionPipeline)):
        raise UnknownNameError(
            f"pipeline: diffusers has no pipeline class {name!r}, which {folder} names. Custom code is not executed; "
            "choose a class of diffusers with model.pipeline"
        )
    text_to_image = set(auto_pipeline.AUTO_TEXT2IMAGE_PIPELINES_MAPPING.values())
    others = {
        *auto_pipeline.AUTO_IMAGE2IMAGE_PIPELINES_MAPPING.values(),
        *auto_pipeline.AUTO_INPAINT_PIPELINES_MAPPING.values(),
    }
    names = inspect.signature(pipeline_class.__call__).parameters
    is_other_task = pipeline_class in others and pipeline_class not in text_to_image
    if is_other_task or not makes_images(pipeline_class):
        raise PipelineError(
            f"pipeline: {name} is not a text-to-image pipeline. Choose one of the same family with model.pipeline"
        )
    if missing := [n for n in ("num_images_per_prompt", "num_inference_steps", "output_type") if n not in names]:
        raise PipelineError(
            f"pipeline: {name} takes no {missing[0]}, so gendiv cannot call it. Choose another pipeline"
        )
    return pipeline_class


def makes_images(pipeline_class: Any) -> bool:
    """Whether a pipeline makes images from a prompt: not videos, and not only the input of a second stage."""
    names = inspect.signature(pipeline_class.__call__).parameters
    parts = inspect.signature(pipeline_class.__init__).parameters
    is_video = "num_frames" in names or "video_length" in names
    return "prompt" in names and not is_video and any(part in parts for part in _DENOISERS)


def _equal_as_json(value: Any, default: Any) -> bool:
    """Whether a value read from JSON is that of a default, whose sequences can be tuples."""
    return json.dumps(value) == json.dumps(default, default=repr)


def sides_of(size: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width in pixels."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _pixels_per_latent(folder: Path) -> int:
    """Downscaling factor of the autoencoder; 1 if there is none or its configuration does not contain the factor."""
    path = folder / "vae" / "config.json"
    config = _read_json(path) if path.exists() else {}
    for name in ("block_out_channels", "encoder_block_out_channels"):
        if isinstance(config.get(name), list):
            return int(2 ** (len(config[name]) - 1))
    temporal = config.get("temperal_downsample")  # as diffusers spells it
    return int(2 ** len(temporal)) if isinstance(temporal, list) else 1


def _guidance(names: set[str], folder: Path) -> tuple[str | None, bool]:
    """Name of the guidance argument of the call, None if there is none; and whether guidance is a network input.

    Flux and Qwen-Image have two arguments: `true_cfg_scale` is classifier-free guidance, and `guidance_scale` is an
    input of networks that were distilled for it (`guidance_embeds`); other networks ignore it.
    """
    configs = [folder / part / "config.json" for part in ("transformer", "unet")]
    settings = [_read_json(path) for path in configs if path.exists()]
    is_input = any(config.get("guidance_embeds") or config.get("time_cond_proj_dim") for config in settings)
    if "true_cfg_scale" in names and not is_input:
        return "true_cfg_scale", False
    return ("guidance_scale" if "guidance_scale" in names else None), is_input
