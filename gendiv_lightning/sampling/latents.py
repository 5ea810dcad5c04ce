"""`LatentSampler`: standard normals for continuous samplers, from the same keyed noise that token draws use.

A continuous sampler has two sources of randomness: the initial noise (path), and the noise that the scheduler adds at
each step (execution). An ODE sampler adds none, so it has no execution noise by construction.

Decisions are numbered from 0: the initial noise is decision 0, step i of the scheduler is decision i + 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gendiv_lightning.errors import PipelineError
from gendiv_lightning.sampling.noise import Noise
from gendiv_lightning.sampling.sampler import Sampler


@dataclass(frozen=True)
class LatentSampler(Sampler):
    """Settings and noise of B rows of continuous latents.

    The noise is keyed as for tokens: the path by (prompt, paraphrase, path), execution by (prompt, paraphrase,
    sample). With `exec` off, the scheduler's noise is 0 and every transition takes its mean.
    """

    def take(self, rows: Sequence[int]) -> LatentSampler:
        """The sampler restricted to some rows."""
        return replace(self, path=self.path.take(rows), exec=self.exec.take(rows))

    def initial_noise(self, shape: Sequence[int], start: int = 0) -> Tensor:
        """Standard normals (B, ...) float32 of decision 0; `start` is the number of values already drawn per row."""
        return draw_normals(self.path, 0, shape, start)

    def step_noise(self, step: int, shape: Sequence[int], start: int = 0) -> Tensor:
        """Standard normals (B, ...) float32 of scheduler step 0, 1, ...; all 0 with execution off."""
        if self.exec.is_off:
            return torch.zeros(*shape)
        return draw_normals(self.exec, self.decision(step), shape, start)

    def decision(self, step: int) -> int:
        """Number of the decision that scheduler step 0, 1, ... is."""
        return step + 1


def draw_normals(noise: Noise, step: int, shape: Sequence[int], start: int = 0) -> Tensor:
    """Standard normals from the uniforms of each row, by the inverse normal CDF in float64.

    Args:
        noise: noise of B rows, on the CPU.
        step: step of the loop.
        shape: (B, ...).
        start: index of the first uniform of each row.

    Returns:
        (B, ...) float32 on the CPU, so that values do not depend on the model's device.

    Raises:
        ValueError: the shape does not have one row per row of the noise.
    """
    num_rows, num_values = shape[0], math.prod(shape[1:])
    if num_rows != len(noise.keys):
        raise ValueError(f"noise of {len(noise.keys)} rows cannot fill the shape {tuple(shape)}: one row per image")
    rows, positions = torch.arange(num_rows)[:, None], torch.arange(start, start + num_values)
    return torch.special.ndtri(noise.uniform(step, rows, positions)).float().view(*shape)


class KeyedNormals(TorchFunctionMode):
    """Context in which `torch.randn` and `torch.randn_like` return the normals of a given function.

    Any other random function raises an error, because its numbers would depend on the batch and on the global seed.

    Args:
        draw: maps a shape (B, ...) to float32 normals on the CPU; they are cast and moved as the caller requests.
        caller: name of the code that runs in the context, for error messages.
    """

    def __init__(self, draw: Callable[[tuple[int, ...]], Tensor], caller: str) -> None:
        super().__init__()
        self.draw, self.caller = draw, caller

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Replace the functions that draw normals; call all non-random functions unchanged."""
        kwargs = dict(kwargs or {})
        if func is torch.randn:
            size = kwargs.get("size", args[0] if args and not isinstance(args[0], int) else args)
            normals = self.draw(tuple(size))
            return normals.to(kwargs.get("device"), kwargs.get("dtype") or torch.get_default_dtype())
        if func is torch.randn_like:
            like = args[0] if args else kwargs["input"]
            normals = self.draw(tuple(like.shape))
            return normals.to(kwargs.get("device") or like.device, kwargs.get("dtype") or like.dtype)
        if func in _OTHER_RANDOMNESS:
            raise PipelineError(
                f"{self.caller} calls {getattr(func, '__name__', func)}, whose numbers cannot be keyed by sample: only "
                "torch.randn and torch.randn_like can. Choose another scheduler or pipeline"
            )
        return func(*args, **kwargs)


_OTHER_RANDOMNESS = {
    torch.rand,
    torch.rand_like,
    torch.randint,
    torch.randint_like,
    torch.randperm,
    torch.normal,
    torch.bernoulli,
    torch.multinomial,
    torch.poisson,
    torch.binomial,
    Tensor.normal_,
    Tensor.uniform_,
    Tensor.random_,
    Tensor.bernoulli_,
    Tensor.exponential_,
    Tensor.multinomial,
    Tensor.bernoulli,
    Tensor.cauchy_,
    Tensor.geometric_,
    Tensor.log_normal_,
}
