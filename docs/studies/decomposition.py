"""Does the decomposition find what is there? Generators whose entropies are known exactly, at every codebook size.

    python docs/studies/decomposition.py        # some minutes on one core; writes decomposition.md and .png beside it

Four generators of L tokens, drawn anew for each prompt from a Dirichlet family:
- independent: each token has a distribution of its own; paths mean nothing;
- autoregressive: a Markov chain in raster order; paths mean nothing;
- diffusion: the same chain, revealed in an order that is the path, from its exact conditionals; paths mean nothing;
- paths: a path is one of M chains, each with a distribution of its own.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch import Tensor
from tqdm import tqdm

from gendiv_lightning.functional import entropy as estimators
from gendiv_lightning.functional.bootstrap import bootstrap_mean
from gendiv_lightning.report.tables import format_table
from gendiv_lightning.sampling.marginals import count_entropies, group_samples, marginal_entropies

HERE = Path(__file__).parent
L, KINDS, SPREAD = 6, 4, 24
SIZES = (8, 64, 512, 4096)


def bits(probs: Tensor) -> float:
    """Mean entropy of distributions (..., K), bits."""
    return torch.special.entr(probs).sum(-1).mean().item() / math.log(2)


def dirichlet(shape: tuple[int, ...], size: int, generator: torch.Generator) -> Tensor:
    """Distributions (*shape, K) on about `SPREAD` entries each, in float64."""
    raw = torch.rand(*shape, size, generator=generator, dtype=torch.float64).clamp(min=1e-12)
    weights = -raw.log() * (torch.rand(*shape, size, generator=generator) < min(1.0, SPREAD / size))
    weights[..., 0] += 1e-6
    return weights / weights.sum(-1, keepdim=True)


class Chain:
    """A Markov chain over a few hidden states, each of which shows an entry: exact conditionals at any K.

    Entries are grouped: a state is one of `SPREAD` entries, so that transition matrices stay small.
    """

    def __init__(self, size: int, generator: torch.Generator) -> None:
        self.size, states = size, min(size, SPREAD)
        self.entries = torch.stack([torch.randperm(size, generator=generator)[:states] for _ in range(L)])
        self.first = dirichlet((), states, generator)
        self.step = dirichlet((states,), states, generator) * 0.8 + 0.2 / states
        powers = [torch.eye(states, dtype=torch.float64)]
        for _ in range(L):
            powers.append(powers[-1] @ self.step)
        self.powers = powers
        self.marginals = torch.stack([self.first @ powers[i] for i in range(L)])

    def spread(self, position: int, probs: Tensor) -> Tensor:
        """Distributions (N, states) of a position to (N, K)."""
        out = torch.zeros(len(probs), self.size, dtype=torch.float64)
        out[:, self.entries[position]] = probs
        return out

    def all_marginals(self) -> Tensor:
        """(L, K)."""
        return torch.cat([self.spread(i, self.marginals[i : i + 1]) for i in range(L)])

    def sequence_entropy(self) -> float:
        """H(C) of a whole sequence, bits."""
        rows = torch.special.entr(self.step).sum(-1)
        steps = sum((self.marginals[i] * rows).sum() for i in range(L - 1))
        return ((torch.special.entr(self.first).sum() + steps) / math.log(2)).item()

    def sample(self, num: int, order: list[int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Tokens (num, L), revealed in an order, and the distributions (num, L, K) that they were drawn from."""
        states = torch.full((num, L), -1)
        drawn_from = torch.zeros(num, L, self.size, dtype=torch.float64)
        for position in order:
            before = [i for i in range(position) if states[0, i] >= 0]
            after = [i for i in range(position + 1, L) if states[0, i] >= 0]
            probs = self.marginals[position].expand(num, -1)
            if before:
                probs = self.powers[position - before[-1]][states[:, before[-1]]]
            if after:
                probs = probs * self.powers[after[0] - position][:, states[:, after[0]]].T
            probs = probs / probs.sum(-1, keepdim=True)
            states[:, position] = torch.multinomial(probs, 1, generator=generator)[:, 0]
            drawn_from[:, position] = self.spread(position, probs)
        tokens = torch.stack([self.entries[i][states[:, i]] for i in range(L)], 1)
        return tokens, drawn_from


def draw_prompt(kind: str, size: int, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, list[float]]:
    """Tokens (n * n, L), distributions (n * n, L, K) and the truth: H_exec, H_path, H_total a token, H a sequence."""
    chains = [Chain(size, generator) for _ in range(KINDS if kind == "paths" else 1)]
    if kind == "independent":
        for chain in chains:
            chain.step = chain.first.expand_as(chain.step)
            chain.powers = [chain.powers[0], *[chain.step] * L]
            chain.marginals = chain.first.expand(L, -1)
    tokens, drawn_from = [], []
    for _ in range(n):
        chain = chains[int(torch.randint(len(chains), (), generator=generator))]
        order = torch.randperm(L, generator=generator).tolist() if kind == "diffusion" else list(range(L))
        some, probs = chain.sample(n, order, generator)
        tokens.append(some)
        drawn_from.append(probs)
    marginals = torch.stack([chain.all_marginals() for chain in chains])
    execution, total = bits(marginals), bits(marginals.mean(0))
    sequence = sum(chain.sequence_entropy() for chain in chains) / len(chains)
    return torch.cat(tokens), torch.cat(drawn_from), [execution, total - execution, total, sequence]


def estimate(tokens: Tensor, drawn_from: Tensor, n: int) -> dict[str, list[float]]:
    """H_exec, H_path, H_total a token by each estimator; samples are ordered by path, then execution."""
    paths = torch.arange(n).repeat_interleave(n)
    order = torch.arange(n * n).view(n, n).T.flatten()  # as plans have it: path after path, round and round
    paths, tokens, drawn_from = paths[order], tokens[order], drawn_from[order]
    groups, shape = group_samples([0] * n * n, paths.tolist())
    sums = torch.zeros(math.prod(shape), L, drawn_from.shape[-1], dtype=torch.float64)
    for view in torch.tensor(groups).unbind(1):
        sums.index_add_(0, view, drawn_from)
    recorded = marginal_entropies(sums.view(*shape, L, -1)).tolist()
    counted = count_entropies(tokens, torch.zeros(n * n, dtype=torch.int64), paths).tolist()
    found = {
        "lens A": recorded[:3],
        "lens A, plug-in": recorded[3:],
        "counts": counted[:3],
        "counts, plug-in": counted[3:],
    }
    sequence = torch.special.entr(drawn_from).sum((1, 2)).mean().item() / math.log(2)
    return {
        **{name: [execution, total - execution, total] for name, (execution, _, total) in found.items()},
        "lens B": [math.nan, math.nan, sequence],
    }


def study(
    kind: str, size: int, n: int, num_prompts: int, generator: torch.Generator
) -> tuple[dict[str, Tensor], Tensor]:
    """Estimates (prompts, 3) by estimator, and truths (prompts, 4)."""
    rows: dict[str, list[list[float]]] = {}
    truths = []
    for _ in tqdm(range(num_prompts), desc=f"{kind}, K = {size}, n = {n}", leave=False):
        tokens, drawn_from, truth = draw_prompt(kind, size, n, generator)
        truths.append(truth)
        for name, found in estimate(tokens, drawn_from, n).items():
            rows.setdefault(name, []).append(found)
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in rows.items()}, torch.tensor(truths)


def coverage(estimates: Tensor, truth: float, prompts_a_run: int) -> float:
    """Share of runs whose 95 % interval holds the truth."""
    runs = estimates[: len(estimates) // prompts_a_run * prompts_a_run].view(-1, prompts_a_run)
    ends = [bootstrap_mean(run)[1:] for run in runs]
    return sum(low <= truth <= high for low, high in ends) / len(ends)


def bias_by_samples(size: int, num_prompts: int, generator: torch.Generator) -> dict[str, list[float]]:
    """Bias of H_total a token against the number of samples, share of the truth, by estimator."""
    found: dict[str, list[float]] = {}
    for n in (2, 4, 6, 8, 12, 16):
        sums: dict[str, list[float]] = {}
        truth = []
        for _ in range(num_prompts):
            tokens, drawn_from, true = draw_prompt("autoregressive", size, n, generator)
            truth.append(true[2])
            counts = torch.zeros(L, size, dtype=torch.int64)
            counts.scatter_add_(1, tokens.T, torch.ones_like(tokens.T))
            for name in ("plugin", "miller_madow", "grassberger", "chao_shen", "chao_wang_jost"):
                value = getattr(estimators, f"{name}_entropy")(counts).mean().item()
                sums.setdefault(f"counts, {name.replace('_', '-')}", []).append(value)
            both = estimate(tokens, drawn_from, n)
            sums.setdefault("distributions, plug-in", []).append(both["lens A, plug-in"][2])
            sums.setdefault("distributions, jackknife", []).append(both["lens A"][2])
        for name, values in sums.items():
            found.setdefault(name, []).append(sum(values) / sum(truth) - 1)
    return found


def draw(curves: dict[int, dict[str, list[float]]], path: Path) -> None:
    """Bias against the number of samples, a panel a codebook size."""
    figure, axes = plt.subplots(1, len(curves), figsize=(4.2 * len(curves), 3.6), sharey=True)
    styles = ["o--", "s--", "^--", "v--", "D--", "o-", "s-"]
    for axis, (size, found) in zip(axes, curves.items(), strict=True):
        for (name, values), style in zip(found.items(), styles, strict=True):
            axis.plot([n * n for n in (2, 4, 6, 8, 12, 16)], [100 * v for v in values], style, label=name, markersize=4)
        axis.axhspan(-1, 1, color="0.9", zorder=0)
        axis.set(title=f"K = {size}", xscale="log", xlabel="samples of a prompt")
    axes[0].set_ylabel("bias of H_total per token, %")
    axes[-1].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Run all, write table and figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=500, help="runs whose intervals are counted")
    parser.add_argument("--prompts", type=int, default=16, help="prompts a run")
    parser.add_argument("--paths", type=int, default=8, help="paths, and executions of each")
    arguments = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    n, total = arguments.paths, arguments.repetitions * arguments.prompts
    biases = ("bias H_total", "bias H_path", "covers", "covers path")
    header = ("generator", "K", "H_total", "H_path", *biases, "plug-in H_path")
    rows = [header]
    sequences = [("generator", "K", "H(C) a sequence", "lens B", "bias", "covers")]
    for kind in ("independent", "autoregressive", "diffusion", "paths"):
        for size in SIZES:
            found, truths = study(kind, size, n, total, generator)
            truth, lens = truths.mean(0).tolist(), found["lens A"]
            bias = [(lens[:, i].mean().item() - truth[i]) / truth[2] for i in (2, 1)]
            # The truth of a run is that of the family, so the intervals must cover what prompts differ by.
            covers = [coverage(lens[:, i], truth[i], arguments.prompts) for i in (2, 1)]
            plugin = found["lens A, plug-in"][:, 1].mean().item()
            shown = [f"{truth[2]:.3f}", f"{truth[1]:.3f}", *(f"{100 * b:+.2f} %" for b in bias)]
            rows.append((kind, str(size), *shown, *(f"{100 * c:.1f} %" for c in covers), f"{plugin:.3f}"))
            if kind != "paths":
                by_sequence = found["lens B"][:, 2]
                wrong = 100 * (by_sequence.mean().item() / truth[3] - 1)
                covered = 100 * coverage(by_sequence, truth[3], arguments.prompts)
                numbers = (f"{truth[3]:.3f}", f"{by_sequence.mean().item():.3f}", f"{wrong:+.2f} %", f"{covered:.1f} %")
                sequences.append((kind, str(size), *numbers))
    curves = {size: bias_by_samples(size, 300, generator) for size in (8, 64, 4096)}
    draw(curves, HERE / "decomposition.png")
    text = (HERE / "decomposition.md").read_text(encoding="utf-8")
    start, end = "<!-- measured -->", "<!-- end -->"
    before, after = text.split(start)[0], text.split(end)[1]
    setting = f"{arguments.repetitions} runs of {arguments.prompts} prompts x {n} paths x {n} executions, seed 0"
    tables = f"{setting}:\n\n```\n{format_table(rows)}\n\n{format_table(sequences)}\n```"
    (HERE / "decomposition.md").write_text(f"{before}{start}\n{tables}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
