"""Checks of Meissonic's golden cases.

B samples, R = 2 B rows (null rows, then conditional ones), K codebook entries.
"""

from __future__ import annotations

from collections.abc import Callable

from gendiv_lightning.generators.meissonic.generator import MeissonicPredictor
from gendiv_lightning.generators.meissonic.transformer import MeissonicConfig, MeissonicTransformer
from gendiv_lightning.golden.case import Case, greedy_sampler, load_weights
from gendiv_lightning.sampling.masked import MaskSchedule, sample_masked


def _check_transformer(case: Case) -> None:
    spec, transformer = case.spec, MeissonicTransformer(MeissonicConfig.of(case.spec["config"])).eval()
    case.same("shapes", {key: list(x.shape) for key, x in transformer.state_dict().items()}, spec["shapes"])
    load_weights(case, transformer)
    conditions = case["states"], case["pooled"], case["micro"]
    case.compare("logits", transformer(case["tokens"], spec["timestep"], *conditions))
    for name, scale, _ in case.guided("greedy"):
        num_rows, num_tokens = case[name].shape
        sampler = greedy_sampler(num_rows, transformer.config.codebook_size, guidance=scale)
        predict = MeissonicPredictor(transformer, conditions, sampler, spec["num_steps"])
        schedule = MaskSchedule(spec["num_steps"], temperature=(0.0, 0.0))
        case.exact(name, sample_masked(predict, sampler, schedule, num_tokens, spec["mask_token_id"]).tokens)


CHECKS: dict[str, Callable[[Case], None]] = {"meissonic": _check_transformer}
