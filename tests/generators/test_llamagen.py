"""LlamaGen: guidance and its interval, captions and labels, and statistics of draws by teacher forcing."""

import math
from dataclasses import replace

import pytest
import torch

from gendiv_lightning.callbacks import Argmax, Branch, CodebookSubset, Temperature, TopK, TopP
from gendiv_lightning.generators.llamagen.generator import TokenPredictor, pack_left
from gendiv_lightning.generators.llamagen.tokenizer import to_uint8
from gendiv_lightning.generators.llamagen.transformer import GPT, rotary_table
from gendiv_lightning.generators.vqgan import from_uint8
from gendiv_lightning.sampling.autoregressive import sample_autoregressive
from gendiv_lightning.weights.resolve import MissingWeightsError

TEXTS = ("a red circle", "a large blue square on a green ground", "a")


@pytest.fixture(scope="module")
def generator(make_t2i):
    generator = make_t2i()
    generator.load()
    return generator


@pytest.fixture(scope="module")
def labelled(make_c2i):
    generator = make_c2i()
    generator.load()
    return generator


@pytest.fixture(scope="module")
def batch(make_batch):
    return make_batch(*TEXTS, num_samples=2)


def guided_logits(generator, texts, tokens, scale, cfg_interval=-1):
    """Logits (B, L, K) of whole sequences in one pass, with conditional and null rows combined as in the paper."""
    gpt, conditions = generator.gpt, generator.encode_prompts(texts)
    features, mask = pack_left([conditions.features[row] for row in conditions.rows], gpt.config.cls_token_num)
    with torch.inference_mode():
        conditional = gpt(gpt.cls_embedding(features), mask, tokens)
        null, null_mask = gpt.null_features(mask.sum(1))
        unconditional = gpt(gpt.cls_embedding(null), null_mask, tokens)
    guided = (1 - scale) * unconditional + scale * conditional
    if cfg_interval >= 0:
        guided[:, cfg_interval + 2 :] = conditional[:, cfg_interval + 2 :]
    return guided


def assert_statistics_follow(samples, logits):
    log_probs = logits.double().log_softmax(-1) / math.log(2)
    entropy = -(log_probs.exp2() * log_probs.clamp(min=-1e4)).sum(-1)
    log_prob = log_probs.gather(-1, samples.tokens[..., None])[..., 0]
    torch.testing.assert_close(samples.entropy.double(), entropy, atol=1e-4, rtol=0)
    torch.testing.assert_close(samples.log_prob.double(), log_prob, atol=1e-4, rtol=0)


@pytest.mark.parametrize("scale", [1.0, 2.0, 6.0])
def test_entropies_and_log_probabilities_agree_with_teacher_forcing(make_t2i, batch, scale):
    generator = make_t2i(guidance_scale=scale)
    generator.load()
    samples = generator.sample(batch).samples
    assert_statistics_follow(samples, guided_logits(generator, batch.texts, samples.tokens, scale))


@pytest.mark.parametrize("cfg_interval", [0, 3, 33, 34, 35, 99])
def test_guidance_stops_after_its_interval(make_t2i, batch, cfg_interval):
    generator = make_t2i(guidance_scale=4.0, cfg_interval=cfg_interval)
    generator.load()
    samples = generator.sample(batch).samples
    logits = guided_logits(generator, batch.texts, samples.tokens, 4.0, cfg_interval)
    assert_statistics_follow(samples, logits)


def test_statistics_are_those_of_the_filtered_distribution(generator, batch):
    allowed = list(range(0, 256, 2))
    probes = [CodebookSubset("list", tokens=allowed), Temperature(0.8), TopK(40), TopP(0.9)]
    samples = generator.sample(batch, probes).samples
    logits = guided_logits(generator, batch.texts, samples.tokens, 2.0)
    sampler = generator.sampler(batch.seed, batch.keys, probes)
    assert_statistics_follow(samples, sampler.filter_logits(logits))
    assert (samples.entropy <= math.log2(40)).all()


def test_argmax_takes_the_mode_of_the_guided_logits(generator, batch):
    samples = generator.sample(batch, [Argmax()]).samples
    assert torch.equal(samples.tokens, guided_logits(generator, batch.texts, samples.tokens, 2.0).argmax(-1))
    assert torch.equal(samples.tokens[0::2], samples.tokens[1::2])


def test_the_sample_depends_on_the_caption(generator, batch):
    samples = generator.sample(batch, [Argmax()]).samples
    assert len(samples.tokens.unique(dim=0)) == len(TEXTS)


@pytest.mark.parametrize("make", ["generator", "labelled"])
@pytest.mark.parametrize(("scale", "factor"), [(0.5, 1), (1.0, 1), (1.5, 2)])
def test_null_rows_are_only_run_with_guidance(request, make, scale, factor, make_batch, monkeypatch):
    generator, rows = request.getfixturevalue(make), []
    decode = generator.gpt.decode

    def count(tokens, *rest):
        rows.append(len(tokens))
        return decode(tokens, *rest)

    monkeypatch.setattr(generator, "_decode", count)
    monkeypatch.setattr(generator, "guidance_scale", scale)
    texts = TEXTS if make == "generator" else ("1", "2", "3")
    generator.sample(make_batch(*texts))
    assert rows == [factor * 3] * (generator.gpt_config.block_size - 1)


def test_null_rows_stop_with_the_interval(generator, make_batch, monkeypatch):
    rows, decode = [], generator.gpt.decode
    monkeypatch.setattr(generator, "_decode", lambda tokens, *rest: rows.append(len(tokens)) or decode(tokens, *rest))
    monkeypatch.setattr(generator, "cfg_interval", 3)
    generator.sample(make_batch(*TEXTS))
    assert rows == [6] * 5 + [3] * 30  # tokens 0 to 4 are guided; the logits of token 5 are the last with null rows


def test_null_prefills_follow_the_device(make_t2i):
    generator = make_t2i()
    generator.load()
    for device in ("cpu", "meta"):
        assert generator.to(device)._null_prefill(3).logits.device.type == device


def test_a_caption_is_run_once_for_all_its_samples(generator, make_batch, monkeypatch):
    rows, prefill = [], generator.gpt.prefill_captions
    monkeypatch.setattr(generator.gpt, "prefill_captions", lambda f, mask: rows.append(len(f)) or prefill(f, mask))
    generator._null_prefills.clear()
    batch = make_batch(TEXTS[0], TEXTS[2], num_samples=4)
    generator.sample(batch)
    assert rows == [1, 1, 1, 1]  # two captions, and a null row for each length, one by one
    generator.sample(batch)
    assert rows == [1, 1, 1, 1, 1, 1]


def test_attending_in_strides_changes_nothing(generator, batch):
    with torch.inference_mode():
        prefill = generator.prefill(generator.encode_prompts(batch.texts), guided=True)
        sampler = generator.sampler(0, batch.keys)
        samples = [
            sample_autoregressive(
                TokenPredictor(generator.gpt, prefill, sampler, slots_at_a_time=slots), sampler, 36
            ).tokens
            for slots in (1, 5, 64)
        ]
    assert torch.equal(samples[0], samples[1])
    assert torch.equal(samples[0], samples[2])


def test_bfloat16_sampling_works(make_t2i, batch):
    generator = make_t2i(dtype="bfloat16")
    generator.load()
    assert generator.gpt.output.weight.dtype == torch.bfloat16
    assert generator.gpt.rotary.dtype == generator.vq.decoder.conv_in.weight.dtype == torch.float32
    samples = generator.sample(batch).samples
    assert not torch.stack(samples[1:]).isnan().any()
    assert len(samples.tokens.unique(dim=0)) == len(batch.keys)


def test_loading_other_weights_clears_cached_conditions(make_t2i, batch, weights, tmp_path):
    other = {
        key: 1.5 * value if "w2" in key else value for key, value in torch.load(weights / "gpt.pt")["model"].items()
    }
    torch.save(other, tmp_path / "other.pt")
    generator, fresh = make_t2i(), make_t2i()
    generator.load()
    generator.sample(batch)
    for one in (generator, fresh):
        one.gpt_checkpoint = str(tmp_path / "other.pt")
        one.locate()
        one.load()
    assert torch.equal(generator.sample(batch).samples.tokens, fresh.sample(batch).samples.tokens)


def test_features_are_packed_to_the_right():
    features = [torch.full((n, 2), float(n)) for n in (1, 3)]
    packed, mask = pack_left(features)
    assert packed[..., 0].tolist() == [[0, 0, 1], [3, 3, 3]]
    assert mask.tolist() == [[False, False, True], [True, True, True]]
    wide, wide_mask = pack_left(features, 5)
    assert torch.equal(wide[:, 2:], packed)
    assert torch.equal(wide_mask[:, 2:], mask)
    assert not wide[:, :2].any()


# --- prompts ---


def test_captions_that_will_be_truncated_are_reported_without_loading_weights(make_t2i):
    generator = make_t2i()
    generator.locate()
    long = "a red circle " * 30
    assert generator.check_prompts(["a circle", "a"]) == []
    (warning,) = generator.check_prompts(["a circle", long])
    assert warning.startswith("1 of 2 texts are longer than 64 tokens and are truncated; the first: 'a red circle")
    assert not hasattr(generator, "gpt")


def test_a_truncated_caption_is_sampled(generator, make_batch):
    assert generator.sample(make_batch("a red circle " * 30)).samples.tokens.shape == (1, 36)
    assert generator.sample(make_batch("")).samples.tokens.shape == (1, 36)


@pytest.mark.parametrize("text", ["a dog", "", "1000", "-1", "1.0", "²", "1 2"])
def test_a_prompt_that_is_not_a_class_is_an_error(make_c2i, text):
    generator = make_c2i()
    generator.locate()
    with pytest.raises(ValueError, match="999"):
        generator.check_prompts(["3", text])


def test_class_labels_are_numbers(labelled, make_batch):
    assert labelled.check_prompts(["0", " 207 ", "999"]) == []
    conditions = labelled.encode_prompts(["207", "3", "207"])
    assert [f.item() for f in conditions.features] == [207, 3]
    assert conditions.rows.tolist() == [0, 1, 0]
    samples = labelled.sample(make_batch("207", "3"), [Argmax()]).samples
    assert not torch.equal(samples.tokens[0], samples.tokens[1])


def test_class_samples_agree_with_teacher_forcing(labelled, make_batch):
    batch = make_batch("207", "3", num_samples=2)
    samples = labelled.sample(batch).samples
    labels = torch.tensor([207, 207, 3, 3])
    mask = torch.ones(4, 1, dtype=torch.bool)
    with torch.inference_mode():
        conditional, null = (
            labelled.gpt(labelled.gpt.cls_embedding(x), mask, samples.tokens)
            for x in (labels, torch.full_like(labels, 1000))
        )
    assert_statistics_follow(samples, 2 * conditional - null)


# --- images ---


def test_pixels_survive_the_conversion_to_floats_and_back():
    pixels = torch.arange(256, dtype=torch.uint8)
    assert (to_uint8(from_uint8(pixels)).int() - pixels.int()).abs().max() <= 1
    assert to_uint8(torch.tensor([-9.0, -1.0, 1.0, 9.0])).tolist() == [0, 0, 255, 255]


def test_decoding_one_image_at_a_time_gives_the_same_images(generator):
    tokens = torch.randint(256, (11, 36), generator=torch.Generator().manual_seed(0))
    together = generator.decode_tokens(tokens)
    assert together.shape == (11, 3, 48, 48)
    alone = torch.cat([generator.decode_tokens(row[None]) for row in tokens])
    assert (together.int() - alone.int()).abs().max() <= 1


# --- settings ---


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 50}, "image_size must be a positive multiple of 8, got 50"),
        ({"image_size": 0}, "image_size must be a positive multiple"),
        ({"image_size": 56}, "gpt: .* is t2i at 48 pixels, .* image_size is 56"),
        ({"model_type": "c2i"}, "gpt: .* is t2i .* model_type is c2i"),
        ({"vq": "VQ-16", "image_size": 96}, "must have the same codebook size"),
        ({"gpt": "GPT-B"}, "must have the same codebook size"),
        ({"temperature": -1.0}, "temperature must be a finite number of at least 0"),
        ({"temperature": float("nan")}, "temperature"),
        ({"guidance_scale": float("inf")}, "guidance_scale"),
        ({"top_k": -1}, "top_k must be at least 1, or 0"),
        ({"top_p": 1.5}, r"top_p must be a probability in \[0, 1\]"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
    ],
)
def test_invalid_settings_are_an_error_before_anything_is_loaded(settings, message):
    from gendiv_lightning.generators import LlamaGen

    with pytest.raises(ValueError, match=message):
        LlamaGen(**{"gpt": "toy:llamagen_gpt.json", "vq": "toy:llamagen_vq.json", "image_size": 48, **settings})


@pytest.mark.parametrize("key", ["gpt_checkpoint", "vq_checkpoint", "text_encoder"])
def test_the_error_for_missing_weights_names_the_setting_and_the_tiny_config(make_t2i, key):
    generator = make_t2i()
    setattr(generator, key, "owner/repo:file.pt" if key != "text_encoder" else "owner/repo")
    with pytest.raises(MissingWeightsError, match=rf"{key}: (?s:.*)--config configs/tiny/llamagen_argmax\.yaml"):
        generator.locate()


def test_the_error_for_a_wrong_file_lists_its_keys(make_t2i, weights):
    generator = make_t2i()
    generator.gpt_checkpoint = str(weights / "vq.pt")
    with pytest.raises(ValueError, match=r"missing \(.*unexpected \("):
        generator.load()


def test_the_rotary_table_fits_the_grid(labelled):
    assert torch.equal(labelled.gpt.rotary, rotary_table(4, 16))
    assert isinstance(labelled.gpt, GPT)
    assert not any(tensor.is_meta for tensor in [*labelled.parameters(), *labelled.buffers()])


def test_in_bfloat16_a_sample_does_not_depend_on_its_batch(make_t2i, make_batch):
    """Conditions run one by one and micro-batches are padded, so that logits do not depend on the number of rows."""
    generator = make_t2i(dtype="bfloat16", batch_size=8)
    generator.load()
    torch.manual_seed(0)
    gpt = GPT(replace(generator.gpt_config, dim=512, n_layer=4, n_head=8, multiple_of=256)).bfloat16().eval()
    gpt.rotary = rotary_table(6, 64)
    generator.gpt, generator._decode = gpt, gpt.decode
    together = generator.sample(make_batch(*TEXTS)).samples
    alone = [generator.sample(make_batch(text)).samples for text in TEXTS]
    assert torch.equal(together.tokens, torch.cat([samples.tokens for samples in alone]))
    assert torch.equal(together.log_prob, torch.cat([samples.log_prob for samples in alone]))


def test_captions_that_cleaning_empties_are_reported(generator):
    assert generator.check_prompts(["a", "free download"]) == [
        "1 of 2 texts are empty after the official cleaning; the first: 'free download'"
    ]


@pytest.mark.parametrize("settings", [{}, {"guidance_scale": 1.0}, {"cfg_interval": 5}, {"top_k": 40, "top_p": 0.9}])
@pytest.mark.parametrize("kind", ["t2i", "c2i"])
def test_scored_tokens_have_the_probability_they_were_sampled_with(kind, settings, request, make_batch):
    generator = request.getfixturevalue(f"make_{kind}")(**settings)
    generator.load()
    texts = ["a red house", "a blue sky over a green hill"] if kind == "t2i" else ["207", "3"]
    batch = make_batch(*texts, num_samples=3)
    sampler = generator.sampler(0, batch.keys, [CodebookSubset("random", ratio=0.5)])
    with torch.inference_mode():
        conditions = generator.encode_prompts(batch.texts)
        samples = generator.sample_tokens(conditions, sampler)
        scores = generator.score_tokens(conditions, samples.tokens, sampler)
        others = generator.score_tokens(generator.encode_prompts(batch.texts[::-1]), samples.tokens, sampler)
    torch.testing.assert_close(scores, samples.log_prob, atol=1e-3, rtol=1e-4)
    assert scores.sum() > others.sum() + 1, "another caption explains the images less well"


def test_with_argmax_its_tokens_have_probability_1_and_others_0(make_t2i, make_batch):
    generator = make_t2i()
    generator.load()
    batch = make_batch("a red house", num_samples=1)
    sampler = generator.sampler(0, batch.keys, [Argmax()])
    with torch.inference_mode():
        conditions = generator.encode_prompts(batch.texts)
        tokens = generator.sample_tokens(conditions, sampler).tokens
        assert generator.score_tokens(conditions, tokens, sampler).sum() == 0
        assert generator.score_tokens(conditions, tokens.roll(1), sampler).sum() == -torch.inf


# --- exact parallel decoding ---

PARALLEL = {
    "plain": ({}, []),
    "without guidance": ({"guidance_scale": 1.0}, []),
    "guidance of one token": ({"cfg_interval": 0}, []),
    "guidance of some": ({"cfg_interval": 7, "guidance_scale": 6.0}, []),
    "top-k": ({"top_k": 40, "temperature": 0.7}, []),
    "top-p": ({"top_p": 0.9}, []),
    "argmax": ({}, [Argmax()]),
    "subset": ({}, [CodebookSubset("random", ratio=0.3)]),
    "subset, argmax": ({"cfg_interval": 3}, [CodebookSubset("random", ratio=0.3), Argmax()]),
    "cold": ({}, [Temperature(0.0)]),
    "branch": ({}, [Branch(step=10)]),
}


def assert_parallel_equals_sequential(generator, batch, probes, seeds, windows):
    generator.load()
    conditions = generator.encode_prompts(batch.texts)
    for seed in range(seeds):
        sampler = generator.sampler(seed, batch.keys, probes)
        generator.decoding = "sequential"
        expected = generator.sample_tokens(conditions, sampler)
        generator.decoding = "parallel"
        for generator.window in windows:
            samples = generator.sample_tokens(conditions, sampler)
            assert torch.equal(samples.tokens, expected.tokens)
            torch.testing.assert_close(samples.entropy, expected.entropy, atol=1e-4, rtol=0)
            torch.testing.assert_close(samples.log_prob, expected.log_prob, atol=1e-4, rtol=0)


every_way = pytest.mark.parametrize(("settings", "probes"), PARALLEL.values(), ids=PARALLEL.keys())


@every_way
@torch.inference_mode()
def test_parallel_decoding_gives_the_tokens_of_the_sequential_loop(make_t2i, settings, probes, make_batch):
    assert_parallel_equals_sequential(make_t2i(**settings), make_batch(*TEXTS), probes, seeds=1, windows=[5])


@pytest.mark.slow
@every_way
@pytest.mark.parametrize("kind", ["t2i", "c2i"])
@torch.inference_mode()
def test_parallel_decoding_is_exact_for_many_seeds_and_windows(request, kind, settings, probes, make_batch):
    batch = make_batch(*(TEXTS if kind == "t2i" else ("207", "3")), num_samples=2)
    generator = request.getfixturevalue(f"make_{kind}")(**settings)
    assert_parallel_equals_sequential(generator, batch, probes, seeds=6, windows=[3, 64])


def test_a_parallel_sample_does_not_depend_on_its_batch(make_t2i, make_batch):
    generator = make_t2i(decoding="parallel", window=8)
    generator.load()
    together = generator.sample(make_batch(*TEXTS)).samples.tokens
    alone = [generator.sample(make_batch(text)).samples.tokens for text in TEXTS]
    assert torch.equal(together, torch.cat(alone))


def test_the_decoding_window_is_not_part_of_the_identity(make_t2i):
    identities = []
    for settings in ({}, {"decoding": "parallel"}, {"decoding": "parallel", "window": 5}):
        generator = make_t2i(**settings)
        generator.locate()
        identities.append(generator.identity())
    assert identities[0] == identities[1] == identities[2]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"decoding": "both"}, "decoding.*'both'"),
        ({"decoding": "parallel", "window": 0}, "window.*0"),
        ({"decoding": "parallel", "dtype": "bfloat16"}, "decoding.*dtype.*bfloat16"),
        ({"decoding": "parallel", "compile": True}, "decoding.*compile.*True"),
    ],
)
def test_decoding_that_cannot_be_exact_is_an_error(make_t2i, settings, words):
    with pytest.raises(ValueError, match=words):
        make_t2i(**settings)


def test_tokens_fed_together_have_the_logits_of_tokens_fed_in_turn(generator, batch):
    with torch.inference_mode():
        prefill = generator.prefill(generator.encode_prompts(batch.texts), guided=True)
        sampler = generator.sampler(0, batch.keys)
        alone, together = (TokenPredictor(generator.gpt, prefill, sampler, cfg_interval=5) for _ in range(2))
        tokens = sample_autoregressive(alone, sampler, 36).tokens
        together(tokens[:, :1], 0)
        together(tokens.flip(1)[:, :20], 1)  # wrong guesses do not remain in the cache
        logits = torch.cat([together(tokens[:, :9], 1), together(tokens[:, 9:35], 10)], 1)
        exact = torch.cat([alone(tokens[:, i : i + 1], i + 1) for i in range(35)], 1)
    torch.testing.assert_close(logits, exact, atol=1e-5, rtol=1e-5)
