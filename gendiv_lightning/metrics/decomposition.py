"""H_total = H_path + H_exec in bits: the token-marginal and the sequence decomposition.

The perceptual decomposition is part of each diversity metric. The theory is in docs/explanation/theory.md.
"""

from __future__ import annotations

import math

from torch import Tensor
from typing_extensions import override

from gendiv_lightning.functional.decomposition import NAMES
from gendiv_lightning.metrics.base import PromptMetric
from gendiv_lightning.recorders import ParaphraseLikelihood, TokenMarginals
from gendiv_lightning.recorders.marginals import count_entropies
from gendiv_lightning.records import PromptSamples
from gendiv_lightning.runs.schema import UNSEEN


class TokenEntropy(PromptMetric):
    """Token-marginal decomposition: entropy of the mean token and its parts, bits per token, from `TokenMarginals`.

    - `h_total/token`: over paraphrase, path and execution.
    - `h_exec/token`: given paraphrase and path.
    - `h_path/token`: their difference, and its parts `h_sampler_path/token` and `h_prompt_path/token`.

    Each is corrected for small-sample bias. `.../plugin` is uncorrected, and `.../counts` is estimated from the tokens
    only (`count_entropies`). `counts` agrees with the first if tokens are drawn once, as in autoregressive models. A
    masked model keeps the most confident of many draws, and mask-and-replace diffusion redraws some tokens: their final
    tokens have less entropy than the distributions they were drawn from. For these families `counts` is lower, and it
    is the correct number for the images.

    `h_total/token/counts/unseen` is the probability that one more sample contains an entry that is new to its prompt
    and position (Good-Turing). If it is not small, there are too few samples for `counts`.

    Path and execution can be separated only if samples share paths; otherwise only the total is defined. Positions are
    treated separately: a token that is determined by its neighbours counts as free.
    """

    title = "entropy of the tokens and its parts"
    short = "token entropy"
    needs = ("tokens",)
    recorders = (TokenMarginals,)
    parts = ("h_total", "h_exec", "h_path", "h_sampler_path", "h_prompt_path")

    @property
    @override
    def names(self) -> tuple[str, ...]:
        return *(f"{part}/token{kind}" for kind in ("", "/plugin", "/counts") for part in self.parts), UNSEEN

    @property
    @override
    def method(self) -> str:
        return (
            "lens A: mean predictive distributions (Rao-Blackwell; counts: tokens), total extrapolated in the samples "
            "(counts: Chao-Wang-Jost 2013), paths by spread near zero, else between groups of one size; plugin: as it "
            "is; BCa bootstrap over prompts"
        )

    @override
    def measure(self, samples: PromptSamples) -> list[float]:
        """The numbers from the prompt's marginals and tokens; NaN if these are missing."""
        undefined = [math.nan] * (len(NAMES) // 2)
        marginals = samples.per_prompt.get(TokenMarginals.name)
        recorded = 2 * undefined if marginals is None else marginals.tolist()
        numbers, paths = samples.groups.T
        counts = undefined if samples.tokens is None else count_entropies(samples.tokens, numbers, paths).tolist()[:3]
        one_text = len(numbers.unique()) == 1
        bits = [x for bits in (recorded[:3], recorded[3:], counts) for x in _parts(*bits, one_text=one_text)]
        return [*bits, math.nan if samples.tokens is None else _unseen(samples.tokens)]


class SequenceEntropy(PromptMetric):
    """Sequence decomposition: entropy of whole images, bits per image, from the entropies of the draws.

    - `h_exec/sequence`: mean over samples of the summed entropies of their tokens' last draws. By the chain rule it is
      H(C | paraphrase) of an autoregressive model, and H(C | path, paraphrase) of absorbing diffusion, unbiased for any
      number of samples. Mask-and-replace diffusion redraws some tokens, which is not included. A masked model keeps the
      most confident of many draws, so its images usually have less entropy: read the number as an upper bound, which is
      not proven (docs/explanation/theory.md, section 6).
    - `h_prompt_path/sequence`: I(C; paraphrase), exact for models with a likelihood (autoregressive): each image is
      scored under every paraphrase of its prompt. NaN for other models.
    - `h_total/sequence`: their sum, if both are defined or the prompt has one text. It excludes the sampler path: an
      autoregressive model has none, and the other families have no likelihood from which to compute its share.
    """

    title = "entropy of whole images and its parts"
    short = "sequence entropy"
    needs = ("tokens", "entropy")
    recorders = (ParaphraseLikelihood,)

    @property
    @override
    def names(self) -> tuple[str, ...]:
        return "h_total/sequence", "h_exec/sequence", "h_prompt_path/sequence"

    @property
    @override
    def method(self) -> str:
        return "lens B: summed entropies of the draws, cross-likelihood of the wordings; BCa bootstrap over prompts"

    @override
    def measure(self, samples: PromptSamples) -> list[float]:
        """Means over the samples of the prompt; NaN for samples without entropies."""
        if samples.entropy is None:
            return [math.nan] * len(self.names)
        execution = samples.entropy.double().sum(1).mean().item()
        scores = samples.per_sample.get(ParaphraseLikelihood.name)
        paraphrases, own = samples.groups[:, 0].unique(return_inverse=True)
        if len(paraphrases) == 1:
            return [execution, execution, math.nan]
        if scores is None:
            return [math.nan, execution, math.nan]
        scores = scores.double() * math.log(2)
        mixture = scores.logsumexp(1) - math.log(len(paraphrases))
        information = scores.gather(1, own[:, None])[:, 0] - mixture
        prompt_path = information.mean().item() / math.log(2)
        return [execution + prompt_path, execution, prompt_path]


def _unseen(tokens: Tensor) -> float:
    """Share of the tokens (N, L) that occur once at their position."""
    singletons = [(column.unique(return_counts=True)[1] == 1).sum().item() for column in tokens.T]
    return sum(singletons) / tokens.numel()


def _parts(execution: float, paraphrase: float, pool: float, *, one_text: bool) -> list[float]:
    """Total, execution, path, sampler path, prompt path."""
    prompt_path = math.nan if one_text else pool - paraphrase
    return [pool, execution, pool - execution, paraphrase - execution, prompt_path]
