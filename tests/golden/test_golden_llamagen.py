"""The golden cases of LlamaGen pass, and what should fail does: nothing in a folder goes unchecked or is forgiven."""

import hashlib
import json
import math
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from gendiv_lightning.generators.llamagen.transformer import GPT, GPTConfig
from gendiv_lightning.golden import check_folder, run_case, run_cases

FOLDER = Path(__file__).parent / "llamagen"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
SMALL = ["c2i", "gqa", "post", "rope", "sampling", "t2i", "t5", "vq"]


def read_spec(folder, name):
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


def write_case(folder, name, spec, tensors=None):
    if tensors is not None:
        spec = {"tensors": {key: {"what": ""} for key in tensors}, **spec, "io_file": f"{name}_io.safetensors"}
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / f"{name}_io.safetensors")
    (folder / f"{name}.json").write_text(json.dumps(spec), encoding="utf-8")
    return folder / f"{name}.json"


@pytest.fixture
def copy_case(tmp_path):
    def copy(name):
        for path in [FOLDER / f"{name}.json", *FOLDER.glob(f"{name}_io.*"), *FOLDER.glob(f"{name}_weights.*")]:
            shutil.copyfile(path, tmp_path / path.name)
        return tmp_path / f"{name}.json"

    return copy


def edit_tensors(path, edit):
    path = path.with_name(f"{path.stem}_io.safetensors")
    tensors = load_file(path)
    edit(tensors)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)


def damaged(tensor):
    """Other numbers of the same shape and type. Logits change by more than a constant, which no probability shows."""
    if tensor.dtype == torch.bool:
        return ~tensor
    if not tensor.is_floating_point():
        return tensor.flatten().roll(1).view_as(tensor)
    return 1.1 * tensor + 0.01


@pytest.mark.parametrize("name", NAMES)
def test_this_package_gives_the_numbers_of_the_official_code(name):
    result = run_case(FOLDER / f"{name}.json")
    assert result.passed, result
    assert math.isfinite(result.error)


def test_the_cases_cover_the_whole_model():
    assert [read_spec(FOLDER, name).get("case", "manifest") for name in NAMES] == NAMES
    assert len(NAMES) == 12


@pytest.mark.parametrize("name", SMALL)
def test_a_change_of_any_tensor_makes_its_case_fail(copy_case, name):
    path = copy_case(name)
    assert run_case(path).passed
    io_path = path.with_name(f"{name}_io.safetensors")
    original = load_file(io_path)
    aside = {"sampled_seed1234", "prefill_logits_all", "index_margin"}
    for key in original.keys() - aside:
        save_file({**original, key: damaged(original[key])}, io_path)
        assert not run_case(path).passed, key


@pytest.mark.parametrize("name", ["c2i", "t2i", "vq"])
def test_a_change_of_one_weight_tensor_makes_the_case_fail(copy_case, name):
    path = copy_case(name)
    assert run_case(path).passed
    weights_path = path.with_name(f"{name}_weights.safetensors")
    weights = load_file(weights_path)
    for key in [key for key in weights if "norm" in key][:4]:
        save_file({**weights, key: damaged(weights[key])}, weights_path)
        assert not run_case(path).passed, key


@pytest.mark.parametrize("key", ["sampled_seed1234", "prefill_logits_all"])
def test_informational_and_diagnostic_tensors_are_left_aside(copy_case, key):
    path = copy_case("c2i")
    edit_tensors(path, lambda tensors: tensors.update({key: damaged(tensors[key])}))
    assert run_case(path).passed


def test_a_wrong_number_is_named_with_its_size(copy_case):
    path = copy_case("t2i")
    edit_tensors(path, lambda tensors: tensors["tf_logits_cfg3"][0, 5, 7:8].add_(0.5))
    result = run_case(path)
    assert not result.passed
    assert result.error == pytest.approx(0.5, abs=1e-3)
    assert "tf_logits_cfg3: 1 of 6144 off" in result.detail


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_not_finite_agrees_with_nothing(copy_case, value):
    path = copy_case("t5")
    edit_tensors(path, lambda tensors: tensors["last_hidden_state"].view(-1)[:1].fill_(value))
    result = run_case(path)
    assert not result.passed
    assert result.error == math.inf


def test_the_tolerance_is_the_one_of_the_case(copy_case):
    path = copy_case("rope")
    edit_tensors(path, lambda tensors: tensors["y_0"].view(-1)[-1:].add_(0.01))
    assert not run_case(path).passed
    write_case(path.parent, "rope", {**read_spec(path.parent, "rope"), "tolerance": {"atol": 0.02}})
    assert run_case(path).passed


def test_a_tensor_of_another_shape_fails(copy_case):
    path = copy_case("t5")
    edit_tensors(path, lambda tensors: tensors.update(last_hidden_state=tensors["last_hidden_state"][:, :-1]))
    assert "shape (3, 24, 32), not (3, 23, 32)" in run_case(path).detail


def test_a_tensor_that_nothing_checks_fails(copy_case):
    path = copy_case("post")
    edit_tensors(path, lambda tensors: tensors.update(float16=tensors["samples"].half()))
    result = run_case(path)
    assert not result.passed
    assert "nothing checks float16" in result.detail


def test_a_tensor_that_the_json_promises_but_the_file_lacks_fails(copy_case):
    path = copy_case("c2i")
    edit_tensors(path, lambda tensors: tensors.pop("greedy_cfg1"))
    result = run_case(path)
    assert not result.passed
    assert "greedy_cfg1" in result.detail


@pytest.mark.parametrize("kind", ["t3i", "vqgan", "t2ib", ""])
def test_an_unknown_kind_fails(copy_case, kind):
    path = copy_case("t2i")
    write_case(path.parent, "t2i", {**read_spec(path.parent, "t2i"), "case": kind})
    result = run_case(path)
    assert not result.passed
    assert "unknown kind" in result.detail


@pytest.mark.parametrize("name", ["t2i", "vq", "post"])
def test_a_kind_may_have_a_suffix(copy_case, name):
    path = copy_case(name)
    write_case(path.parent, name, {**read_spec(path.parent, name), "case": f"{name}_b"})
    assert run_case(path).passed


@pytest.mark.parametrize("suffix", ["io", "weights"])
def test_a_missing_file_fails_and_the_other_cases_still_run(copy_case, suffix):
    copy_case("post")
    path = copy_case("c2i")
    path.with_name(f"c2i_{suffix}.safetensors").unlink()
    results = list(run_cases(path.parent))
    assert [(result.name, result.passed) for result in results] == [("c2i", False), ("post", True)]
    assert f"c2i_{suffix}.safetensors" in results[0].detail


@pytest.mark.parametrize("content", ["", "[]", "{}", "null", '{"case": "rope"}', '{"case": "t2i", "io_file": 3}'])
def test_a_broken_json_fails_and_the_other_cases_still_run(copy_case, content):
    path = copy_case("post")
    path.with_name("a.json").write_text(content, encoding="utf-8")
    results = list(run_cases(path.parent))
    assert [result.passed for result in results] == [False, True]
    assert results[0].detail


def test_a_broken_tensor_file_fails(copy_case):
    path = copy_case("post")
    path.with_name("post_io.safetensors").write_bytes(b"not tensors")
    assert "Safetensor" in run_case(path).detail


def test_a_case_without_anything_to_compare_fails(tmp_path):
    path = write_case(tmp_path, "rope", {"case": "rope", "configs": [], "tolerance": {"atol": 1e-5}}, {})
    assert "nothing was compared" in run_case(path).detail


def test_one_wrong_caption_fails(copy_case):
    path = copy_case("text")
    spec = read_spec(path.parent, "text")
    spec["items"][5]["cleaned"] += "!"
    write_case(path.parent, "text", spec)
    result = run_case(path)
    assert not result.passed
    assert f"cleaned: 1 of {len(spec['items'])} differ" in result.detail


@pytest.mark.parametrize(
    ("model", "change"),
    [
        ("GPT-XL/t2i", {"params": 1}),
        ("GPT-3B/c2i", {"sha256_listing": "0"}),
        ("GPT-B/c2i", {"keys": {"norm.weight": [768]}}),
        ("VQ-8", {"tensors": 299}),
    ],
)
def test_one_wrong_line_of_the_manifest_fails(copy_case, model, change):
    path = copy_case("manifest")
    spec = read_spec(path.parent, "manifest")
    spec["models"][model] |= change
    write_case(path.parent, "manifest", spec)
    result = run_case(path)
    assert not result.passed
    assert model in result.detail


def test_a_model_of_an_unknown_name_fails(copy_case):
    path = copy_case("manifest")
    spec = read_spec(path.parent, "manifest")
    spec["models"] = {"GPT-XS/c2i": spec["models"]["GPT-B/c2i"]}
    write_case(path.parent, "manifest", spec)
    assert "GPT-XS" in run_case(path).detail


def test_a_folder_is_reported_line_by_line(copy_case):
    copy_case("post")
    folder = copy_case("rope").parent
    lines = []
    assert check_folder(folder, lines.append) == 0
    assert [line.split()[0] for line in lines] == ["post", "rope", "2"]
    (folder / "rope_io.safetensors").unlink()
    lines.clear()
    assert check_folder(folder, lines.append) == 1
    assert ["pass" in lines[0], "FAIL" in lines[1]] == [True, True]
    assert lines[2] == "1 of 2 golden cases pass"


@pytest.mark.parametrize("folder", ["", "absent"])
def test_a_folder_without_a_case_fails(tmp_path, folder):
    lines = []
    assert check_folder(tmp_path / folder, lines.append) == 1
    assert len(lines) == 1


# Cases of other shapes and settings than the stored ones, made here from the definitions.


def rotary_by_complex_numbers(grid, head_dim, base):
    """Angles cell by cell: rows turn the first half of the pairs, columns the second."""
    half = head_dim // 2
    speeds = [base ** (-2 * k / half) for k in range(half // 2)]
    cells = [[row * s for s in speeds] + [column * s for s in speeds] for row in range(grid) for column in range(grid)]
    return np.exp(1j * np.array(cells))


@pytest.mark.parametrize(("grid", "head_dim", "cls", "base"), [(5, 20, 7, 10000), (3, 100, 1, 500)])
def test_a_rotary_case_of_other_shapes_passes(tmp_path, grid, head_dim, cls, base):
    table = np.concatenate([np.zeros((cls, head_dim // 2)), rotary_by_complex_numbers(grid, head_dim, base)])
    generator = np.random.default_rng(0)
    positions = generator.integers(0, cls + grid**2, size=11)
    x = generator.standard_normal((2, 11, 3, head_dim))
    y = ((x[..., ::2] + 1j * x[..., 1::2]) * table[positions][:, None]).view(float)
    tensors = {"freqs_0": np.stack([table.real, table.imag], -1), "x_0": x, "y_0": y}
    tensors = {key: torch.tensor(value, dtype=torch.float32) for key, value in tensors.items()}
    spec = {
        "case": "rope_other",
        "configs": [{"grid": grid, "head_dim": head_dim, "cls": cls}],
        "tolerance": {"atol": 1e-5},
        "tensors": {"freqs_0": {"what": f"rotary table, base {base}: (cos, sin)"}},
    }
    result = run_case(write_case(tmp_path, "rope", spec, {**tensors, "pos_0": torch.tensor(positions)}))
    assert result.passed, result


def filter_by_sorting(logits, temperature, top_k, top_p):
    """Probabilities of one row after temperature, top-k with ties, and top-p, entry by entry, in float64."""
    logits = [x / max(temperature, 1e-5) for x in logits]
    ranked = sorted(range(len(logits)), key=lambda k: -logits[k])
    worst = logits[ranked[min(top_k, len(logits)) - 1]] if top_k else -math.inf
    ranked = [k for k in ranked if logits[k] >= worst]
    weights = [math.exp(logits[k] - logits[ranked[0]]) for k in ranked]
    probs, before = [0.0] * len(logits), 0.0
    for k, weight in zip(ranked, weights, strict=True):
        probs[k] = weight if before <= top_p or top_p == 1 else 0.0
        before += weight / sum(weights)
    return [p / sum(probs) for p in probs]


def test_a_sampling_case_of_other_shapes_passes(tmp_path):
    logits = torch.from_numpy(np.random.default_rng(1).normal(0, 2, (2, 33)).astype(np.float32))
    settings = [(0, 1.0, 1.0), (4, 1.0, 0.5), (100, 0.77, 1.7), (0, 0.0, 0.9), (9, 0.6, 0.0)]
    tensors, cases = {"logits": logits}, []
    for i, (top_k, top_p, temperature) in enumerate(settings):
        probs = torch.tensor([filter_by_sorting(row, temperature, top_k, top_p) for row in logits.tolist()])
        tensors |= {f"probs_{i}": probs, f"greedy_{i}": logits.argmax(-1)}
        if temperature > 0:  # at 0 what is kept has probability 0, the best entry apart
            tensors[f"keep_{i}"] = probs > 0
        cases.append({"i": i, "source": "logits", "top_k": top_k, "top_p": top_p, "temperature": temperature})
    spec = {"case": "sampling", "cases": cases, "tolerance": {"probs_atol": 1e-6, "keep": "exact"}}
    result = run_case(write_case(tmp_path, "sampling", spec, tensors))
    assert result.passed, result


def test_a_pixel_case_with_another_grid_passes(tmp_path):
    samples = torch.from_numpy(np.random.default_rng(2).uniform(-1.5, 1.5, (3, 3, 4, 5)).astype(np.float32))
    pixels = (samples.permute(0, 2, 3, 1).double() * 127.5 + 128).floor().clamp(0, 255).to(torch.uint8)
    grid = torch.zeros(2 * 4 + 3 * 1, 2 * 5 + 3 * 1, 3, dtype=torch.uint8)
    for image, (top, left) in zip(pixels, [(1, 1), (1, 7), (6, 1)], strict=True):
        grid[top : top + 4, left : left + 5] = image
    spec = {
        "case": "post",
        "tolerance": "exact (allow 1 level on the grid)",
        "tensors": {"grid": {"what": "save_image(nrow=2, padding 1 black)"}},
    }
    result = run_case(write_case(tmp_path, "post", spec, {"samples": samples, "uint8": pixels, "grid": grid}))
    assert result.passed, result


def greedy_without_cache(gpt, labels, num_tokens, scale, interval):
    """Greedy tokens, every one from a forward pass over all before it; guidance ends after `interval` + 2 tokens."""
    both = torch.cat([labels, torch.full_like(labels, gpt.config.num_classes)])
    positions, mask = gpt.cls_embedding(both), torch.ones(len(both), 1, dtype=torch.bool)
    tokens = torch.zeros(len(labels), 0, dtype=torch.int64)
    for i in range(num_tokens):
        inputs = torch.cat([tokens, torch.zeros(len(labels), 1, dtype=torch.int64)], 1).repeat(2, 1)
        conditional, null = gpt(positions, mask, inputs)[:, -1].chunk(2)
        is_guided = scale > 1 and (interval is None or i < interval + 2)
        logits = null + scale * (conditional - null) if is_guided else conditional
        tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], 1)
    return tokens


@torch.no_grad()
def test_guidance_scales_and_intervals_are_read_from_the_names(copy_case):
    path = copy_case("c2i")
    spec = read_spec(path.parent, "c2i")
    gpt = GPT(GPTConfig(**{k: v for k, v in spec["config"].items() if k not in ("ffn_hidden", "head_dim")})).eval()
    gpt.load_state_dict(load_file(path.with_name("c2i_weights.safetensors")))

    def add(tensors):
        labels, null = tensors["labels"], tensors["tf_logits_uncond"]
        tensors["tf_logits_cfg12p25"] = null + 12.25 * (tensors["tf_logits_cond"] - null)
        tensors["tf_logits_cfg0p5"] = tensors["tf_logits_cond"].clone()
        tensors["greedy_cfg2p5"] = greedy_without_cache(gpt, labels, 16, 2.5, None)
        tensors["greedy_cfg3_interval0"] = greedy_without_cache(gpt, labels, 16, 3.0, 0)
        tensors["greedy_cfg3_interval6"] = greedy_without_cache(gpt, labels, 16, 3.0, 6)
        tensors["greedy_cfg0p5"] = greedy_without_cache(gpt, labels, 9, 0.5, None)
        assert not torch.equal(tensors["greedy_cfg3_interval0"], tensors["greedy_cfg3_interval6"])

    edit_tensors(path, add)
    # The scale of 12.25 carries the stored logits' own rounding, about 2e-5, further than the case's 1e-4 allows for.
    write_case(path.parent, "c2i", {**spec, "tolerance": {"logits_atol": 1e-3, "logits_rtol": 1e-3}})
    result = run_case(path)
    assert result.passed, result
    edit_tensors(path, lambda tensors: tensors["greedy_cfg3_interval6"][1, 12:13].add_(1).remainder_(64))
    assert "greedy_cfg3_interval6: 1 of 48 off" in run_case(path).detail


def weight_by_recipe(key, shape, seed, kind):
    draws = np.random.RandomState((zlib.crc32(key.encode()) + seed) % 2**32).standard_normal(shape)
    return kind(draws).astype("<f4")


@pytest.mark.parametrize("wrong", [False, True])
def test_recipe_weights_of_another_seed_are_checked_by_their_digests(tmp_path, wrong):
    config = {"base_channels": 32, "ch_mult": [1], "num_res_blocks": 1, "z_channels": 4, "codebook_size": 40}
    codebook = weight_by_recipe("quantize.embedding.weight", (40, 8), 5, lambda x: x)
    recipes = {
        "quantize.embedding.weight": codebook,
        "decoder.conv_in.weight": weight_by_recipe("decoder.conv_in.weight", (32, 4, 3, 3), 5, lambda x: x / 6),
        "encoder.norm_out.weight": weight_by_recipe("encoder.norm_out.weight", (32,), 5, lambda x: 1 + 0.1 * x),
        "quant_conv.bias": weight_by_recipe("quant_conv.bias", (8,), 5, lambda x: 0.05 * x),
    }
    codes = torch.tensor([[3, 39, 0, 7, 7, 12]])
    unit = torch.from_numpy(codebook / np.linalg.norm(codebook, axis=1, keepdims=True))
    embed = torch.stack([unit[code] for code in codes[0]], 1).reshape(1, 8, 2, 3)
    spec = {
        "case": "vq_full_tiny",
        "config": config,
        "recipe_seed": 6 if wrong else 5,
        "checks": {key: hashlib.sha256(weight.tobytes()).hexdigest() for key, weight in recipes.items()},
        "tolerance": {"atol": 1e-6},
    }
    result = run_case(write_case(tmp_path, "vq", spec, {"codes": codes, "codes_embed": embed}))
    assert result.passed is not wrong, result
    assert ("sha256 of weights: 4 of 4 differ" in result.detail) is wrong
