"""Checks of LlamaGen's golden cases.

B samples, R rows (B, or 2 B with the null rows of guidance), T condition positions, N image tokens, K codebook entries.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
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
from gendiv_lightning.golden.case import Case, all_layers, greedy_sampler, load_weights, read_config
from gendiv_lightning.sampling.autoregressive import sample_autoregressive

_NULL_POSITIONS = 120  # rows of the null condition in every released caption model


def _check_gpt(case: Case) -> None:
    gpt = GPT(read_config(GPTConfig, case.spec["config"])).eval()
    if "model" in case.spec:
        size = GPT_SIZES[case.spec["model"]]
        case.same("config", {key: case.spec["config"].get(key) for key in size}, size)
    load_weights(case, gpt)
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
        sampler = greedy_sampler(len(tokens), gpt.config.vocab_size, guidance=scale)
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
    sampler = greedy_sampler(num_samples, gpt.config.vocab_size, guidance=scale)
    prefill = prefill if sampler.is_guided else _first_rows(prefill, num_samples)
    predict = TokenPredictor(gpt, prefill, sampler, cfg_interval=interval)
    return sample_autoregressive(predict, sampler, gpt.config.block_size).tokens[:, :num_tokens]


def _first_rows(prefill: Prefill, num_rows: int) -> Prefill:
    return Prefill(*(part[:num_rows] for part in prefill))


def _check_sampling(case: Case) -> None:
    for setting in case.spec["cases"]:
        i, logits = setting["i"], case[setting["source"]]
        knobs = {"temperature": setting["temperature"], "top_k": setting["top_k"] or None, "top_p": setting["top_p"]}
        sampler = greedy_sampler(*logits.shape, **knobs)
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
    config = read_config(VQConfig, case.spec["config"])
    if "model" in case.spec:
        case.same("config", _listing(config), _listing(VQ_SIZES[case.spec["model"]]))
    model = VQModel(config).eval()
    load_weights(case, model)
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
        case.same(f"shapes of {name}", shapes, all_layers(expected["keys"]))
        case.same(name, {key: got.get(key) for key in listed}, listed)


def _official_model(name: str) -> GPT | VQModel:
    if name in VQ_SIZES:
        return VQModel(VQ_SIZES[name])
    size, _, model_type = name.partition("/")
    positions = _NULL_POSITIONS if model_type == "t2i" else 1
    return GPT(read_config(GPTConfig, {**GPT_SIZES[size], "model_type": model_type, "cls_token_num": positions}))


def _sizes(config: GPTConfig | VQConfig) -> dict[str, int]:
    """The sizes that a manifest lists for a transformer; it lists none for a tokenizer."""
    if isinstance(config, VQConfig):
        return {}
    names = ("n_layer", "n_head", "dim", "head_dim", "ffn_hidden")
    return {**{name: getattr(config, name) for name in names}, "n_kv_head": config.num_kv_heads}


CHECKS: dict[str, Callable[[Case], None]] = {
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
