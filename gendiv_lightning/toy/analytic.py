"""Generators without a network, whose entropies are known exactly, for calibrating the decomposition.

An image is a Markov chain of L tokens over classes of codebook entries: the class of a token depends on the class of
the previous token, and its entry is independent given its class. Tokens are drawn from the exact conditionals of the
chain in any order, so that autoregression (raster order) and absorbing diffusion (a random order, which is the path)
generate the same distribution. A path or a paraphrase may also select the chain, and then it carries information.

Notation: P prompts, Q paraphrases, M kinds of paths, C = P Q M chains, S classes, E entries of a chain, L tokens; K
codebook entries, of which U occur for a prompt. Only these are stored, so a token is one of U columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gendiv_lightning.generators.base import Chance, TokenGenerator
from gendiv_lightning.records import Paraphrase, Prompt, TokenSamples
from gendiv_lightning.sampling import TokenSampler
from gendiv_lightning.sampling.sampler import TokenGrid

NUM_TOKENS = 3
NUM_CLASSES = 16
NUM_ENTRIES = 128


class Family(NamedTuple):
    """Settings of a family of analytic generators.

    Attributes:
        dependence: probability that the class of a token is determined by its neighbour's; 0 means independent tokens.
        num_kinds: number M of equally likely kinds of paths; with 1, a path carries no information.
        paraphrase: what differs between paraphrases: nothing ("same"), the "start" of the chain, or the whole "chain".
        path: what differs between kinds of paths, "start" or "chain".
        random_order: draw tokens in the order of the path instead of raster order.
    """

    dependence: float = 0.0
    num_kinds: int = 1
    paraphrase: str = "same"
    path: str = "chain"
    random_order: bool = False


FAMILIES = {
    "independent": Family(),
    "autoregressive": Family(0.5),
    "absorbing diffusion": Family(0.5, random_order=True),
    "mixture over paths": Family(num_kinds=4),
    "paraphrases that start apart": Family(0.5, paraphrase="start"),
    "paraphrases apart": Family(0.5, paraphrase="chain"),
    "paths x paraphrases": Family(num_kinds=2, paraphrase="chain"),
    "sharp autoregressive": Family(0.95),
    "sharp diffusion": Family(0.95, random_order=True),
    "paths that start apart": Family(0.5, num_kinds=4, path="start"),
    "sharp diffusion that starts apart": Family(0.95, num_kinds=4, path="start", random_order=True),
}


class AnalyticGenerator(TokenGenerator[Tensor]):
    """P prompts of a family with Q paraphrases each; the chains and the entropy of a prompt are drawn by the seed.

    Args:
        family: one of `FAMILIES`.
        codebook_size: number of codebook entries K.
        num_prompts: number of prompts P.
        num_paraphrases: number of paraphrases Q per prompt.
        seed: seed of the chains; samples use the noise of their batch.

    Attributes:
        prompts: P prompts with Q paraphrases each.
    """

    family, title = "analytic", "Analytic generator"
    chance = Chance(path="the kind of chain, and the order of drawing", execution="which token each position gets")

    def __init__(
        self, family: Family, codebook_size: int, num_prompts: int, num_paraphrases: int = 4, seed: int = 0
    ) -> None:
        super().__init__(grid=(1, NUM_TOKENS), batch_size=4096)
        self.process, self.has_likelihood = family, family.num_kinds == 1 and not family.random_order
        self.prompts = tuple(
            Prompt(str(p), f"{p} 0", tuple(Paraphrase(f"{p} {q}", "short") for q in range(num_paraphrases)))
            for p in range(num_prompts)
        )
        random = torch.Generator().manual_seed(seed)
        shape = num_prompts, num_paraphrases, family.num_kinds
        own_kinds = family.num_kinds if family.path == "chain" else 1
        own = num_prompts, num_paraphrases if family.paraphrase == "chain" else 1, own_kinds
        classes, entries = min(codebook_size, NUM_CLASSES), min(codebook_size, NUM_ENTRIES)
        peaks = 0.5 + 1.5 * torch.rand(num_prompts, 1, 1, 1, generator=random, dtype=torch.float64)

        def distributions(*size: int) -> Tensor:
            weights = torch.empty(*size, dtype=torch.float64).exponential_(generator=random)
            weights = weights ** peaks.view(-1, *(1 for _ in size[1:]))
            return weights / weights.sum(-1, keepdim=True)

        num_starts = 1 if family.paraphrase == "same" else num_paraphrases
        starts = distributions(num_prompts, num_starts, family.num_kinds, classes)
        follows = torch.rand(*own, classes, generator=random).argsort(-1)
        rows = torch.nn.functional.one_hot(follows, classes).double()
        free = distributions(*own, classes)
        step = family.dependence * rows + (1 - family.dependence) * free[..., None, :]
        within = distributions(*own, classes, entries // classes)
        shown = torch.rand(*own, codebook_size, generator=random).topk(entries).indices
        self.start = (starts if family.dependence else free).expand(*shape, classes).flatten(0, 2)
        self.step = step.expand(*shape, classes, classes).flatten(0, 2)
        self.within = within.expand(*shape, classes, entries // classes).flatten(0, 2)
        columns = torch.stack([entries_of_prompt.unique(return_inverse=True)[1] for entries_of_prompt in shown])
        self.codebook_size = int(columns.max()) + 1
        self.columns = columns.expand(*shape, entries).flatten(0, 2)
        self.class_of = torch.full((len(self.columns), self.codebook_size), -1)
        self.class_of.scatter_(1, self.columns, (torch.arange(entries) // (entries // classes)).expand_as(self.columns))
        self.chains = torch.arange(math.prod(shape)).view(shape)
        self.powers = torch.stack([torch.linalg.matrix_power(self.step, n) for n in range(NUM_TOKENS)], 1)
        self.marginals = (self.start[:, None, None] @ self.powers)[:, :, 0]  # (C, L, S)

    def ground_truth(self) -> dict[str, Tensor]:
        """Exact values (P,) by the names of `TokenEntropy` and `SequenceEntropy`; NaN if there is no closed form.

        Everything is computed by summation over classes, without sampling.
        """
        shape, paraphrase = self.chains.shape, self.process.paraphrase
        inside = _bits(self.within)  # (C, S)
        kinds = self._spread(self.marginals).view(*shape, NUM_TOKENS, -1)
        execution, one, pool = (_bits(x).flatten(1).mean(1) for x in (kinds, kinds.mean(2), kinds.mean((1, 2))))
        steps = (self.marginals[:, :-1] * _bits(self.step)[:, None]).sum((1, 2))
        sequence = (_bits(self.start) + steps + (self.marginals * inside[:, None]).sum((1, 2))).view(*shape)
        starts = self.start.view(*shape, -1)[:, :, 0]
        start_information = _bits(starts.mean(1)) - _bits(starts).mean(1)
        information = {"same": 0.0 * pool, "start": start_information}.get(paraphrase, math.nan * pool)
        conditional = sequence.flatten(1).mean(1)
        return {
            "h_total/token": pool,
            "h_exec/token": execution,
            "h_path/token": pool - execution,
            "h_sampler_path/token": one - execution,
            "h_prompt_path/token": pool - one,
            "h_total/sequence": conditional + information if self.has_likelihood else math.nan * pool,
            "h_exec/sequence": conditional,
            "h_prompt_path/sequence": information if self.has_likelihood else math.nan * pool,
        }

    def encode_prompts(self, texts: Sequence[str]) -> Tensor:
        """Prompt number and paraphrase number (B, 2)."""
        return torch.tensor([[int(number) for number in text.split()] for text in texts])

    def sample_tokens(self, conditions: Tensor, sampler: TokenSampler) -> TokenSamples:
        """Draw one token at a time, in raster order or in the order of the path."""
        rows = torch.arange(len(conditions))
        kinds = (sampler.path.uniform_grid(0, 1)[:, 0] * self.process.num_kinds).long()
        chains = self.chains[conditions[:, 0], conditions[:, 1], kinds]
        orders = torch.arange(NUM_TOKENS).expand(len(rows), -1)
        if self.process.random_order:
            orders = sampler.path.uniform_grid(1, NUM_TOKENS).argsort(1)
        grid = TokenGrid(sampler, NUM_TOKENS)
        classes = torch.full(grid.tokens.shape, -1)
        for step, positions in enumerate(orders.T):
            probs = self._spread(self._predict(chains, positions, classes)[:, None], chains)[:, 0]
            draw = sampler.draw_tokens(probs.log(), step, rows, positions)
            grid.write(draw)
            classes[rows, positions] = self.class_of[chains, draw.tokens]
        return grid.samples()

    def score_tokens(self, conditions: Tensor, tokens: Tensor, sampler: TokenSampler) -> Tensor:
        """Log2-probabilities in raster order; -inf for a token that never occurs for the paraphrase."""
        chains = self.chains[conditions[:, 0], conditions[:, 1], 0]
        classes = self.class_of[chains[:, None], tokens]
        probs = [self.start[chains], *(self.step[chains, left.clamp(min=0)] for left in classes.T[:-1])]
        return self._spread(torch.stack(probs, 1), chains).gather(2, tokens[:, :, None])[:, :, 0].log2()

    def decode_tokens(self, tokens: Tensor) -> Tensor:
        """Images without pixels."""
        return torch.zeros(len(tokens), 3, 0, 0, dtype=torch.uint8)

    def encode_images(self, images: Tensor) -> Tensor:
        """Not implemented, because there is no tokenizer."""
        raise NotImplementedError("an analytic generator has no tokenizer")

    def locate(self) -> None:
        """Do nothing, because there are no weights."""

    def load(self) -> None:
        """Do nothing, because there are no weights."""

    def identity(self) -> dict[str, object]:
        """The settings of the family."""
        return self.process._asdict()

    def check_prompts(self, texts: Sequence[str]) -> list[str]:
        """No warnings, because the prompts are generated."""
        return []

    def text_lengths(self, texts: Sequence[str]) -> None:
        """None, because prompts are numbers."""

    def _predict(self, chains: Tensor, positions: Tensor, classes: Tensor) -> Tensor:
        """Class probabilities (N, S) at one position per row, given the nearest known classes; -1 means unknown."""
        indices, current = torch.arange(NUM_TOKENS), positions[:, None]
        left = torch.where((classes >= 0) & (indices < current), indices, -1).amax(1)
        right = torch.where((classes >= 0) & (indices > current), indices, NUM_TOKENS).amin(1)
        start, end = left.clamp(min=0), right.clamp(max=NUM_TOKENS - 1)
        before, after = (classes.gather(1, index[:, None])[:, 0].clamp(min=0) for index in (start, end))
        from_left = self.powers[chains, (positions - start).clamp(min=0), before]
        probs = torch.where(left[:, None] < 0, self.marginals[chains, positions], from_left)
        to_right = self.powers[chains, (end - positions).clamp(min=0), :, after]
        probs = probs * torch.where(right[:, None] < NUM_TOKENS, to_right, 1.0)
        return probs / probs.sum(-1, keepdim=True)

    def _spread(self, classes: Tensor, chains: Tensor | None = None) -> Tensor:
        """Distributions over columns (N, L, U) from those over classes (N, L, S) of chains (N,), by default all."""
        chains = torch.arange(len(self.start)) if chains is None else chains
        entries = (classes[..., None] * self.within[chains][:, None]).flatten(2)
        columns = self.columns[chains][:, None].expand_as(entries)
        return entries.new_zeros(*entries.shape[:2], self.codebook_size).scatter_(2, columns, entries)


def _bits(probs: Tensor) -> Tensor:
    """Entropies of distributions (..., K), bits."""
    return torch.special.entr(probs).sum(-1) / math.log(2)
