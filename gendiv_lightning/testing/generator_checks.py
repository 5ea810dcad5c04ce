"""The contract of a generator as checks, which `gendiv check-generator` prints and tests run one by one.

Samples must not depend on their batch. In float32 one dependence remains: the number of rows can change the last digits
of a logit, and with them a token whose uniform is at the boundary between two tokens. To distinguish such an *edge
draw* from a real dependence, the checks compare both distributions where a row first differs: their cumulative sums
must agree to within `EDGE`. Later tokens of that row are then excused, and the row is counted in the outcome.

Notation: B rows, L tokens, K codebook entries.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from inspect import signature
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor

from gendiv_lightning.callbacks.probes import (
    Argmax,
    Branch,
    CodebookSubset,
    FreezePath,
    Guidance,
    PosteriorArgmax,
    ProbeCallback,
    Temperature,
    TopK,
    TopP,
)
from gendiv_lightning.errors import NotApplicable
from gendiv_lightning.generators.base import Generator, TokenGenerator
from gendiv_lightning.records import ImageBatch, LatentSamples, NoiseKey, Prompt, PromptBatch, SampleBatch, TokenSamples
from gendiv_lightning.sampling import Draw, Noise, Observer

EDGE = 1e-4  # largest difference of cumulative probabilities that rounding explains
STATISTICS = 1e-3  # tolerance of entropies and log-probabilities in bits
LATENTS = 1e-3  # tolerance of latents, relative to their standard deviation
LEVELS = 1  # tolerance of decoded images in levels of 255
NUM_SAMPLES = 4
PROMPTS = ("the sun at the left", "two green hills", "the pink sky")  # also valid for the toy models
Status = Literal["pass", "fail", "not applicable"]


class Outcome(NamedTuple):
    """Result of a check.

    Attributes:
        name: name of the check.
        meaning: the requirement.
        status: "pass", "fail" or "not applicable".
        detail: why it failed or does not apply; or how many rows were excused at an edge draw.
    """

    name: str
    meaning: str
    status: Status
    detail: str = ""


@dataclass
class Subject:
    """A generator under check.

    Attributes:
        generator: the generator, with loaded weights.
        texts: at least 3 different valid prompts.
        make: constructs another instance with some settings changed, not loaded; None if the class cannot be called.
        num_edges: number of rows that were excused at an edge draw in the present check.
    """

    generator: Generator
    texts: Sequence[str] = PROMPTS
    make: Callable[..., Generator] | None = None
    num_edges: int = 0

    def batch(self, *numbers: int, num_samples: int = NUM_SAMPLES, seed: int = 0) -> PromptBatch:
        """A batch of some prompts, all three by default, in which every sample has its own path."""
        return name_rows(
            [Prompt(f"prompt {n}", self.texts[n]) for n in numbers or range(3)],
            lambda prompt, sample: NoiseKey(prompt.id, 0, path=sample, sample=sample),
            num_samples,
            seed,
        )

    @cached_property
    def baseline(self) -> SampleBatch:
        """The samples of all three prompts."""
        return self.generator.sample(self.batch())

    @property
    def tokens_of(self) -> TokenGenerator[Any]:
        """The generator; raises NotApplicable if it draws no tokens."""
        if not isinstance(self.generator, TokenGenerator):
            raise NotApplicable("the generator draws no tokens")
        return self.generator

    # --- comparing ---

    def assert_same(
        self,
        batch: PromptBatch,
        expected: PromptBatch,
        rows: Sequence[int],
        probes: Sequence[ProbeCallback] = (),
        batch_size: int | None = None,
    ) -> None:
        """Check that the samples of `batch` equal rows of the samples of `expected`.

        Args:
            batch: the batch to check.
            expected: the reference batch, which is sampled without probes.
            rows: for each row of `batch`, its row in `expected`.
            probes: probes for `batch`.
            batch_size: batch size for `batch`; None keeps the generator's.
        """

        def sample(observers: Sequence[Observer] = ()) -> SampleBatch:
            former = self.generator.batch_size
            self.generator.batch_size = batch_size or former
            try:
                return self.generator.sample(batch, probes, observers=observers)
            finally:
                self.generator.batch_size = former

        def sample_expected(observers: Sequence[Observer] = ()) -> SampleBatch:
            if not observers and expected == self.baseline.batch:
                return self.baseline
            return self.generator.sample(expected, observers=observers)

        samples, reference = sample(), sample_expected()
        differing = [i for i, row in enumerate(rows) if not _is_same_row(samples, i, reference, row)]
        if differing and isinstance(self.generator, TokenGenerator):
            sizes = batch_size or self.generator.batch_size, self.generator.batch_size
            for i in differing:
                _check_edge(sample, sample_expected, (i, rows[i]), sizes)
            self.num_edges += len(differing)
        elif differing:
            raise AssertionError(f"{len(differing)} of {len(rows)} samples differ")


def _is_same_row(batch: SampleBatch, row: int, expected: SampleBatch, other: int) -> bool:
    """Whether tokens or latents of two samples are equal; AssertionError if only their statistics or images differ."""
    samples, reference = batch.samples, expected.samples
    if isinstance(samples, LatentSamples):
        latents = cast(LatentSamples, reference).latents[other]
        if (samples.latents[row] - latents).abs().max() > LATENTS * latents.std():
            return False
    elif not torch.equal(samples.tokens[row], cast(TokenSamples, reference).tokens[other]):
        return False
    else:
        for name in ("entropy", "log_prob"):
            distance = (getattr(samples, name)[row] - getattr(reference, name)[other]).abs().max().item()
            assert distance <= STATISTICS, f"{name} of equal tokens differs by {distance:.2g} bits"
    levels = (batch.images[row].int() - expected.images[other].int()).abs().max().item()
    assert levels <= LEVELS, f"images of equal samples differ by {levels} of 255"
    return True


class _Trace(Observer):
    """Records the draws of one row of a batch: tokens by step, and the distributions of one step.

    Args:
        row: row of the batch.
        batch_size: number of rows sampled together; step numbers restart with each micro-batch.
        step: step whose distributions are recorded.
    """

    def __init__(self, row: int, batch_size: int, step: int | None = None) -> None:
        self.micro_batch, self.row = divmod(row, batch_size)
        self.step = step
        self.drawn: dict[int, dict[int, int]] = {}
        self.probs = torch.empty(0)
        self._current, self._last_step = 0, -1

    def observe(self, draw: Draw) -> None:
        """Record the draws of the row."""
        self._current += draw.step <= self._last_step
        self._last_step = draw.step
        chosen = (draw.rows == self.row).nonzero()[:, 0]
        if self._current != self.micro_batch or not len(chosen):
            return
        self.drawn[draw.step] = dict(zip(draw.positions[chosen].tolist(), draw.tokens[chosen].tolist(), strict=True))
        if draw.step == self.step:
            self.probs = draw.logits[chosen].softmax(-1).double().cpu()


def _check_edge(
    sample: Callable[[Sequence[Observer]], Any],
    expected: Callable[[Sequence[Observer]], Any],
    rows: tuple[int, int],
    batch_sizes: tuple[int, int],
) -> None:
    """Raise AssertionError unless rounding explains the first difference between two rows."""
    calls = sample, expected
    traces = [_Trace(row, size) for row, size in zip(rows, batch_sizes, strict=True)]
    for call, trace in zip(calls, traces, strict=True):
        call([trace])
    drawn, reference = (trace.drawn for trace in traces)
    step = next((s for s in sorted({*drawn, *reference}) if drawn.get(s) != reference.get(s)), None)
    assert step is not None, f"row {rows[0]} differs, but not when it is sampled again: sampling is not repeatable"
    where = f"row {rows[0]}, step {step}"
    assert drawn.get(step, {}).keys() == reference.get(step, {}).keys(), f"{where}: other positions are drawn"
    detailed = [_Trace(row, size, step) for row, size in zip(rows, batch_sizes, strict=True)]
    for call, trace in zip(calls, detailed, strict=True):
        call([trace])
    distance = (detailed[0].probs.cumsum(-1) - detailed[1].probs.cumsum(-1)).abs().max().item()
    assert distance <= EDGE, f"{where}: the distributions differ by {distance:.2g}"


def name_rows(
    prompts: Sequence[Prompt], key: Callable[[Prompt, int], NoiseKey], num_samples: int, seed: int = 0
) -> PromptBatch:
    """A batch of whole prompts whose samples have the noise keys `key(prompt, number)`."""
    keys = tuple(key(prompt, sample) for prompt in prompts for sample in range(num_samples))
    rows = tuple(row for row in range(len(prompts)) for _ in range(num_samples))
    return PromptBatch(seed, tuple(prompts), tuple(range(len(prompts))), keys, rows)


def _values(sampled: SampleBatch) -> Tensor:
    """Tokens (B, L) or latents (B, ...)."""
    return sampled.samples[0]


def _distinct(sampled: SampleBatch) -> list[int]:
    """Number of distinct samples per prompt; latents are distinct if they differ by more than rounding."""
    owners = torch.tensor(sampled.batch.rows)
    values = _values(sampled).flatten(1).double()
    tolerance = LATENTS * values.std().item() if isinstance(sampled.samples, LatentSamples) else 0.0
    numbers = []
    for prompt in range(len(sampled.batch.prompts)):
        rows = values[owners == prompt]
        is_same = (rows[:, None] - rows).abs().amax(2) <= tolerance
        numbers.append(int((is_same.tril(-1).sum(1) == 0).sum()))
    return numbers


# --- the checks, in the order in which they are printed ---


def samples_are_complete(subject: Subject) -> None:
    """A sample has an image, and tokens with statistics or latents, on the CPU."""
    sampled, num_rows = subject.baseline, 3 * NUM_SAMPLES
    images = sampled.images
    assert images.dtype == torch.uint8, f"images must be uint8, got {images.dtype}"
    assert images.shape[:2] == (num_rows, 3), f"images must be ({num_rows}, 3, H, W), got {tuple(images.shape)}"
    assert images.float().std() > 0, "all images are one flat colour"
    for name, values in {"images": images, **sampled.samples._asdict()}.items():
        assert values.device.type == "cpu", f"{name} must be on the CPU, got {values.device}"
        assert len(values) == num_rows, f"{name} must have {num_rows} rows, got {len(values)}"
        assert not values.float().isnan().any(), f"{name} is NaN"
    if isinstance(sampled.samples, TokenSamples):
        _check_statistics(sampled.samples, subject.tokens_of)


def _check_statistics(samples: TokenSamples, generator: TokenGenerator[Any]) -> None:
    tokens, entropy, log_prob = samples
    size, shape = generator.codebook_size, (len(tokens), generator.grid[0] * generator.grid[1])
    for name, values in samples._asdict().items():
        assert values.shape == shape, f"{name} must be {shape} by the grid, got {tuple(values.shape)}"
    assert tokens.dtype == torch.int64, f"tokens must be int64, got {tokens.dtype}"
    assert _are_of(tokens, size), f"tokens must be in 0..{size - 1}, got {tokens.min()} to {tokens.max()}"
    assert entropy.dtype == log_prob.dtype == torch.float32, "entropy and log_prob must be float32"
    assert entropy.min() >= 0, f"entropy must be at least 0, got {entropy.min()}"
    assert log_prob.max() <= 0, f"log_prob must be at most 0, got {log_prob.max()}"
    assert log_prob.min() > -torch.inf, "log_prob must be finite: a token of probability 0 was drawn"


def _are_of(tokens: Tensor, codebook_size: int) -> bool:
    return bool(((tokens >= 0) & (tokens < codebook_size)).all())


def identity_is_stable(subject: Subject) -> None:
    """`identity()` is plain data, equal for equal settings and different for different ones."""
    generator = subject.generator
    first, again = (json.dumps(generator.identity(), sort_keys=True) for _ in range(2))
    assert first == again, "two calls differ"
    if subject.make is None:
        return
    takes = signature(type(generator)).parameters
    settings = {"temperature": 0.55, "top_k": 5, "top_p": 0.55, "guidance_scale": 9.5}
    seen = {first: "the unchanged settings"}
    if "batch_size" in takes and not generator.pads_batches:
        other = subject.make(batch_size=generator.batch_size + 1)
        other.locate()
        assert json.dumps(other.identity(), sort_keys=True) == first, "depends on batch_size, unlike the samples"
    for name, value in settings.items():
        if name in takes and isinstance(generator, TokenGenerator):
            other = subject.make(**{name: value})
            other.locate()
            text = json.dumps(other.identity(), sort_keys=True)
            assert text not in seen, f"{name}={value} has the same identity as {seen[text]}"
            seen[text] = f"{name}={value}"


def prompts_are_checked(subject: Subject) -> None:
    """`check_prompts` returns warnings, and `text_lengths` one length per text, without weights."""
    warnings = subject.generator.check_prompts(subject.texts)
    assert all(isinstance(line, str) for line in warnings), "check_prompts must return texts"
    lengths = subject.generator.text_lengths(subject.texts)
    if lengths is not None:
        assert len(lengths.lengths) == len(subject.texts), "text_lengths must count every text"


def sampling_repeats(subject: Subject) -> None:
    """Sampling again gives the same samples: all randomness comes from the sampler's keyed noise."""
    again = subject.generator.sample(subject.batch())
    assert torch.equal(_values(again), _values(subject.baseline)), "samples differ: use the sampler's noise only"
    assert torch.equal(again.images, subject.baseline.images), "images differ"


def seeds_differ(subject: Subject) -> None:
    """Another seed gives other samples, and the samples of a prompt differ."""
    other = subject.generator.sample(subject.batch(seed=1))
    differs = (_values(other) != _values(subject.baseline)).flatten(1).any(1).view(3, NUM_SAMPLES).any(1)
    assert differs.all(), "samples do not depend on the seed"
    assert min(_distinct(subject.baseline)) > 1, "all samples of a prompt are equal"


def batch_size_does_not_matter(subject: Subject) -> None:
    """A sample does not depend on the number of samples drawn together."""
    for size in (1, 3, 8):
        batch = subject.batch()
        subject.assert_same(batch, batch, range(len(batch.keys)), batch_size=size)


def row_order_does_not_matter(subject: Subject) -> None:
    """A sample does not depend on its position in the batch."""
    batch = subject.batch()
    order = [(7 * i + 5) % len(batch.keys) for i in range(len(batch.keys))]
    permuted = batch._replace(keys=tuple(batch.keys[i] for i in order), rows=tuple(batch.rows[i] for i in order))
    subject.assert_same(permuted, batch, order)


def runs_resume(subject: Subject) -> None:
    """Samples are the same if only missing prompts are sampled, or if more samples are added."""
    for number in range(3):
        subject.assert_same(
            subject.batch(number), subject.batch(), range(NUM_SAMPLES * number, NUM_SAMPLES * (number + 1))
        )
    more = subject.batch(0, num_samples=NUM_SAMPLES + 2)
    subject.assert_same(subject.batch(0), more, range(NUM_SAMPLES))


def prompts_matter(subject: Subject) -> None:
    """Two prompts with the same noise give different samples or different probabilities."""
    first, second = (
        subject.generator.sample(
            name_rows([Prompt("same", text)], lambda prompt, n: NoiseKey(prompt.id, 0, n, n), NUM_SAMPLES)
        )
        for text in subject.texts[:2]
    )
    same = [torch.equal(a, b) for a, b in zip(first.samples, second.samples, strict=True)]
    assert not all(same), f"{subject.texts[0]!r} and {subject.texts[1]!r} give the same samples"


def argmax_is_deterministic(subject: Subject) -> None:
    """Argmax removes execution noise: samples that share a path are equal, and their tokens are certain."""
    generator = subject.generator
    batch = name_rows(
        [Prompt(f"prompt {n}", subject.texts[n]) for n in range(2)],
        lambda prompt, sample: NoiseKey(prompt.id, 0, path=0, sample=sample),
        NUM_SAMPLES,
    )
    token_probes = [[PosteriorArgmax()]] if isinstance(generator, TokenGenerator) else []
    for probes in ([Argmax()], [Argmax(), FreezePath()], *token_probes):
        sampled = generator.sample(batch, probes)
        names = " and ".join(type(probe).__name__ for probe in probes)
        assert _distinct(sampled) == [1, 1], f"under {names} samples of one path differ"
        for images in sampled.images.split(NUM_SAMPLES):
            levels = (images.int() - images[0].int()).abs().max()
            assert levels <= LEVELS, f"under {names} images of one path differ"
        if isinstance(sampled.samples, TokenSamples):
            uncertain = sampled.samples.entropy.abs().max().item() + sampled.samples.log_prob.abs().max().item()
            assert uncertain == 0, f"under {names} tokens are not certain"


def chance_is_as_described(subject: Subject) -> None:
    """`chance` describes what varies: Argmax leaves only the path, FreezePath only the execution."""
    generator = subject.generator
    for kind, probe, rest in (("path", Argmax(), "Argmax"), ("execution", FreezePath(), "FreezePath")):
        words = generator.describe()["chance"][kind]
        most = max(_distinct(generator.sample(subject.batch(), [cast(ProbeCallback, probe)])))
        if words:
            assert most > 1, f"chance.{kind} is {words!r}, but under {rest} all samples of a prompt are equal"
        else:
            assert most == 1, f"chance.{kind} is empty, but under {rest} samples of a prompt differ"


def branches_share_their_start(subject: Subject) -> None:
    """Branch shares all noise before its step and none after it."""
    generator, batch = subject.generator, subject.batch()
    assert _distinct(generator.sample(batch, [Branch(1_000_000)])) == [1, 1, 1], "a late branch leaves noise unshared"
    subject.assert_same(batch, batch, range(len(batch.keys)), [Branch(0)])


def subsets_are_respected(subject: Subject) -> None:
    """No token is outside a codebook subset, whatever other probes do, and no statistic is NaN."""
    size = subject.tokens_of.codebook_size
    others: tuple[list[ProbeCallback], ...] = (
        *([], [TopK(1)], [TopP(0.0)]),
        [TopK(5), TopP(0.5), Guidance(7.5), Temperature(0.0)],
    )
    for number in sorted({1, min(20, size)}):
        tokens = [(5 + 7919 * n) % size for n in range(number)]
        if len(set(tokens)) < number:
            tokens = list(range(number))
        for probes in others:
            sampled = subject.generator.sample(subject.batch(0), [CodebookSubset("list", tokens=tokens), *probes])
            samples = cast(TokenSamples, sampled.samples)
            outside = sorted(set(samples.tokens.flatten().tolist()) - set(tokens))
            assert not outside, f"tokens {outside[:5]} are not in the subset of {number}"
            assert not torch.stack([samples.entropy, samples.log_prob]).isnan().any(), "entropy or log_prob is NaN"
            if number == 1:
                assert samples.entropy.abs().max() == 0, "tokens are not certain although one entry is allowed"


def subsets_intersect(subject: Subject) -> None:
    """Two subsets together allow their intersection."""
    if subject.tokens_of.codebook_size < 12:
        raise NotApplicable("the codebook has fewer than 12 entries")
    probes = [CodebookSubset("list", tokens=tokens) for tokens in ([1, 5, 9], [5, 9, 11])]
    tokens = _values(subject.generator.sample(subject.batch(), probes))
    assert set(tokens.flatten().tolist()) <= {5, 9}, f"tokens are {sorted(set(tokens.flatten().tolist()))}, not 5 and 9"


def probes_commute(subject: Subject) -> None:
    """The order of probes does not matter."""
    probes: list[ProbeCallback] = [FreezePath(), *([Guidance(3.0)] if _takes_guidance(subject.generator) else [])]
    if isinstance(subject.generator, TokenGenerator):
        half = max(1, subject.generator.codebook_size // 2)
        probes += [CodebookSubset("random", size=half), TopK(20), Temperature(0.7)]
    first, second = (subject.generator.sample(subject.batch(0), order) for order in (probes, probes[::-1]))
    assert torch.equal(_values(first), _values(second)), "the reverse order gives other samples"


class _Draws(Observer):
    def __init__(self) -> None:
        self.draws: list[Draw] = []

    def observe(self, draw: Draw) -> None:
        self.draws.append(draw)


def observers_see_every_token(subject: Subject) -> None:
    """Observers change nothing and receive every written token with its statistics; each step draws once."""
    generator, batch, draws = subject.tokens_of, subject.batch(0), _Draws()
    former = generator.batch_size
    generator.batch_size = NUM_SAMPLES
    try:
        sampled, plain = generator.sample(batch, observers=[draws]), generator.sample(batch)
    finally:
        generator.batch_size = former
    assert torch.equal(_values(sampled), _values(plain)), "samples differ with an observer"
    samples = cast(TokenSamples, sampled.samples)
    seen = TokenSamples(*(torch.full_like(values, -99) for values in samples))
    for draw in draws.draws:  # the last draw of a token counts
        for values, drawn in zip(seen, (draw.tokens, draw.entropy, draw.log_prob), strict=True):
            values[draw.rows, draw.positions] = drawn.cpu().to(values.dtype)
    for name, values in samples._asdict().items():
        assert torch.equal(getattr(seen, name), values), (
            f"{name} differs from the observed draws: write all draws to the grid"
        )
    steps = [draw.step for draw in draws.draws]
    assert steps == sorted(set(steps)), "two draws share a step and therefore their uniforms: number the steps"
    num_drawn = sum(len(draw.tokens) for draw in draws.draws)
    if not generator.rewrites_tokens:
        assert num_drawn == samples.tokens.numel(), "tokens are drawn more than once: set rewrites_tokens"
    assert not any(draw.log_probs.isnan().any() for draw in draws.draws), "a distribution is NaN"


def guidance_switches_off(subject: Subject) -> None:
    """A guidance scale of 1 or less turns guidance off."""
    generator, batch = subject.generator, subject.batch(0)
    if not _takes_guidance(generator):
        raise NotApplicable("the generator refuses the Guidance probe")
    off, *same, on = (_values(generator.sample(batch, [Guidance(scale)])) for scale in (1.0, -1.0, 0.0, 4.0))
    is_off = all(torch.equal(off, values) for values in same)
    if not is_off and not isinstance(generator, TokenGenerator):
        raise NotApplicable("scales 1, 0 and -1 differ: guidance is an input of the network and is never off")
    assert is_off, "scales 1, 0 and -1 give different samples"
    if torch.equal(off, on):
        raise NotApplicable("a scale of 4 changes nothing: the generator has no guidance")


def _takes_guidance(generator: Generator) -> bool:
    """Whether the generator accepts the Guidance probe; generators without guidance reject it."""
    try:
        generator.sampler(0, (), [Guidance(3.0)])
    except ValueError:
        return False
    return True


def decoding_is_per_image(subject: Subject) -> None:
    """An image does not depend on the images decoded with it."""
    sampled = subject.baseline
    device = subject.generator.device
    rows = [10, 2, 7]
    kept = type(sampled.samples)(*(values[rows].to(device) for values in sampled.samples))
    with torch.inference_mode():
        images = subject.generator.decode(kept).cpu()
    levels = (images.int() - sampled.images[rows].int()).abs().max().item()
    assert levels <= LEVELS, f"images differ by {levels} of 255 in another batch"


def images_become_tokens(subject: Subject) -> None:
    """`encode_images` returns valid tokens, accepts an empty batch, and rejects images of another size."""
    generator = subject.tokens_of
    images, num_tokens = subject.baseline.images[:3], subject.baseline.samples[0].shape[1]
    try:
        with torch.inference_mode():
            tokens = generator.encode_images(images)
    except NotImplementedError as error:
        raise NotApplicable("encode_images is not implemented: no codebook counts of real images") from error
    assert tokens.shape == (3, num_tokens), f"tokens must be (3, {num_tokens}), got {tuple(tokens.shape)}"
    assert tokens.dtype == torch.int64, f"tokens must be int64, got {tokens.dtype}"
    assert _are_of(tokens, generator.codebook_size), "tokens are outside the codebook"
    with torch.inference_mode():
        assert generator.encode_images(images[:0]).shape == (0, num_tokens), "no images must give (0, L) tokens"
    validated = generator.validation_step(ImageBatch(images, torch.arange(3)))
    assert torch.equal(validated["tokens"], tokens), "validation_step gives other tokens"
    try:
        with torch.inference_mode():
            generator.encode_images(images[:1, :, :-1, :-1])
    except ValueError:
        return
    raise AssertionError("images that are one pixel too small are encoded: raise ValueError")


def likelihood_adds_up(subject: Subject) -> None:
    """`score_tokens` returns the log-probabilities with which tokens were drawn."""
    generator = subject.tokens_of
    if not generator.has_likelihood:
        raise NotApplicable("has_likelihood is false")
    batch, samples = subject.baseline.batch, cast(TokenSamples, subject.baseline.samples)
    with torch.inference_mode():
        conditions = generator.encode_prompts(batch.texts)
        tokens = samples.tokens.to(generator.device)
        scores = generator.score_tokens(conditions, tokens, generator.sampler(batch.seed, batch.keys)).cpu()
    assert scores.shape == tokens.shape, f"scores must be {tuple(tokens.shape)}, got {tuple(scores.shape)}"
    distance = (scores - samples.log_prob).abs().max().item()
    tolerance = STATISTICS if generator.dtype_name == "float32" else 0.5
    assert distance <= tolerance, f"scores differ from the log-probabilities of the draws by up to {distance:.2g} bits"


def samplers_have_the_settings(subject: Subject) -> None:
    """`make_sampler` passes on the noise of the rows and the generator's settings, also for zero rows."""
    generator = subject.generator
    keys = [NoiseKey("p", 0, path=0, sample=0), NoiseKey("p", 0, path=0, sample=1), NoiseKey("p", 1, path=0, sample=1)]
    sampler = generator.sampler(0, keys)
    for name, num_distinct in {"path": 2, "exec": 3}.items():
        noise: Noise = getattr(sampler, name)
        assert len(noise.keys.unique()) == num_distinct, f"the sampler's {name} noise is not that of its rows"
    assert sampler.guidance == generator.guidance_scale, "the sampler does not have the generator's guidance_scale"
    if isinstance(generator, TokenGenerator):
        assert sampler.codebook_size == generator.codebook_size, "the sampler does not have the codebook size"
        assert {name: getattr(sampler, name) for name in generator.settings()} == generator.settings()
    assert len(generator.sampler(0, [], [Argmax(), FreezePath()]).exec.keys) == 0


CHECKS: tuple[Callable[[Subject], None], ...] = (
    samples_are_complete,
    identity_is_stable,
    prompts_are_checked,
    samplers_have_the_settings,
    sampling_repeats,
    seeds_differ,
    batch_size_does_not_matter,
    row_order_does_not_matter,
    runs_resume,
    prompts_matter,
    argmax_is_deterministic,
    chance_is_as_described,
    branches_share_their_start,
    subsets_are_respected,
    subsets_intersect,
    probes_commute,
    observers_see_every_token,
    guidance_switches_off,
    decoding_is_per_image,
    images_become_tokens,
    likelihood_adds_up,
)


def run_check(check: Callable[[Subject], None], subject: Subject) -> Outcome:
    """Run one check; any exception except NotApplicable counts as a failure of the generator."""
    name, meaning = check.__name__.replace("_", " "), (check.__doc__ or "").strip()
    subject.num_edges = 0
    try:
        check(subject)
    except NotApplicable as reason:
        return Outcome(name, meaning, "not applicable", str(reason))
    except Exception as error:  # noqa: BLE001 (the code of anybody's generator)
        kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
        return Outcome(name, meaning, "fail", f"{kind}{error}")
    edges = f"{subject.num_edges} samples differ after an edge draw, see below" if subject.num_edges else ""
    return Outcome(name, meaning, "pass", edges)


def run_checks(subject: Subject) -> Iterable[Outcome]:
    """Run all checks, one after another."""
    return (run_check(check, subject) for check in CHECKS)
