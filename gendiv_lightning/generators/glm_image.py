"""GLM-Image: an autoregressive plan of discrete tokens, and a diffusion decoder that generates the image from it.

The planner is a model of transformers, the pipeline one of diffusers. The pipeline would sample the plan with torch's
global generator, so the plan is sampled here with keyed noise and passed to the pipeline.
"""

from __future__ import annotations

import json
from typing import Any, Literal

import torch
from torch import Tensor

from gendiv_lightning.errors import ConfigValueError, WrongWeightsError
from gendiv_lightning.generators.base import Chance, Precision
from gendiv_lightning.generators.diffusers_pipeline import DiffusersPipeline, sides_of
from gendiv_lightning.sampling import Noise, TokenSampler, check_settings
from gendiv_lightning.sampling.latents import LatentSampler
from gendiv_lightning.sampling.planned import PlannedSampler
from gendiv_lightning.sampling.sampler import TokenGrid

PLANNER = "vision_language_encoder"
PIXELS_PER_TOKEN = 32  # of the plan at full size
UNKNOWN = {
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
}  # the defaults of transformers, for checkpoints without settings


class PlanDrawing:
    """Logits processor that samples the plan tokens, so that `generate` has a single choice.

    Args:
        sampler: samples the tokens of B plans.
        num_tokens: number of tokens per plan.
    """

    def __init__(self, sampler: TokenSampler, num_tokens: int) -> None:
        self.sampler, self.grid, self.step = sampler, TokenGrid(sampler, num_tokens), 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return scores (B, V) with one finite logit per row, that of the sampled codebook entry."""
        rows = torch.arange(len(scores), device=scores.device)
        logits = scores[:, : self.sampler.codebook_size]
        draw = self.sampler.draw_tokens(logits, self.step, rows, torch.full_like(rows, self.step))
        self.grid.write(draw)
        self.step += 1
        return torch.full_like(scores, -torch.inf).scatter(-1, draw.tokens[:, None], 0.0)


class GLMImage(DiffusersPipeline):
    """GLM-Image, text-to-image. The path has two parts: the plan, and the initial noise of the decoder.

    `FreezePath(part="plan")` leaves the diversity of the decoder, `FreezePath(part="decoder")` that of the plan.
    `Temperature`, `TopK` and `TopP` apply to the plan, `Guidance` to the decoder.

    Args:
        checkpoint: `zai-org/GLM-Image`, or a folder of the same layout.
        num_steps: number of decoder steps (official: 50).
        guidance_scale: scale of classifier-free guidance of the decoder (official: 1.5); 1 or less turns it off.
        image_size: pixels per side, a multiple of 32, or (height, width).
        temperature: divides the logits of plan tokens. None: the setting of the checkpoint.
        top_k: number of entries to keep per plan token; 0 keeps all. None: the setting of the checkpoint.
        top_p: probability mass to keep per plan token. None: the setting of the checkpoint.
        dtype: dtype of all networks.
        offload: keeps idle networks on the CPU ("model"), or every layer ("sequential"); slower.
        batch_size: number of images of one text sampled together.
    """

    family, title = "glm_image", "GLM-Image"
    chance = Chance("the plan's tokens and the decoder's initial noise", "the noise that the scheduler adds")

    def __init__(
        self,
        checkpoint: str = "zai-org/GLM-Image",
        num_steps: int = 50,
        guidance_scale: float = 1.5,
        image_size: int | tuple[int, int] = 1024,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        dtype: Precision = "bfloat16",
        offload: Literal["none", "model", "sequential"] = "none",
        batch_size: int = 4,
    ) -> None:
        super().__init__(
            checkpoint,
            pipeline="GlmImagePipeline",
            num_steps=num_steps,
            guidance_scale=guidance_scale,
            image_size=image_size,
            dtype=dtype,
            offload=offload,
            batch_size=batch_size,
        )
        if wrong := [side for side in sides_of(image_size) if side < 1 or side % PIXELS_PER_TOKEN]:
            raise ConfigValueError(
                f"image_size must be a multiple of {PIXELS_PER_TOKEN}, the size of a plan token, got {wrong[0]}. Try "
                f"{max(1, round(wrong[0] / PIXELS_PER_TOKEN)) * PIXELS_PER_TOKEN}"
            )
        self._processor: Any = None
        given: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        self._given = {name: value for name, value in given.items() if value is not None}
        check_settings(**self._given)

    def locate(self) -> None:
        """Find the checkpoint, and read codebook size, sampling settings and plan size of the planner."""
        super().locate()
        settings = json.loads((self.folder / PLANNER / "config.json").read_text())
        try:
            self.plan_size = int(settings["vq_config"]["num_embeddings"])
        except (KeyError, TypeError) as error:
            raise WrongWeightsError(
                f"checkpoint: {self.folder / PLANNER} is not the planner of GLM-Image: its configuration has no "
                "vq_config.num_embeddings. Download the checkpoint again"
            ) from error
        path = self.folder / PLANNER / "generation_config.json"
        official = json.loads(path.read_text()) if path.exists() else {}
        read = {name: official[name] for name in UNKNOWN if official.get(name) is not None}
        self.plan_settings: dict[str, Any] = {**UNKNOWN, **read, **self._given}
        try:
            check_settings(**self.plan_settings)
        except (ConfigValueError, TypeError) as error:
            raise WrongWeightsError(f"checkpoint: {path}: {error}. Set it in the config of the model") from error
        grids = self._plan_inputs("")["image_grid_thw"]
        self.num_planned = int(grids.prod(1).sum())

    def identity(self) -> dict[str, object]:
        """Add the settings of the plan and the library version of the planner."""
        import transformers

        return {**super().identity(), "plan": self.plan_settings, "transformers": transformers.__version__}

    def describe(self) -> dict[str, Any]:
        """Use the title of the family."""
        return {**super().describe(), "title": self.title}

    def make_sampler(self, path: Noise, execution: Noise) -> PlannedSampler:
        """Return a sampler whose path starts with the plan."""
        if self._folder is None:
            self.locate()
        return PlannedSampler(
            path.to("cpu"),
            execution.to("cpu"),
            self.num_planned,
            self.plan_size,
            guidance=self.guidance_scale,
            **self.plan_settings,
        )

    def more_arguments(self, text: str, sampler: LatentSampler) -> dict[str, Any]:
        """Return one plan per image; the pipeline would use the same plan for all images of a prompt."""
        assert isinstance(sampler, PlannedSampler), "make_sampler makes it"
        num_rows = len(sampler.path.keys)
        plan, (height, width) = self.draw_plan(text, sampler)
        # The last height x width tokens are the plan at full size; each one covers 2 x 2 tokens of the decoder.
        large = plan[:, -height * width :].unflatten(1, (height, width))
        prior = large.repeat_interleave(2, 1).repeat_interleave(2, 2).flatten(1)
        return {"prompt": [text] * num_rows, "num_images_per_prompt": 1, "prior_token_ids": prior}

    def draw_plan(self, text: str, sampler: PlannedSampler) -> tuple[Tensor, tuple[int, int]]:
        """Sample plans (B, L) of one text, which start with a preview; also returns the grid (height, width)."""
        from transformers.generation import LogitsProcessorList

        planner, num_rows = getattr(self.pipeline, PLANNER), len(sampler.path.keys)
        device = self.pipeline._execution_device
        inputs = self._plan_inputs(text)
        height, width = inputs["image_grid_thw"][0, 1:].tolist()  # listed from the largest, which is sampled last
        rows = {name: torch.cat([value] * num_rows).to(device) for name, value in inputs.items()}
        drawing = PlanDrawing(sampler.plan_sampler(device), sampler.num_planned)
        # Greedy, since one logit is finite; the sampler already applies the settings of the checkpoint.
        planner.generate(
            **rows,
            max_new_tokens=sampler.num_planned,
            do_sample=False,
            temperature=None,
            top_k=None,
            top_p=None,
            logits_processor=LogitsProcessorList([drawing]),
        )
        return drawing.grid.samples().tokens, (height, width)

    def _plan_inputs(self, text: str) -> dict[str, Tensor]:
        """Planner inputs for one text and image size, as in the pipeline."""
        size = self.image_size
        assert size is not None, "the constructor requires it"
        height, width = sides_of(size)
        messages = [[{"role": "user", "content": [{"type": "text", "text": text}]}]]
        return dict(
            self.processor.apply_chat_template(
                messages, tokenize=True, target_h=height, target_w=width, return_dict=True, return_tensors="pt"
            )
        )

    @property
    def processor(self) -> Any:
        """Processor of the planner; does not load weights."""
        if self._processor is None:
            from transformers import AutoProcessor

            self._processor = AutoProcessor.from_pretrained(self.folder / "processor")
        return self._processor
