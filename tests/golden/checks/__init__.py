"""Golden cases: what the official LlamaGen code gave against what this package gives (`gendiv doctor --golden FOLDER`).

A case is a JSON that says what was run (configuration, tolerance, meaning of each tensor), with tensors and weights in
safetensors files beside it. All is read from there: a folder may hold other shapes, scales, seeds and sizes. Every
tensor that a JSON names must be read by its check, unless its description calls it informational or diagnostic.

B samples, R rows (B, or 2 B with the null rows of guidance), T condition positions, N image tokens, K codebook entries.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from math import prod
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.utils import make_grid

from gendiv_lightning.generators.llamagen.generator import TokenPredictor, pack_left
from gendiv_lightning.generators.llamagen.tokenizer import VQ_SIZES, VQConfig, VQModel, to_uint8
from gendiv_lightning.generators.llamagen.transformer import (
    GPT,
    GPT_SIZES,
    Cache,
    GPTConfig,
    Prefill,
    join_prefills,
    rotary_table,
    rotate,
)
from gendiv_lightning.sampling import Noise, TokenSampler
from gendiv_lightning.sampling.autoregressive import sample_autoregressive
from gendiv_lightning.weights.load import load_strictly, read_checkpoint

# Whatever a case can get wrong: files, names, shapes, numbers, and the packages that only some kinds need.
_BAD_CASE = (
    OSError, SafetensorError, LookupError, ValueError, TypeError, AttributeError, RuntimeError, ArithmeticError,
    AssertionError, ImportError,
)  # fmt: skip
_NULL_POSITIONS = 120  # rows of the null condition in every released caption model

Config = TypeVar("Config", GPTConfig, VQConfig)


class CaseResult(NamedTuple):
    """What came of a case.

    Attributes:
        name: file name without ".json".
        error: largest absolute difference of the numbers compared, for texts and listings the number of entries that
            differ; NaN if nothing was compared.
        passed: whether all is within the case's own tolerance and nothing was left unchecked.
        detail: what failed, or how much was checked.
    """

    name: str
    error: float
    passed: bool
    detail: str


class Case:
    """A golden case and the findings about it: a check reads tensors by name and compares."""

    def __init__(self, path: Path) -> None:
        self.folder = path.parent
        self.spec: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        self.kind = _kind(self.spec.get("case", "manifest" if "models" in self.spec else path.stem))
        self.tensors = load_file(self.folder / self.spec["io_file"]) if "io_file" in self.spec else {}
        self.meanings: dict[str, str] = {name: t.get("what", "") for name, t in self.spec.get("tensors", {}).items()}
        self.names = sorted({*self.meanings, *self.tensors})
        self.read: set[str] = set()
        self.errors: list[float] = []
        self.failures: list[str] = []

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise ValueError(f"there is no tensor {name!r} in {self.spec.get('io_file', 'the case')}")
        self.read.add(name)
        return self.tensors[name]

    def weights(self) -> dict[str, Tensor]:
        """The stored weights."""
        return load_file(self.folder / self.spec["weights_file"])

    def number(self, name: str, pattern: str, default: float) -> float:
        """A number that the description of tensor `name` states, group 1 of `pattern`."""
        found = re.search(pattern, self.meanings.get(name, ""))
        return float(found[1]) if found else default

    def guided(self, what: str) -> Iterator[tuple[str, float, int]]:
        """Tensors of `what` with guidance scale and interval (-1 is none): "greedy_cfg7p5_interval3" has 7.5 and 3."""
        for name in self.names:
            if found := re.fullmatch(rf"{what}_cfg(\d+(?:p\d+)?)(?:_interval(\d+))?", name):
                yield name, float(found[1].replace("p", ".")), int(found[2] or -1)

    def tolerance(self, suffix: str) -> float:
        """The stated tolerance whose name ends in `suffix` ("atol", "rtol"); 0 where none is."""
        stated = self.spec.get("tolerance")
        values = [v for k, v in stated.items() if k.endswith(suffix)] if isinstance(stated, dict) else []
        return float(values[0]) if values else 0.0

    def compare(self, name: str, got: Tensor, where: Tensor | None = None) -> None:
        """Hold `got` against tensor `name`, if the case has it, within the case's tolerance, at the entries `where`."""
        self._compare(name, got, where, self.tolerance("atol"), self.tolerance("rtol"))

    def exact(self, name: str, got: Tensor, where: Tensor | None = None, levels: float = 0.0) -> None:
        """The same for integers and booleans, which may differ by `levels`."""
        self._compare(name, got, where, levels, 0.0)

    def _compare(self, name: str, got: Tensor, where: Tensor | None, atol: float, rtol: float) -> None:
        if name not in self:
            return
        expected = self[name].double()
        if got.shape != expected.shape:
            self.failures.append(f"{name}: shape {tuple(got.shape)}, not {tuple(expected.shape)}")
            return
        chosen = torch.ones_like(expected, dtype=torch.bool) if where is None else where.expand_as(expected)
        difference = (got.double() - expected).abs().nan_to_num(nan=torch.inf, posinf=torch.inf)[chosen]
        if not difference.numel():
            self.failures.append(f"{name}: no entry to compare")
            return
        self.errors.append(difference.max().item())
        close = difference.isfinite() & (difference <= atol + rtol * expected.abs()[chosen])
        if not close.all():
            num_wrong, num_compared = int((~close).sum()), close.numel()
            self.failures.append(f"{name}: {num_wrong} of {num_compared} off, by up to {self.errors[-1]:.2g}")

    def same(self, what: str, got: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
        """Hold two listings against each other, entry by entry."""
        wrong = [key for key in {**expected, **got} if got.get(key) != expected.get(key)]
        self.errors.append(len(wrong))
        if wrong:
            self.failures.append(f"{what}: {len(wrong)} of {len(expected)} differ, first {wrong[0]!r}")

    def result(self, name: str) -> CaseResult:
        """The findings, once the check is through."""
        aside = {key for key, what in self.meanings.items() if re.search("(?i)informational|diagnostic", what)}
        if unread := sorted({*self.names} - self.read - aside):
            self.failures.append(f"nothing checks {', '.join(unread)}")
        if not self.errors:
            self.failures.append("nothing was compared")
        detail = "; ".join(self.failures) or f"{len(self.errors)} comparisons"
        return CaseResult(name, max(self.errors, default=torch.nan), not self.failures, detail)


def run_cases(folder: Path) -> Iterator[CaseResult]:
    """Run every case (`*.json`) of a folder, by name. A case that cannot be run is a failure, and the others go on."""
    for path in sorted(folder.glob("*.json")):
        yield run_case(path)


def check_folder(folder: Path, write: Callable[[str], None]) -> int:
    """Run every case of a folder; write a line a case (name, largest error, verdict, detail) and a summary.

    Returns the exit status: 0 if there is a case and all pass, else 1.
    """
    passed = []
    for result in run_cases(folder):
        passed.append(result.passed)
        write(f"{result.name:<16} {result.error:9.2e}  {'pass' if result.passed else 'FAIL'}  {result.detail}")
    if not passed:
        write(f"no golden case (*.json) in {folder}")
    else:
        write(f"{sum(passed)} of {len(passed)} golden cases pass")
    return 0 if passed and all(passed) else 1


@torch.no_grad()
def run_case(path: Path) -> CaseResult:
    """Run one case; whatever is wrong with it becomes a failed result."""
    try:
        case = Case(path)
        _CHECKS[case.kind](case)
        return case.result(path.stem)
    except _BAD_CASE as error:
        reason = " ".join(str(error).split())[:300]
        return CaseResult(path.stem, torch.nan, False, f"{type(error).__name__}: {reason}")


def _kind(case: str) -> str:
    """The longest kind that the name of a case begins with: "gpt_full_b" is a "gpt_full"."""
    kinds = [kind for kind in _CHECKS if re.match(rf"{kind}(?![a-zA-Z0-9])", case)]
    if not kinds:
        raise ValueError(
            f"unknown kind of case {case!r}, known are {', '.join(_CHECKS)}; update the package or drop the case"
        )
    return max(kinds, key=len)


def _config(config_class: type[Config], values: Mapping[str, Any]) -> Config:
    """A configuration from those of the official values that it has."""
    known = {field.name for field in fields(config_class)}
    return config_class(**{key: value for key, value in values.items() if key in known})


def _load(case: Case, model: nn.Module) -> None:
    if "recipe_seed" not in case.spec:
        path = case.folder / case.spec["weights_file"]
        load_strictly(model, read_checkpoint(path), path, torch.float32)
        return
    state = model.state_dict()
    for key, tensor in state.items():
        tensor.copy_(_recipe(key, tensor.shape, case.spec["recipe_seed"]))
    checks = case.spec["checks"]
    digests = {key: hashlib.sha256(state[key].numpy().tobytes()).hexdigest() for key in checks}
    case.same("sha256 of weights", digests, checks)


def _recipe(key: str, shape: torch.Size, seed: int) -> Tensor:
    """Weights that a name and a seed determine, of about unit gain; the rule is the string "recipe" of such a case."""
    if key == "quantize.codebook_used":
        return torch.zeros(shape)
    draws = torch.from_numpy(np.random.RandomState((zlib.crc32(key.encode()) + seed) % 2**32).standard_normal(shape))
    if "norm" in key and key.endswith("weight"):
        return 1 + 0.1 * draws
    if key.endswith("bias"):
        return 0.05 * draws
    if key.endswith(("embeddings.weight", "embedding_table.weight", "uncond_embedding", "quantize.embedding.weight")):
        return draws
    return draws / prod(shape[1:]) ** 0.5


def _check_gpt(case: Case) -> None:
    gpt = GPT(_config(GPTConfig, case.spec["config"])).eval()
    if "model" in case.spec:
        size = GPT_SIZES[case.spec["model"]]
        case.same("config", {key: case.spec["config"].get(key) for key in size}, size)
    _load(case, gpt)
    tokens = case["tf_tokens"]
    prefill, positions, mask = _condition(case, gpt)
    case.compare("prefill_logits_cond", prefill.logits[: len(tokens)])
    case.compare("prefill_logits_uncond", prefill.logits[len(tokens) :])
    _check_teacher_forcing(case, gpt, prefill, tokens)
    for name, scale, interval in case.guided("greedy"):
        case.exact(name, _greedy(gpt, prefill, scale, interval, case[name].shape))
    if "full_logits" in case:
        case.compare("full_logits", gpt(positions, mask, tokens))
    if "freqs_cis" in case:
        case.compare("freqs_cis", _with_zero_rows(gpt.rotary, gpt.config.cls_token_num))


def _condition(case: Case, gpt: GPT) -> tuple[Prefill, Tensor, Tensor]:
    """Prefill of B conditional, then B null rows; condition positions (B, T, dim) and mask (B, T) of the former."""
    if gpt.config.model_type == "c2i":
        labels = case["labels"]
        return gpt.prefill_labels(labels), gpt.cls_embedding(labels), torch.ones(len(labels), 1, dtype=torch.bool)
    features, mask = case["cond_embs"], case["cond_mask"].bool()
    if "t5_embs" in case:
        rows = [row[valid] for row, valid in zip(case["t5_embs"], case["t5_mask"].bool(), strict=True)]
        packed, packed_mask = pack_left(rows, mask.shape[1])
        case.compare("cond_embs", packed)
        case.exact("cond_mask", packed_mask)
    null = gpt.prefill_captions(*gpt.null_features(mask.sum(1)))
    return join_prefills([gpt.prefill_captions(features, mask), null]), gpt.cls_embedding(features), mask


def _check_teacher_forcing(case: Case, gpt: GPT, prefill: Prefill, tokens: Tensor) -> None:
    columns = case["cols"] if "cols" in case else slice(None)
    conditional, null = _teacher_forced(gpt, prefill, tokens).chunk(2)

    def guided(scale: float) -> Tensor:
        sampler = _sampler(len(tokens), gpt.config.vocab_size, guidance=scale)
        if sampler.is_guided:
            return sampler.guide(conditional, null)
        return _teacher_forced(gpt, _first_rows(prefill, len(tokens)), tokens)

    case.compare("tf_logits_cond", conditional[..., columns])
    case.compare("tf_logits_uncond", null[..., columns])
    for name, scale, _ in case.guided("tf_logits"):
        case.compare(name, guided(scale)[..., columns])
    for name, scale, _ in case.guided("argmax"):
        case.exact(name, guided(scale).argmax(-1), where=_clear(case, "argmax_margin"))


def _teacher_forced(gpt: GPT, prefill: Prefill, tokens: Tensor) -> Tensor:
    """Logits (R, N, K) that predict tokens (B, N), one decoding step after another; R is B or, with null rows, 2 B."""
    tokens = tokens.repeat(len(prefill.logits) // len(tokens), 1)
    cache, logits = Cache(prefill, tokens.shape[1]), [prefill.logits]
    for i in range(tokens.shape[1] - 1):
        logits.append(gpt.decode(tokens[:, i : i + 1], torch.tensor([i]), i + 2, cache)[:, 0])
    return torch.stack(logits, 1)


def _greedy(gpt: GPT, prefill: Prefill, scale: float, interval: int, shape: torch.Size) -> Tensor:
    """Tokens (B, N) of the sampling loop without chance; the null rows stay away where there is no guidance."""
    num_samples, num_tokens = shape
    sampler = _sampler(num_samples, gpt.config.vocab_size, guidance=scale)
    prefill = prefill if sampler.is_guided else _first_rows(prefill, num_samples)
    predict = TokenPredictor(gpt, prefill, sampler, cfg_interval=interval)
    return sample_autoregressive(predict, sampler, gpt.config.block_size).tokens[:, :num_tokens]


def _first_rows(prefill: Prefill, num_rows: int) -> Prefill:
    return Prefill(*(part[:num_rows] for part in prefill))


def _sampler(num_samples: int, codebook_size: int, **knobs: Any) -> TokenSampler:
    """A sampler that takes the most probable token."""
    path, execution = (Noise.of(0, role, [("golden", row) for row in range(num_samples)]) for role in ("path", "exec"))
    return TokenSampler(path, execution.off(), codebook_size, **knobs)


def _check_sampling(case: Case) -> None:
    for setting in case.spec["cases"]:
        i, logits = setting["i"], case[setting["source"]]
        knobs = {"temperature": setting["temperature"], "top_k": setting["top_k"] or None, "top_p": setting["top_p"]}
        sampler = _sampler(*logits.shape, **knobs)
        filtered = sampler.filter_logits(logits)
        case.exact(f"keep_{i}", filtered > -torch.inf)
        case.compare(f"probs_{i}", filtered.softmax(-1))
        rows = torch.arange(len(logits))
        case.exact(f"greedy_{i}", sampler.draw_tokens(logits, 0, rows, torch.zeros_like(rows)).tokens)


def _clear(case: Case, margin: str) -> Tensor | None:
    """Where the best entry leads by more than rounding can turn, by its description; None without margins."""
    return case[margin] > case.number(margin, r">\s*([\d.e+-]*\d)", 0.0) if margin in case else None


def _with_zero_rows(table: Tensor, num_positions: int) -> Tensor:
    """The official rotary table: ours, after rows of zeros for the condition positions."""
    return torch.cat([table.new_zeros(num_positions, *table.shape[1:]), table])


def _check_rotary(case: Case) -> None:
    for i, config in enumerate(case.spec["configs"]):
        table = rotary_table(config["grid"], config["head_dim"], case.number(f"freqs_{i}", r"base ([\d.]*\d)", 10000.0))
        table = _with_zero_rows(table, config["cls"])
        case.compare(f"freqs_{i}", table)
        case.compare(f"y_{i}", rotate(case[f"x_{i}"], table[case[f"pos_{i}"]]))


def _check_tokenizer(case: Case) -> None:
    config = _config(VQConfig, case.spec["config"])
    if "model" in case.spec:
        case.same("config", _listing(config), _listing(VQ_SIZES[case.spec["model"]]))
    model = VQModel(config).eval()
    _load(case, model)
    if "image" in case:
        _check_encoder(case, model)
    if "quant" in case:
        case.compare("recon_from_quant", model.decode_codes(case["quant"]))
        case.compare("recon_from_indices", model.decode(case["indices"], *case["quant"].shape[2:]))
    if "codes" in case:
        grid = case["codes_embed"].shape[2:]
        case.compare("codes_embed", model.quantize.lookup(case["codes"], *grid))
        case.compare("decoded", model.decode(case["codes"], *grid))


def _check_encoder(case: Case, model: VQModel) -> None:
    image, clear = case["image"], _clear(case, "index_margin")
    latents, tokens = model.latents(image), model.encode(image)
    case.compare("encoder_out", model.encoder(image))
    case.compare("latents", latents)
    case.exact("indices", tokens, where=clear)
    grid = latents.shape[2:]
    codes_clear = None if clear is None else clear.unflatten(1, grid)[:, None]
    case.compare("quant", model.quantize.lookup(tokens, *grid), where=codes_clear)


def _listing(config: VQConfig) -> dict[str, Any]:
    return {**vars(config), "ch_mult": tuple(config.ch_mult)}


def _check_pixels(case: Case) -> None:
    samples = case["samples"]
    case.exact("uint8", to_uint8(samples).permute(0, 2, 3, 1))
    num_columns, padding = int(case.number("grid", r"nrow\D*(\d+)", 8)), int(case.number("grid", r"padding\D*(\d+)", 2))
    grid = make_grid(samples, nrow=num_columns, padding=padding, normalize=True, value_range=(-1, 1))
    pixels = (255 * grid + 0.5).clamp(0, 255).byte().permute(1, 2, 0)
    levels = re.search(r"allow (\d+) level", str(case.spec.get("tolerance")))
    case.exact("grid", pixels, levels=float(levels[1]) if levels else 0.0)


def _check_text(case: Case) -> None:
    from gendiv_lightning.text.cleaning import clean_caption, clean_once

    items = case.spec["items"]
    raw = [item["raw"] for item in items]
    case.same("once", {text: clean_once(text) for text in raw}, {item["raw"]: item["once"] for item in items})
    case.same("cleaned", {text: clean_caption(text) for text in raw}, {item["raw"]: item["cleaned"] for item in items})


def _check_text_encoder(case: Case) -> None:
    from transformers import T5Config, T5EncoderModel

    model = T5EncoderModel(T5Config(**case.spec["config"])).eval()
    weights = case.weights()
    model.load_state_dict({**weights, "encoder.embed_tokens.weight": weights["shared.weight"]}, strict=True)
    ids, valid = case["input_ids"], case["attention_mask"].bool()
    states = model(input_ids=ids, attention_mask=valid.long()).last_hidden_state
    case.compare("last_hidden_state", states, where=valid[..., None])
    # The generator encodes captions one by one, without padding.
    alone = [model(input_ids=row[mask][None]).last_hidden_state[0] for row, mask in zip(ids, valid, strict=True)]
    states[valid] = torch.cat(alone)
    case.compare("last_hidden_state", states, where=valid[..., None])


def _check_manifest(case: Case) -> None:
    for name, expected in case.spec["models"].items():
        with torch.device("meta"):
            model = _official_model(name)
        shapes = {key: list(tensor.shape) for key, tensor in model.state_dict().items()}
        lines = "\n".join(f"{key} {tuple(shape)}" for key, shape in sorted(shapes.items()))
        listed = {key: value for key, value in expected.items() if key != "keys"}
        got = {
            "params": sum(parameter.numel() for parameter in model.parameters()),
            "tensors": len(shapes),
            "sha256_listing": hashlib.sha256(lines.encode()).hexdigest(),
            **_sizes(model.config),
        }
        case.same(f"shapes of {name}", shapes, _all_layers(expected["keys"]))
        case.same(name, {key: got.get(key) for key in listed}, listed)


def _official_model(name: str) -> GPT | VQModel:
    if name in VQ_SIZES:
        return VQModel(VQ_SIZES[name])
    size, _, model_type = name.partition("/")
    positions = _NULL_POSITIONS if model_type == "t2i" else 1
    return GPT(_config(GPTConfig, {**GPT_SIZES[size], "model_type": model_type, "cls_token_num": positions}))


def _sizes(config: GPTConfig | VQConfig) -> dict[str, int]:
    """The sizes that a manifest lists for a transformer; it lists none for a tokenizer."""
    if isinstance(config, VQConfig):
        return {}
    names = ("n_layer", "n_head", "dim", "head_dim", "ffn_hidden")
    return {**{name: getattr(config, name) for name in names}, "n_kv_head": config.num_kv_heads}


def _all_layers(keys: Mapping[str, list[int]]) -> dict[str, list[int]]:
    """Shapes by state-dict key, "layers.{0..11}." written out."""
    shapes = {}
    for key, shape in keys.items():
        span = re.search(r"\{(\d+)\.\.(\d+)\}", key)
        numbers = range(int(span[1]), int(span[2]) + 1) if span else [0]
        shapes.update({key.replace(span[0], str(i)) if span else key: shape for i in numbers})
    return shapes


_CHECKS: dict[str, Callable[[Case], None]] = {
    "t2i": _check_gpt,
    "c2i": _check_gpt,
    "gqa": _check_gpt,
    "gpt_full": _check_gpt,
    "vq": _check_tokenizer,
    "vq_full": _check_tokenizer,
    "sampling": _check_sampling,
    "rope": _check_rotary,
    "post": _check_pixels,
    "text": _check_text,
    "t5": _check_text_encoder,
    "manifest": _check_manifest,
}
