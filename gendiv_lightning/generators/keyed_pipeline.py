"""A diffusers pipeline under keyed noise: where it draws, it gets the rows' own normals; where it encodes, a memory.

It knows the two methods of a pipeline that every family shares, `prepare_latents` and `scheduler.step`, and nothing of
any one of them. A pipeline that draws anywhere else is refused.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from gendiv_lightning.errors import PipelineError
from gendiv_lightning.sampling.latents import KeyedNormals, LatentSampler

# DeepFloyd IF works on pixels and names the method after them.
PATH_METHODS = ("prepare_latents", "prepare_intermediate_images")


class Trace:
    """What a call of a pipeline did.

    Attributes:
        num_steps: calls of the scheduler's `step`.
        drew_path: it asked for initial noise.
        latents: what the last step returned: the final latents, as the scheduler sees them.
    """

    num_steps: int = 0
    drew_path: bool = False
    latents: Tensor | None = None


@contextmanager
def keyed_noise(pipeline: Any, sampler: LatentSampler) -> Iterator[Trace]:
    """Inside this context a call of the pipeline draws its initial noise from the path, the scheduler's from exec.

    Raises:
        ValueError: it draws from torch's global generator all the same, or it draws no initial noise.
    """
    trace = Trace()
    step = pipeline.scheduler.step
    num_drawn = {"path": 0, "exec": 0}

    def draw_path(shape: tuple[int, ...]) -> Tensor:
        start, trace.drew_path = num_drawn["path"], True
        num_drawn["path"] += _per_row(shape)
        return sampler.initial_noise(shape, start)

    def draw_step(shape: tuple[int, ...]) -> Tensor:
        start = num_drawn["exec"]
        num_drawn["exec"] += _per_row(shape)
        return sampler.step_noise(trace.num_steps, shape, start)

    # Pipelines inspect the signature of `step`, which `wraps` keeps: without it DDIM's eta is silently dropped.
    @functools.wraps(step)
    def keyed_step(*args: Any, **kwargs: Any) -> Any:
        num_drawn["exec"] = 0
        with KeyedNormals(draw_step, f"{type(pipeline.scheduler).__name__}.step"):
            result = step(*args, **kwargs)
        trace.num_steps += 1
        trace.latents = result[0] if isinstance(result, tuple) else result.prev_sample
        return result

    with ExitStack() as stack:
        for name in PATH_METHODS:
            if hasattr(pipeline, name):
                place = f"{type(pipeline).__name__}.{name}"
                stack.enter_context(_replaced(pipeline, name, _inside(KeyedNormals(draw_path, place))))
        stack.enter_context(_replaced(pipeline.scheduler, "step", lambda _: keyed_step))
        before = _global_states()
        yield trace
    name = type(pipeline).__name__
    if any(not torch.equal(old, new) for old, new in zip(before, _global_states(), strict=True)):
        raise PipelineError(
            f"{name} draws from torch's global generator outside of {' or '.join(PATH_METHODS)} and the scheduler's "
            "step, so its samples cannot be keyed. Choose another pipeline"
        )
    if not trace.drew_path:
        raise PipelineError(f"{name} draws no initial noise where gendiv can key it. Choose another pipeline")


def draws_step_noise(scheduler: Any, num_steps: int, arguments: Mapping[str, Any]) -> bool:
    """Whether noise at a scheduler's steps changes where they end, by dry runs on a small array of zeros.

    Args:
        scheduler: with its configuration; it is copied.
        num_steps: of the loop.
        arguments: of the pipeline's call; those that `step` takes, such as `eta`, are passed on to it.

    Raises:
        ValueError: the scheduler does not run so many steps.
    """
    ends = [_dry_run(copy.deepcopy(scheduler), num_steps, arguments, value) for value in (0.0, 1.0)]
    return not torch.equal(*ends)


def _dry_run(scheduler: Any, num_steps: int, arguments: Mapping[str, Any], noise: float) -> Tensor:
    """Where the steps end if all their noise is one value."""
    name = type(scheduler).__name__
    known = inspect.signature(scheduler.step).parameters
    extra = {name: value for name, value in arguments.items() if name in known}
    latents = torch.zeros(1, 4, 8, 8)
    # Networks that learn the variance return it beside the mean.
    num_parts = 2 if str(scheduler.config.get("variance_type")).startswith("learned") else 1
    try:
        # The shift depends on the image's size and changes no decision about noise.
        scheduler.set_timesteps(num_steps, **({"mu": 1.0} if scheduler.config.get("use_dynamic_shifting") else {}))
        with KeyedNormals(lambda shape: torch.full(shape, noise), f"{name}.step"):
            for time in scheduler.timesteps[:num_steps]:
                if hasattr(scheduler, "scale_model_input"):
                    scheduler.scale_model_input(latents, time)
                latents = scheduler.step(
                    torch.zeros(1, 4 * num_parts, 8, 8), time, latents, **extra, return_dict=False
                )[0]
    except (AssertionError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise PipelineError(
            f"scheduler: {name} does not run {num_steps} steps ({error}). Choose other settings"
        ) from error
    return latents


@contextmanager
def remembered_encodings(pipeline: Any, memory: dict[str, Any]) -> Iterator[None]:
    """Inside this context `encode_prompt` is called once for equal arguments; `memory` keeps the last result."""
    if not hasattr(pipeline, "encode_prompt"):
        yield
        return

    def remember(encode: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(encode)
        def remembering(*args: Any, **kwargs: Any) -> Any:
            given = inspect.signature(encode).bind(*args, **kwargs).arguments
            if any(isinstance(value, Tensor) for value in given.values()):
                return encode(*args, **kwargs)
            key = repr(sorted(given.items()))
            if key not in memory:
                encoded = encode(*args, **kwargs)
                memory.clear()
                memory[key] = encoded
            return memory[key]

        return remembering

    with _replaced(pipeline, "encode_prompt", remember):
        yield


@contextmanager
def _replaced(owner: Any, name: str, wrap: Callable[[Any], Any]) -> Iterator[None]:
    """Put a wrapped method on an instance, and take it away again."""
    setattr(owner, name, wrap(getattr(owner, name)))
    try:
        yield
    finally:
        delattr(owner, name)


def _inside(context: Any) -> Callable[[Any], Any]:
    def wrap(method: Any) -> Any:
        @functools.wraps(method)
        def inside(*args: Any, **kwargs: Any) -> Any:
            with context:
                return method(*args, **kwargs)

        return inside

    return wrap


def _per_row(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape[1:]).numel())


def _global_states() -> list[Tensor]:
    states = [torch.get_rng_state()]
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states += torch.cuda.get_rng_state_all()
    return states
