"""GLM-Image: an autoregressive plan of discrete tokens, and a diffusion decoder that draws the image from it.

transformers holds the planner, diffusers the pipeline. Its own call seeds the plan through torch's global generator, so
the plan is drawn here, by keyed noise, and handed to the pipeline.
"""

from __future__ import annotations

import json
from typing import Any, Literal

import torch
from torch import Tensor

from gendiv_lightning.errors import WrongWeightsError
from gendiv_lightning.generators.base import Chance, Precision
from gendiv_lightning.generators.diffusers_pipeline import DiffusersPipeline
from gendiv_lightning.sampling import Noise, TokenSampler
from gendiv_lightning.sampling.latents import LatentSampler
from gendiv_lightning.sampling.planned import PlannedSampler
from gendiv_lightning.sampling.sampler import TokenGrid

PLANNER = "vision_language_encoder"
UNKNOWN = {"temperature": 1.0, "top_k": 50, "top_p": 1.0}  # transformers' own, where a checkpoint has none


class PlanDrawing:
    """A logits processor that draws plan tokens itself, and leaves `generate` no choice.

    Args:
        sampler: draws the tokens of B plans.
        num_tokens: tokens per plan.
    """

    def __init__(self, sampler: TokenSampler, num_tokens: int) -> None:
        self.sampler, self.grid, self.step = sampler, TokenGrid(sampler, num_tokens), 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """One finite logit per row of scores (B, V): that of the drawn token. Only codebook entries can be drawn."""
        rows = torch.arange(len(scores), device=scores.device)
        logits = scores[:, : self.sampler.codebook_size]
        draw = self.sampler.draw_tokens(logits, self.step, rows, torch.full_like(rows, self.step))
        self.grid.write(draw)
        self.step += 1
        return torch.full_like(scores, -torch.inf).scatter(-1, draw.tokens[:, None], 0.0)


class GLMImage(DiffusersPipeline):
    """GLM-Image under probes, text-to-image. The path has two parts: the plan, and the decoder's initial noise.

    `FreezePath(part="plan")` leaves the diversity of the decoder, `FreezePath(part="decoder")` that of the plan.
    `Temperature`, `TopK` and `TopP` act on the plan, `Guidance` on the decoder.

    Args:
        checkpoint: `zai-org/GLM-Image`, or a folder of the same layout.
        num_steps: steps of the decoder (official: 50).
        guidance_scale: classifier-free guidance of the decoder; 1 and below is off (official: 1.5).
        image_size: pixels per side, a multiple of 32, or (height, width).
        temperature: divides the logits of plan tokens; None reads the checkpoint's.
        top_k: entries kept per plan token, 0 keeps all; None reads the checkpoint's.
        top_p: probability mass kept per plan token; None reads the checkpoint's.
        dtype: of all networks.
        offload: keep networks on the CPU while they are idle ("model"), or every layer ("sequential"); slower.
        batch_size: images of one text that are sampled together.
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
        self._processor: Any = None
        self._given = {"temperature": temperature, "top_k": top_k, "top_p": top_p}

    def locate(self) -> None:
        """Find the checkpoint; read the planner's codebook and sampling settings, and the size of a plan."""
        super().locate()
        settings = json.loads((self.folder / PLANNER / "config.json").read_text())
        try:
            self.plan_size = int(settings["vq_config"]["num_embeddings"])
        except (KeyError, TypeError) as error:
            raise WrongWeightsError(
                f"checkpoint: {self.folder / PLANNER} is not GLM-Image's planner, as its configuration has no "
                "vq_config.num_embeddings. Download the checkpoint again"
            ) from error
        path = self.folder / PLANNER / "generation_config.json"
        official = json.loads(path.read_text()) if path.exists() else {}
        known = {name: official.get(name) if value is None else value for name, value in self._given.items()}
        self.plan_settings: dict[str, Any] = {n: UNKNOWN[n] if v is None else v for n, v in known.items()}
        grids = self._plan_inputs("")["image_grid_thw"]
        self.num_planned = int(grids.prod(1).sum())

    def identity(self) -> dict[str, object]:
        """With the plan's settings and the planner's library."""
        import transformers

        return {**super().identity(), "plan": self.plan_settings, "transformers": transformers.__version__}

    def describe(self) -> dict[str, Any]:
        """With the family's own title."""
        return {**super().describe(), "title": self.title}

    def make_sampler(self, path: Noise, execution: Noise) -> PlannedSampler:
        """A sampler whose path begins with the plan."""
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
        """A plan per image; the pipeline would repeat one plan for all images of a prompt."""
        assert isinstance(sampler, PlannedSampler), "make_sampler makes it"
        num_rows = len(sampler.path.keys)
        plan, (height, width) = self.draw_plan(text, sampler)
        # The last height x width tokens are the plan at full size, of which each stands for 2 x 2 of the decoder's.
        large = plan[:, -height * width :].unflatten(1, (height, width))
        prior = large.repeat_interleave(2, 1).repeat_interleave(2, 2).flatten(1)
        return {"prompt": [text] * num_rows, "num_images_per_prompt": 1, "prior_token_ids": prior}

    def draw_plan(self, text: str, sampler: PlannedSampler) -> tuple[Tensor, tuple[int, int]]:
        """Plans (B, L) of one text, a preview first, and the grid (height, width) of their last part."""
        from transformers.generation import LogitsProcessorList

        planner, num_rows = getattr(self.pipeline, PLANNER), len(sampler.path.keys)
        device = self.pipeline._execution_device
        inputs = self._plan_inputs(text)
        height, width = inputs["image_grid_thw"][0, 1:].tolist()  # the largest comes first here, and is drawn last
        rows = {name: torch.cat([value] * num_rows).to(device) for name, value in inputs.items()}
        drawing = PlanDrawing(sampler.plan_sampler(device), sampler.num_planned)
        # Greedy, as there is one finite logit, and without settings of the checkpoint, which the sampler has.
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
        """The planner's inputs for one text and image size, as the pipeline makes them."""
        height, width = (self.image_size,) * 2 if isinstance(self.image_size, int) else self.image_size
        messages = [[{"role": "user", "content": [{"type": "text", "text": text}]}]]
        return dict(
            self.processor.apply_chat_template(
                messages, tokenize=True, target_h=height, target_w=width, return_dict=True, return_tensors="pt"
            )
        )

    @property
    def processor(self) -> Any:
        """The planner's processor, which loads no weights."""
        if self._processor is None:
            from transformers import AutoProcessor

            self._processor = AutoProcessor.from_pretrained(self.folder / "processor")
        return self._processor
