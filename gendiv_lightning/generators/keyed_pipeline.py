"""Runs a diffusers pipeline with keyed noise: its random draws return the normals of each row.

Only two methods are intercepted, which all text-to-image pipelines share: `prepare_latents` and `scheduler.step`. A
pipeline that draws random numbers anywhere else raises an error. While all rows share their noise, the network runs
one of them.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gendiv_lightning.errors import PipelineError
from gendiv_lightning.generators.pipeline_rows import map_rows, one_of_each, repeat_rows, rows_are_equal
from gendiv_lightning.sampling.branches import Branches, branches_at
from gendiv_lightning.sampling.latents import KeyedNormals, LatentSampler

# DeepFloyd IF works on pixels and has another name for the method.
PATH_METHODS = ("prepare_latents", "prepare_intermediate_images")
BranchesAt = Callable[[LatentSampler, int], Branches | None]


class Trace:
    """Record of one call of a pipeline.

    Attributes:
        num_steps: number of calls of the scheduler's `step`.
        drew_path: whether initial noise was drawn.
        latents: the final latents, as returned by the last step.
    """

    num_steps: int = 0
    drew_path: bool = False
    latents: Tensor | None = None


@contextmanager
def keyed_noise(pipeline: Any, sampler: LatentSampler, branches: BranchesAt = branches_at) -> Iterator[Trace]:
    """Context in which a pipeline takes its initial noise from `path` and its scheduler's noise from `exec`.

    Args:
        pipeline: pipeline of diffusers.
        sampler: noise of each row.
        branches: groups of rows that the network may run once at a decision, or None; see `Generator.branches`.

    Raises:
        ValueError: the pipeline still draws from torch's global generator, or draws no initial noise.
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

    # `wraps` keeps the signature of `step`, which pipelines inspect: without it DDIM's eta is silently dropped.
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
                caller = f"{type(pipeline).__name__}.{name}"
                stack.enter_context(replaced(pipeline, name, _inside(KeyedNormals(draw_path, caller))))
        stack.enter_context(replaced(pipeline.scheduler, "step", lambda _: keyed_step))
        for network in _denoisers(pipeline):
            once = functools.partial(_once_while_shared, sampler=sampler, trace=trace, branches_of=branches)
            stack.enter_context(replaced(network, "forward", once))
        before = _global_states()
        yield trace
    name = type(pipeline).__name__
    if any(not torch.equal(old, new) for old, new in zip(before, _global_states(), strict=True)):
        raise PipelineError(
            f"{name} draws from torch's global generator outside of {' or '.join(PATH_METHODS)} and the scheduler's "
            "step, so its samples cannot be keyed. Choose another pipeline"
        )
    if not trace.drew_path:
        raise PipelineError(f"{name} draws no initial noise that gendiv can key. Choose another pipeline")


def _denoisers(pipeline: Any) -> list[nn.Module]:
    """Networks that the loop calls, except offloaded ones, whose `forward` is already replaced."""
    networks = [getattr(pipeline, name, None) for name in ("unet", "transformer")]
    return [network for network in networks if isinstance(network, nn.Module) and "forward" not in vars(network)]


def _once_while_shared(
    forward: Callable[..., Any], *, sampler: LatentSampler, trace: Trace, branches_of: BranchesAt
) -> Callable[..., Any]:
    """Wrap `forward` of a network so that it runs one row per block as long as all rows share their noise.

    With guidance, inputs consist of several blocks with the rows of the pipeline. The rows of a block are compared; if
    they differ in any input, all of them run.
    """

    @functools.wraps(forward)
    def once(*args: Any, **kwargs: Any) -> Any:
        branches = branches_of(sampler, sampler.decision(trace.num_steps))
        if branches is None or len(branches.first) > 1:
            return forward(*args, **kwargs)
        latents = next(iter([*args, *(kwargs[name] for name in ("hidden_states", "sample") if name in kwargs)]))
        num_rows, size = len(branches.group), len(latents)
        if size % num_rows or not rows_are_equal((args, kwargs), size, num_rows):
            return forward(*args, **kwargs)
        one_args, one_kwargs = map_rows((args, kwargs), size, lambda rows: one_of_each(rows, num_rows))
        output = forward(*one_args, **one_kwargs)
        return map_rows(output, size // num_rows, lambda rows: repeat_rows(rows, num_rows))

    return once


def draws_step_noise(scheduler: Any, num_steps: int, arguments: Mapping[str, Any]) -> bool:
    """Whether noise in a scheduler's steps changes their result, found by dry runs on a small tensor of zeros.

    Args:
        scheduler: the configured scheduler; it is copied.
        num_steps: number of steps of the loop.
        arguments: arguments of the pipeline's call; those that `step` accepts, such as `eta`, are passed to it.

    Raises:
        ValueError: the scheduler cannot run this number of steps.
    """
    ends = [_dry_run(copy.deepcopy(scheduler), num_steps, arguments, value) for value in (0.0, 1.0)]
    return not torch.equal(*ends)


def _dry_run(scheduler: Any, num_steps: int, arguments: Mapping[str, Any], noise: float) -> Tensor:
    """Result of the steps if all of their noise has the same value."""
    name = type(scheduler).__name__
    known = inspect.signature(scheduler.step).parameters
    extra = {name: value for name, value in arguments.items() if name in known}
    latents = torch.zeros(1, 4, 8, 8)
    # Networks that learn the variance return it together with the mean.
    num_parts = 2 if str(scheduler.config.get("variance_type")).startswith("learned") else 1
    try:
        # The shift depends on the image size and does not affect whether noise is used.
        settings: dict[str, Any] = {"mu": 1.0} if scheduler.config.get("use_dynamic_shifting") else {}
        if scheduler.config.get("invert_sigmas"):
            settings["sigmas"] = [1 - step / num_steps for step in range(num_steps)]
        scheduler.set_timesteps(num_steps, **settings)
        with KeyedNormals(lambda shape: torch.full(shape, noise), f"{name}.step"):
            for time in scheduler.timesteps[:num_steps]:
                if hasattr(scheduler, "scale_model_input"):
                    scheduler.scale_model_input(latents, time)
                latents = scheduler.step(
                    torch.zeros(1, 4 * num_parts, 8, 8), time, latents, **extra, return_dict=False
                )[0]
    except PipelineError:  # of the keyed noise, which names the random function
        raise
    except (AssertionError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise PipelineError(
            f"scheduler: {name} cannot run {num_steps} steps ({error}). Choose other settings"
        ) from error
    return latents


@contextmanager
def replaced(owner: Any, name: str, wrap: Callable[[Any], Any]) -> Iterator[None]:
    """Context that replaces a method of an instance by a wrapped one."""
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
    if torch.cuda.is_available():
        torch.cuda.init()  # a call with offloading may initialize CUDA, and only existing states can be compared
        states += torch.cuda.get_rng_state_all()
    return states
