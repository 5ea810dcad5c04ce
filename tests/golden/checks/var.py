"""Checks of VAR's golden cases.

B samples, S scales, L tokens of all scales, K codebook entries, C size of a code.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable

import torch
from torch import Tensor, nn

from gendiv_lightning.generators.var.generator import ScalePredictor, guidance_at
from gendiv_lightning.generators.var.tokenizer import VQVAE, Quantizer, VAEConfig, to_uint8
from gendiv_lightning.generators.var.transformer import VARConfig, VARTransformer
from gendiv_lightning.golden.case import Case, all_layers, check_digests, fill_by_recipe, greedy_sampler, read_config
from gendiv_lightning.records import TokenSamples
from gendiv_lightning.sampling import Draw, Observer
from gendiv_lightning.sampling.next_scale import sample_next_scale


class _Logits(Observer):
    """Keeps the logits (B, n, K) of every scale."""

    def __init__(self, num_samples: int) -> None:
        self.num_samples, self.logits = num_samples, list[Tensor]()

    def observe(self, draw: Draw) -> None:
        self.logits.append(draw.logits.unflatten(0, (self.num_samples, -1)))


def _models(case: Case) -> tuple[VARTransformer, VQVAE]:
    var = VARTransformer(read_config(VARConfig, case.spec["transformer"])).eval()
    vae = VQVAE(read_config(VAEConfig, case.spec["tokenizer"])).eval()
    parameters: dict[str, Tensor] = {}
    for name, model in (("var", var), ("vae", vae)):
        own = {key: parameter.data for key, parameter in model.named_parameters()}
        fill_by_recipe(own, case.spec["recipe_seed"])
        parameters.update({f"{name}.{key}": tensor for key, tensor in own.items()})
    check_digests(case, parameters)
    return var, vae


def _greedy(var: VARTransformer, quantizer: Quantizer, labels: Tensor, official: float) -> tuple[TokenSamples, Tensor]:
    """The loop without chance, and its logits (B, L, K); official guidance c is our 1 + c."""
    watch = _Logits(len(labels))
    knobs = {"guidance": 1 + official, "observers": (watch,)}
    sampler = greedy_sampler(len(labels), var.config.codebook_size, **knobs)
    samples = sample_next_scale(ScalePredictor(var, quantizer, labels, sampler), sampler, var.config.sizes)
    return samples, torch.cat(watch.logits, 1)


def _check_var(case: Case) -> None:
    var, vae = _models(case)
    labels, pixels = case["labels"], case["pixels"]
    for name, official, _ in case.guided("greedy"):
        samples, logits = _greedy(var, vae.quantize, labels, official)
        case.exact(name, samples.tokens)
        case.compare(name.replace("greedy", "logits"), logits)
        _check_tokens(case, var, vae, samples.tokens, official)
    latents = vae.latents(2 * pixels - 1)
    case.compare("latents", latents)
    case.exact("encoded", vae.encode(2 * pixels - 1))
    case.exact("uint8", to_uint8(case["samples"]).permute(1, 2, 0))
    for name in case.names:
        if found := re.fullmatch(r"kept_k(\d+)_p(\d+)p(\d+)", name):
            knobs = {"top_k": int(found[1]), "top_p": float(f"{found[2]}.{found[3]}")}
            sampler = greedy_sampler(1, var.config.codebook_size, **knobs)
            case.exact(name, sampler.filter_logits(case["filter_logits"]) > -torch.inf)


def _check_tokens(case: Case, var: VARTransformer, vae: VQVAE, tokens: Tensor, official: float) -> None:
    """What tokens are to the transformer, scale by scale, and to the decoder."""
    totals, labels = vae.quantize.totals(tokens), case["labels"]
    codes = [vae.quantize.at_scale(total, scale) for scale, total in enumerate(totals[:-1], 1)]
    case.compare("var_input", torch.cat(codes, 1))
    case.compare("f_hat", totals[-1])
    case.compare("pixels", 0.5 * (vae.decode(tokens[:1]) + 1))
    conditional = var(labels, codes)
    case.compare("logits_cond", conditional)
    null = var(torch.full_like(labels, var.config.num_classes), codes)
    weights = torch.tensor([guidance_at(i, len(totals), 1 + official) for i in range(len(totals))])
    guided = null + weights.repeat_interleave(torch.tensor(var.config.sizes))[:, None] * (conditional - null)
    case.compare(f"logits_cfg{official:g}".replace(".", "p"), guided)


def _check_manifest(case: Case) -> None:
    for name, expected in case.spec["models"].items():
        with torch.device("meta"):
            model = _official_model(name)
        shapes = {key: list(tensor.shape) for key, tensor in model.state_dict().items()}
        lines = "\n".join(f"{key} {tuple(shape)}" for key, shape in sorted(shapes.items()))
        got = {
            "params": sum(parameter.numel() for parameter in model.parameters()),
            "tensors": len(shapes),
            "sha256_listing": hashlib.sha256(lines.encode()).hexdigest(),
        }
        case.same(f"shapes of {name}", shapes, all_layers(expected["keys"]))
        case.same(name, got, {key: value for key, value in expected.items() if key != "keys"})
    quantizer = Quantizer(VAEConfig(codebook_size=1, code_dim=1))
    used = {str(scale): quantizer.smoothing(scale) for scale in range(len(quantizer.sides))}
    case.same("smoothings", used, {str(scale): i for scale, i in enumerate(case.spec["smoothings"])})


def _official_model(name: str) -> nn.Module:
    if found := re.fullmatch(r"var_d(\d+)", name):
        return VARTransformer(VARConfig.of_depth(int(found[1])))
    if name != "vae_ch160v4096z32":
        raise ValueError(f"{name} is no released model")
    return VQVAE(VAEConfig())


CHECKS: dict[str, Callable[[Case], None]] = {"var": _check_var, "var_manifest": _check_manifest}
