"""Janus and Emu3 against `generate`, networks and processors of transformers, on tiny random models."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from tiny_token_models import CODES, SIDE, build_janus
from torch.nn.functional import normalize
from transformers.generation import LogitsProcessor, LogitsProcessorList

from gendiv_lightning.callbacks import Argmax, Branch, CodebookSubset, Guidance, Temperature, TopK, TopP
from gendiv_lightning.errors import MissingWeightsError
from gendiv_lightning.generators import Emu3, Janus, transformers_tokens
from gendiv_lightning.generators.generate import to_picture
from gendiv_lightning.records import NoiseKey
from gendiv_lightning.sampling import Noise, Observer, TokenSampler

TEXTS = ("the sun at left", "two green hills", "red sky")
NUM_TOKENS = SIDE**2


@pytest.fixture(scope="module", params=["make_janus", "make_emu3"])
def make(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def generator(make):
    generator = make()
    generator.load()
    return generator


# --- sampling inside transformers ---


class Drawing(LogitsProcessor):
    """Samples every token with our sampler inside `generate` and leaves one finite logit."""

    def __init__(self, sampler, codes, guides):
        self.sampler, self.codes, self.guides, self.step = sampler, codes, guides, 0

    def __call__(self, input_ids, scores):
        logits = scores[:, self.codes] if self.codes is not None else scores
        if not self.guides:  # conditional and null rows, of which the loop of Janus reads the first
            logits = self.sampler.guide(*logits.chunk(2)) if self.sampler.is_guided else logits.chunk(2)[0]
        elif (logits > -torch.inf).sum() == 0:
            return scores  # a structure token is forced
        rows = torch.arange(len(logits))
        tokens = self.sampler.draw_tokens(logits, self.step, rows, torch.full_like(rows, self.step)).tokens
        self.step += 1
        chosen = self.codes[tokens] if self.codes is not None else tokens
        return torch.full_like(scores[: len(rows)], -torch.inf).scatter(-1, chosen[:, None], 0.0)


def generate(generator, text, guidance, sampler=None):
    """Tokens (B, L) from the loop of transformers: greedy with its guidance, or sampled by a sampler of B rows."""
    model, ids = generator.model, torch.tensor([generator.prompt_ids(text)])
    if sampler is not None:
        ids = ids.repeat(len(sampler.exec.keys), 1)
    of = generate_janus if isinstance(generator, Janus) else generate_emu3
    return of(generator, model, ids, guidance, sampler)


def generate_janus(generator, model, ids, guidance, sampler):
    tokenizer, config = generator.processor.tokenizer, model.generation_config
    config.generation_kwargs = {"boi_token_id": tokenizer.convert_tokens_to_ids(tokenizer.boi_token)}
    config.do_sample, config.guidance_scale = False, guidance
    processors = LogitsProcessorList()
    if sampler is not None:
        config.guidance_scale = 1.0
        processors.append(Drawing(sampler, None, guides=False))
    return model.generate(
        ids, attention_mask=torch.ones_like(ids), generation_mode="image", logits_processor=processors
    )


def generate_emu3(generator, model, ids, guidance, sampler):
    codes, length = generator.entries, ids.shape[1]
    row_end, visual = [generator.row_end], codes.tolist()

    def allowed(row, given):
        return row_end if (len(given) - length) % (SIDE + 1) == SIDE else visual

    processors = LogitsProcessorList([Drawing(sampler, codes, guides=True)] if sampler is not None else [])
    negative = torch.tensor([generator.null_ids(())]).expand(len(ids), -1)
    guided = {"guidance_scale": guidance, "negative_prompt_ids": negative} if guidance > 1 else {}
    output = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=SIDE * (SIDE + 1),
        min_new_tokens=SIDE * (SIDE + 1),
        do_sample=False,
        prefix_allowed_tokens_fn=allowed,
        logits_processor=processors,
        **guided,
    )
    rows = output[:, length:].unflatten(1, (SIDE, SIDE + 1))
    assert (rows[..., -1] == generator.row_end).all()
    entries = rows[..., :-1].flatten(1)
    return (entries[..., None] == codes).int().argmax(-1)


def network_logits(generator, text, tokens):
    """Conditional and null logits (B, L, K) of whole sequences, computed without a cache."""
    model, halves = generator.model, []
    prompt = generator.prompt_ids(text)
    for ids in (prompt, generator.null_ids(prompt)):
        before = torch.tensor([ids]).expand(len(tokens), -1)
        if isinstance(generator, Janus):
            inputs = torch.cat(
                [model.get_input_embeddings()(before), model.prepare_embeddings_for_image_generation(tokens)], 1
            )
            states = model.model.language_model(inputs_embeds=inputs).last_hidden_state
            logits = model.model.generation_head(states)[:, len(ids) - 1 : -1]
        else:
            grid = generator.entries[tokens].unflatten(1, (SIDE, SIDE))
            ends = torch.full((len(tokens), SIDE, 1), generator.row_end)
            sequence = torch.cat([before, torch.cat([grid, ends], 2).flatten(1)], 1)
            logits = model(input_ids=sequence).logits[:, len(ids) - 1 : -1, generator.entries]
            logits = logits.unflatten(1, (SIDE, SIDE + 1))[:, :, :-1].flatten(1, 2)
        halves.append(logits)
    return halves


def sampler_of(generator, num_rows, probes=(), seed=0):
    return generator.sampler(seed, [NoiseKey("prompt", 0, row, row) for row in range(num_rows)], probes)


# --- parity ---


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("guidance", [1.0, 2.0, 5.0])
def test_greedy_tokens_agree_with_the_loop_and_guidance_of_transformers(generator, text, guidance):
    if isinstance(generator, Janus) and guidance == 1:
        pytest.skip("the loop of Janus in transformers cannot run without guidance")
    with torch.inference_mode():
        sampler = sampler_of(generator, 1, [Argmax(), Guidance(guidance)])
        tokens = generator.sample_tokens(generator.encode_prompts([text]), sampler).tokens
        assert torch.equal(tokens, generate(generator, text, guidance))
    assert len(set(tokens[0].tolist())) > 3


@pytest.mark.parametrize(
    "probes",
    [
        [],
        [Guidance(1.0)],
        [CodebookSubset("list", tokens=list(range(0, CODES, 3))), TopK(9)],
        [TopP(0.7), Temperature(1.4)],
    ],
    ids=["plain", "unguided", "subset and top-k", "top-p and temperature"],
)
def test_tokens_equal_those_of_the_same_sampler_inside_the_loop_of_transformers(generator, probes):
    """A logits processor samples every token inside `generate`; our loop gives the same tokens."""
    sampler = sampler_of(generator, 6, probes)
    # The loop of Emu3 in transformers applies guidance before it calls processors.
    inside = sampler if isinstance(generator, Janus) else replace(sampler, guidance=1.0)
    with torch.inference_mode():
        ours = generator.sample_tokens(generator.encode_prompts(TEXTS[:1] * 6), sampler).tokens
        theirs = generate(generator, TEXTS[0], sampler.guidance, inside)
    assert torch.equal(ours, theirs)
    assert len(ours.unique(dim=0)) == 6


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_twenty_thousand_draws_follow_the_probabilities_of_the_networks(generator, guidance):
    num_images, num_bins = 1250, 50
    assert num_images * NUM_TOKENS == 20_000
    sampler = sampler_of(generator, num_images, [Guidance(guidance)])
    with torch.inference_mode():
        tokens = generator.sample_tokens(generator.encode_prompts(TEXTS[:1] * num_images), sampler).tokens
        conditional, null = network_logits(generator, TEXTS[0], tokens)
    logits = null + guidance * (conditional - null)
    probs = logits.double().softmax(-1)
    # The position of a token in the cumulative distribution, randomized within its share, is uniform.
    own = probs.gather(-1, tokens[..., None])[..., 0]
    below = probs.cumsum(-1).gather(-1, tokens[..., None])[..., 0] - own
    positions = below + own * torch.rand(own.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for values in (
        positions,
        positions[:, :1],
        positions[:, SIDE : SIDE + 1],
    ):  # all tokens; the first token; the first of a row
        counts = torch.histc(values.flatten(), num_bins, 0.0, 1.0)
        expected = values.numel() / num_bins
        assert chi2.sf(((counts - expected) ** 2 / expected).sum().item(), num_bins - 1) > 1e-3
    # Each entry is sampled with its probability.
    share = probs.flatten(0, 1)
    deviation = (torch.bincount(tokens.flatten(), minlength=CODES) - share.sum(0)) / (share * (1 - share)).sum(0).sqrt()
    assert chi2.sf((deviation**2).sum().item(), CODES - 1) > 1e-3


def test_entropies_are_those_of_the_probabilities_of_the_networks(generator):
    sampler = sampler_of(generator, 4)
    with torch.inference_mode():
        samples = generator.sample_tokens(generator.encode_prompts(TEXTS[:1] * 4), sampler)
        conditional, null = network_logits(generator, TEXTS[0], samples.tokens)
    probs = sampler.guide(conditional, null).double().softmax(-1)
    entropy = torch.special.entr(probs).sum(-1) / torch.log(torch.tensor(2.0))
    torch.testing.assert_close(samples.entropy.double(), entropy, atol=1e-4, rtol=0)


def test_decoded_images_agree_with_transformers(generator):
    tokens = torch.randint(CODES, (3, NUM_TOKENS), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        images = generator.decode_tokens(tokens)
        if isinstance(generator, Janus):
            decoded = torch.cat([generator.model.decode_image_tokens(one) for one in tokens.split(1)])
            pictures = generator.processor.postprocess(list(decoded), return_tensors="pt").pixel_values
        else:
            grid = generator.entries[tokens].unflatten(1, (SIDE, SIDE))
            rows = torch.cat([grid, torch.full((3, SIDE, 1), generator.row_end)], 2).flatten(1)
            sequence = torch.cat([rows, torch.zeros(3, 3, dtype=torch.long)], 1)  # three tokens end an image
            parts = [
                generator.model.decode_image_tokens(image_tokens=one, height=SIDE, width=SIDE)
                for one in sequence.split(1)
            ]
            drawn = generator.processor.postprocess(list(torch.cat(parts)))["pixel_values"]
            pictures = torch.stack([torch.from_numpy(np.array(picture)) for picture in drawn])
            pictures = pictures.permute(0, 3, 1, 2)
    # Transformers multiplies in another order, so values near an integer may be truncated differently.
    assert (images.int() - pictures.int()).abs().max() <= 1
    assert (images.int() == pictures.int()).float().mean() > 0.99


def test_tokens_of_images_agree_with_the_processor_and_tokenizer_of_transformers(make):
    generator = make()
    generator.load()
    images = torch.randint(256, (3, 3, generator.pixels, generator.pixels), generator=torch.Generator().manual_seed(0))
    pictures = [to_picture(image) for image in images.to(torch.uint8)]
    values = generator.processor.image_processor(pictures, do_resize=False, return_tensors="pt").pixel_values
    vq = generator.model.model.vqmodel
    if isinstance(generator, Janus):  # transformers compares unnormalised codes; the decoder normalises them
        vq.quantize.embedding.weight.data = normalize(vq.quantize.embedding.weight.data, dim=-1)
    with torch.inference_mode():
        if isinstance(generator, Janus):
            expected = [vq.encode(value[None]).image_tokens.flatten() for value in values]
        else:
            sizes = torch.tensor([[generator.pixels] * 2])
            expected = [vq.encode(value[None], sizes).image_tokens[0].flatten() for value in values]
        assert torch.equal(generator.encode_images(images.to(torch.uint8)), torch.stack(expected))
    assert len(torch.stack(expected).unique()) > 3


def test_the_norm_of_a_janus_code_changes_no_token_of_an_image(make_janus):
    generator = make_janus()
    generator.load()
    images = torch.randint(256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    codes = generator.model.model.vqmodel.quantize.embedding.weight
    with torch.inference_mode():
        before = generator.encode_images(images)
        codes.data = codes.data * torch.linspace(0.1, 9.0, CODES)[:, None]
        assert torch.equal(generator.encode_images(images), before)


# --- structure tokens and prefixes ---


class Counter(Observer):
    def __init__(self):
        self.draws = []

    def observe(self, draw):
        self.draws.append(draw)


def test_row_ends_are_inserted_and_not_sampled(generator, make_batch, monkeypatch):
    generator._prefixes.clear()
    watch, fed, run = Counter(), [], generator.run
    monkeypatch.setattr(generator, "run", lambda x, *rest: fed.append(x.shape[1]) or run(x, *rest))
    sampled = generator.sample(make_batch(TEXTS[0]), observers=[watch])
    assert [draw.step for draw in watch.draws] == list(range(NUM_TOKENS))
    assert sampled.samples.tokens.shape == (1, NUM_TOKENS)
    num_row_ends = SIDE - 1 if isinstance(generator, Emu3) else 0  # nothing follows the last row
    assert sum(fed[2:]) == NUM_TOKENS - 1 + num_row_ends


def test_a_prompt_and_its_null_prompt_run_once_for_all_samples(make, make_batch, monkeypatch):
    generator = make(batch_size=4)
    generator.load()
    seen, prefix = [], generator._prefix
    monkeypatch.setattr(generator, "_prefix", lambda ids: seen.append(ids) or prefix(ids))
    generator.sample(make_batch(*TEXTS, num_samples=8))
    prompts = [generator.prompt_ids(text) for text in TEXTS]
    nulls = {generator.null_ids(ids) for ids in prompts}
    assert sorted(seen) == sorted([*prompts, *nulls])
    assert len(nulls) == (1 if isinstance(generator, Emu3) else len({len(ids) for ids in prompts}))


def test_prefixes_follow_the_device_and_only_those_of_the_batch_stay_in_memory(make):
    generator = make()
    generator.load()
    for text in TEXTS:
        generator.predictor(generator.encode_prompts([text]), sampler_of(generator, 1))
        assert len(generator._prefixes) == 2  # of the prompt and its null prompt
    ids = generator.prompt_ids(TEXTS[-1])
    assert generator._prefixes_of([ids])[0].logits.device.type == "cpu"
    assert generator.to("meta")._prefixes_of([ids])[0].logits.device.type == "meta"


def test_scores_do_not_depend_on_the_number_of_positions_scored_at_once(generator, monkeypatch):
    sampler = sampler_of(generator, 3)
    with torch.inference_mode():
        conditions = generator.encode_prompts(TEXTS)
        samples = generator.sample_tokens(conditions, sampler)
        for number in (1, 5, NUM_TOKENS):
            monkeypatch.setattr(transformers_tokens, "SCORED_AT_ONCE", number)
            scores = generator.score_tokens(conditions, samples.tokens, sampler)
            torch.testing.assert_close(scores, samples.log_prob, atol=1e-4, rtol=0)


# --- exact parallel decoding ---

PROBES = [
    [],
    [Argmax()],
    [CodebookSubset("list", tokens=[1, 4, 9, 16, 25])],
    [TopK(3), Temperature(0.7)],
    [TopP(0.5)],
    [Temperature(0.0)],
    [Guidance(1.0)],
    [Guidance(7.0), Temperature(2.0)],
    [Branch(6)],
]


def assert_parallel_equals_sequential(make, generator, batch, probes, windows, seeds):
    parallel = make(decoding="parallel")
    parallel.model, parallel._folder = generator.model, generator.folder
    parallel.read_config(generator.config)
    if isinstance(generator, Emu3):
        parallel.entries = generator.entries
    for seed in range(seeds):
        of_seed = batch._replace(seed=seed)
        expected = generator.sample(of_seed, probes).samples
        for parallel.window in windows:
            samples = parallel.sample(of_seed, probes).samples
            assert torch.equal(samples.tokens, expected.tokens)
            torch.testing.assert_close(samples.log_prob, expected.log_prob, atol=1e-3, rtol=1e-4)


every_way = pytest.mark.parametrize(
    "probes", PROBES, ids=lambda probes: "-".join(type(p).__name__ for p in probes) or "none"
)


@every_way
def test_parallel_decoding_gives_the_tokens_of_the_sequential_loop(make, generator, probes, make_batch):
    assert_parallel_equals_sequential(make, generator, make_batch(*TEXTS), probes, windows=[5], seeds=1)


@pytest.mark.slow
@every_way
def test_parallel_decoding_is_exact_for_many_seeds_and_windows(make, generator, probes, make_batch):
    batch = make_batch(*TEXTS, num_samples=2)
    assert_parallel_equals_sequential(make, generator, batch, probes, windows=[2, 7, 100], seeds=8)


def test_parallel_decoding_takes_fewer_passes_if_the_model_is_certain(make, make_batch, monkeypatch):
    generator = make(decoding="parallel", window=8)
    generator.load()
    passes, run = [], generator.run
    monkeypatch.setattr(generator, "run", lambda x, *rest: passes.append(x.shape[1]) or run(x, *rest))
    generator.sample(make_batch(TEXTS[0]), [CodebookSubset("list", tokens=[5])])
    assert len(passes) < NUM_TOKENS / 2


def test_the_decoding_method_is_not_part_of_the_identity(make):
    identities = [make(**settings).identity() for settings in ({}, {"decoding": "parallel"})]
    assert identities[0] == identities[1]


# --- weights and settings ---


def test_the_image_tokenizer_stays_in_float32(make):
    generator = make(dtype="bfloat16")
    generator.load()
    dtypes = {"vqmodel" in name: p.dtype for name, p in generator.named_parameters()}
    assert dtypes == {True: torch.float32, False: torch.bfloat16}
    assert generator.pads_batches
    assert "batch_size" in generator.identity()


def test_in_half_precision_a_sample_does_not_depend_on_prompts_of_other_lengths(make, make_batch):
    generator = make(dtype="bfloat16", guidance_scale=3.0)
    generator.load()
    alone, together = (
        generator.sample(make_batch(*texts, num_samples=2)).samples for texts in (TEXTS[-1:], (TEXTS[-1], *TEXTS[:-1]))
    )
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one, other[: len(one)])


def test_codebook_and_grid_are_read_from_the_checkpoint(make):
    generator = make()
    assert generator.codebook_size == 0
    generator.locate()
    assert (generator.codebook_size, generator.grid, generator.image_side) == (CODES, (SIDE, SIDE), generator.pixels)


def test_a_prompt_that_leaves_no_room_for_its_image_is_an_error(make):
    generator = make()
    generator.locate()
    long = " ".join(["hill"] * 60)
    with pytest.raises(ValueError, match=r"at most \d+ tokens.*1 of 2"):
        generator.check_prompts([TEXTS[0], long])
    assert generator.check_prompts(TEXTS) == []


def test_a_checkpoint_of_another_family_is_an_error(make_janus, make_emu3):
    for ours, theirs in ((make_janus, make_emu3), (make_emu3, make_janus)):
        with pytest.raises(ValueError, match=r"is not a checkpoint of transformers'.*model_type is"):
            ours(checkpoint=theirs().checkpoint).locate()


def test_a_folder_without_safetensors_is_an_error(make, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(MissingWeightsError, match=r"has no model\.safetensors"):
        make(checkpoint=str(tmp_path)).locate()


def test_missing_weights_are_an_error_and_not_initialised_randomly(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = build_janus(tmp_path)
    state = load_file(folder / "model.safetensors")
    del state["model.generation_head.vision_head.weight"]
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"missing \(1\): model\.generation_head\.vision_head\.weight"):
        Janus(str(folder), dtype="float32").load()


def test_a_checkpoint_without_a_processor_is_an_error(make, tmp_path):
    folder = make().checkpoint
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(f"{folder}/{name}")
    with pytest.raises(ValueError, match=r"has no valid \w+Processor"):
        make(checkpoint=str(tmp_path)).check_prompts(TEXTS)


@pytest.mark.parametrize("size", [0, 30])
def test_an_emu3_image_must_consist_of_whole_tokens(make_emu3, size):
    with pytest.raises(ValueError, match=rf"image_size must be a multiple of 8, got {size}"):
        make_emu3(image_size=size).locate()


def test_the_texts_that_emu3_adds_to_prompts_are_part_of_its_identity(make_emu3):
    identities = [make_emu3(**s).identity() for s in ({}, {"suffix": ""}, {"negative_prompt": "sun"})]
    assert all(identities.count(identity) == 1 for identity in identities)


def test_the_size_of_a_janus_is_in_its_name():
    assert Janus("deepseek-community/Janus-Pro-7B").size_name() == "Pro-7B"


def test_a_sampler_without_rows_is_allowed(generator):
    noise = Noise.of(0, "exec", [])
    assert isinstance(generator.make_sampler(noise, noise), TokenSampler)
