import math
import pickle

import pytest
import torch
from jsonargparse import ArgumentParser
from random_clips import CONTEXT, pictures, sentence, write_open_clip, write_transformers_clip
from torch.nn import functional as F

from gendiv_lightning.metrics import CLIPIQA, CLIPCosine, CLIPScore
from gendiv_lightning.metrics.clip import QUALITY_PROMPTS
from gendiv_lightning.records import PromptSamples

PAIRS = {"warm sky": ("orange sky", "blue sky"), "flat": ("flat land", "a red peak")}
POSTCARDS = {"prompts": (), "pairs": PAIRS}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return write_transformers_clip(tmp_path_factory.mktemp("clip") / "toy")


@pytest.fixture(scope="module")
def english(tmp_path_factory):
    return write_open_clip(tmp_path_factory.mktemp("english"), knows_english=True)


MAKERS = {
    "score": CLIPScore,
    "iqa": lambda backbone: CLIPIQA(backbone, **POSTCARDS),
    "cosine": CLIPCosine,
}


@pytest.fixture(params=list(MAKERS))
def make(request, backbone):
    return lambda: MAKERS[request.param](backbone)


def prompt(index=0, num=6, *, paraphrases=1, words=6):
    images = pictures(num, 40, 40 + index)
    return PromptSamples(images, prompt=sentence(words, index), place=index, paraphrase=torch.arange(num) % paraphrases)


def cosines_by_hand(backbone, images, texts):
    """Cosines (N, number of texts) computed with transformers."""
    from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

    model = CLIPModel.from_pretrained(backbone).eval()
    tokenizer, processor = AutoTokenizer.from_pretrained(backbone), CLIPImageProcessor.from_pretrained(backbone)
    settings = {"padding": True, "truncation": True, "max_length": CONTEXT, "return_tensors": "pt"}
    with torch.no_grad():
        pixels = processor(images=list(images), return_tensors="pt")["pixel_values"]
        image = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)
        ids = tokenizer(texts, **settings)
        text = model.text_projection(model.text_model(ids.input_ids, ids.attention_mask).pooler_output)
    return F.normalize(image, dim=1) @ F.normalize(text, dim=1).T


# --- what the numbers are ---


@pytest.mark.parametrize("words", [6, 30])
def test_the_score_is_100_times_the_mean_cosine(backbone, words):
    samples = prompt(num=40, words=words)
    score, *_, cut = CLIPScore(backbone).measure(samples)
    cosines = cosines_by_hand(backbone, samples.images, [samples.prompt])
    assert score == pytest.approx(100 * cosines.clamp(min=0).mean().item(), abs=1e-3)
    assert cut == (words > CONTEXT - 2)


def test_an_image_opposite_to_its_text_counts_as_unrelated(backbone):
    texts = [sentence(6, start) for start in range(30)]
    images = prompt(num=12).images
    cosines = cosines_by_hand(backbone, images, texts)
    mixed = next(i for i, column in enumerate(cosines.T) if (column > 0.02).any() and (column < -0.02).any())
    score, *_ = CLIPScore(backbone).measure(PromptSamples(images, prompt=texts[mixed]))
    assert score == pytest.approx(100 * cosines[:, mixed].clamp(min=0).mean().item(), abs=1e-3)
    assert score > 100 * cosines[:, mixed].mean().item() + 0.1


def test_the_share_of_truncated_captions_is_reported(backbone):
    metric = CLIPScore(backbone)
    for index, words in enumerate((3, CONTEXT - 2, CONTEXT - 1, 60)):
        metric.update(prompt(index, 2, words=words))
    estimate = metric.compute()["quality/clip_score_cut[toy]"]
    assert (estimate.value, estimate.num_prompts, estimate.num_samples) == (0.5, 4, 8)


def test_with_chunks_a_long_caption_is_used_whole(backbone):
    samples, metric = prompt(num=3, words=40), CLIPScore(backbone, "chunks")
    score = metric.measure(samples)[0]
    text = metric.features.chunk_texts([samples.prompt])[0]
    assert score == pytest.approx(100 * (metric.features(samples.images) @ text).clamp(min=0).mean().item())
    assert "quality/clip_score_cut[toy]" not in metric.names
    assert score != pytest.approx(CLIPScore(backbone).measure(samples)[0], abs=1e-2)
    assert CLIPScore(backbone).identity()["method"] != metric.identity()["method"]
    short = prompt(num=3)
    assert metric.measure(short)[0] == pytest.approx(CLIPScore(backbone).measure(short)[0], abs=1e-4)


def test_the_text_is_always_the_base_prompt(backbone):
    samples = prompt(num=4, paraphrases=2)
    reworded = samples._replace(texts=tuple(sentence(5, start) for start in range(4)))
    plain = CLIPScore(backbone).measure(samples)
    assert CLIPScore(backbone).measure(reworded)[0] == pytest.approx(plain[0], abs=1e-5)
    assert all(math.isnan(number) for number in plain[1:3])


def test_the_drift_is_the_gap_between_the_scores_for_paraphrase_and_prompt(backbone):
    texts = tuple(sentence(5, start) for start in (0, 7, 0, 14))
    samples = prompt(num=4)._replace(texts=texts)
    cosines = cosines_by_hand(backbone, samples.images, [samples.prompt, *texts])
    wording = 100 * cosines[:, 1:].diagonal().clamp(min=0).mean().item()
    score = 100 * cosines[:, 0].clamp(min=0).mean().item()
    assert CLIPScore(backbone).measure(samples) == pytest.approx([score, wording, wording - score, 0], abs=1e-3)
    assert abs(wording - score) > 0.1
    long = samples._replace(texts=(*texts[:3], sentence(30)))
    assert CLIPScore(backbone).measure(long)[3] == 1


def test_samples_of_the_prompt_itself_have_no_drift_and_none_is_reported(backbone):
    samples = prompt(num=3)
    row = CLIPScore(backbone).measure(samples._replace(texts=(samples.prompt,) * 3))
    assert [math.isnan(number) for number in row] == [False, True, True, False]
    mixed = CLIPScore(backbone, "chunks").measure(samples._replace(texts=(samples.prompt, samples.prompt, "red sky")))
    assert math.isfinite(mixed[2])


def test_image_quality_is_a_softmax_over_a_pair_of_texts(backbone):
    images = prompt(num=5).images
    texts = [text for pair in PAIRS.values() for text in pair]
    cosines = cosines_by_hand(backbone, images, texts)
    expected = (100 * cosines).reshape(5, -1, 2).softmax(-1)[:, :, 0].mean(0)
    row = CLIPIQA(backbone, **POSTCARDS).measure(PromptSamples(images))
    assert row == pytest.approx(expected.tolist(), abs=1e-4)
    assert 1e-4 < min(row) < max(row) < 0.9999


def test_the_text_pairs_equal_those_of_torchmetrics():
    from torchmetrics.functional.multimodal.clip_iqa import _PROMPTS

    assert QUALITY_PROMPTS == _PROMPTS


def test_image_quality_takes_one_or_many_text_pairs(english):
    images = prompt(num=4).images
    alone, several = CLIPIQA(english), CLIPIQA(english, ["quality", "sharpness"], {"mine": ("Nice.", "Not nice.")})
    tag = alone.features.tag
    assert alone.names == (f"quality/clip_iqa[{tag}]",)
    assert several.names == tuple(f"quality/clip_iqa[{tag}]/{name}" for name in ("quality", "sharpness", "mine"))
    row = several.measure(PromptSamples(images))
    assert row[0] == pytest.approx(alone.measure(PromptSamples(images))[0], abs=1e-6)
    assert CLIPIQA(english, "sharpness").measure(PromptSamples(images)) == pytest.approx(row[1:2], abs=1e-6)
    assert CLIPIQA(english, "sharpness").names == (f"quality/clip_iqa[{tag}]/sharpness",)
    mirrored = CLIPIQA(english, (), {"mine": ("Not nice.", "Nice.")})
    assert mirrored.measure(PromptSamples(images))[0] == pytest.approx(1 - row[2], abs=1e-6)
    assert mirrored.identity() != CLIPIQA(english, (), {"mine": ("Nice.", "Not nice.")}).identity()


def test_the_distance_is_the_mean_over_pairs(backbone):
    samples = prompt(num=40, paraphrases=2)
    features = CLIPCosine(backbone).features(samples.images).double()
    distances = 1 - features @ features.T
    same = samples.paraphrase[:, None] == samples.paraphrase
    within = distances[same & ~torch.eye(40, dtype=torch.bool)].mean().item()
    between = distances[~same].mean().item()
    expected = [(within + between) / 2, within, between]
    assert CLIPCosine(backbone).measure(samples)[:3] == pytest.approx(expected, rel=1e-5)
    assert expected[0] > 0.01


# --- what every metric keeps to ---


def test_identical_images_have_no_diversity(backbone):
    image = prompt(num=1).images
    for picture in (image, torch.zeros_like(image), torch.full_like(image, 255)):
        samples = PromptSamples(picture.expand(34, -1, -1, -1), paraphrase=torch.arange(34) % 2)
        assert CLIPCosine(backbone).measure(samples)[:3] == pytest.approx([0, 0, 0], abs=1e-12)


def test_one_sample_has_quality_and_no_diversity(backbone):
    samples = prompt(num=1)
    assert all(math.isnan(number) for number in CLIPCosine(backbone).measure(samples))
    for metric in (CLIPScore(backbone), CLIPIQA(backbone, **POSTCARDS)):
        assert math.isfinite(metric.measure(samples)[0])


@pytest.mark.parametrize("value", [0, 255])
def test_images_of_one_colour_are_measured(make, value):
    samples = PromptSamples(torch.full((3, 3, 20, 30), value, dtype=torch.uint8), prompt="red hills")
    assert all(math.isfinite(number) for number in make().measure(samples)[:1])


def test_a_row_does_not_depend_on_the_number_of_other_samples(backbone):
    many = prompt(num=36)
    one_by_one = [many._replace(images=image[None], paraphrase=None) for image in many.images[:36:5]]
    for metric in (CLIPScore(backbone), CLIPIQA(backbone, **POSTCARDS)):
        alone = torch.tensor([metric.measure(samples)[0] for samples in one_by_one]).mean().item()
        together = metric.measure(many._replace(images=many.images[::5]))[0]
        assert together == pytest.approx(alone, abs=1e-4)


def test_order_and_rank_do_not_matter(make):
    whole, first, second = make(), make(), make()
    for index in range(6):
        whole.update(prompt(index, paraphrases=2))
    for index in (4, 0, 2):
        first.update(prompt(index, paraphrases=2))
    for index in (5, 3, 1):
        second.update(prompt(index, paraphrases=2))
    first.merge_state(second)
    assert repr(first.compute()) == repr(whole.compute())
    assert list(whole.compute()) == list(whole.names)
    estimate = whole.compute()[whole.names[0]]
    assert estimate.low < estimate.value < estimate.high
    assert (estimate.num_prompts, estimate.num_samples) == (6, 36)
    assert repr(pickle.loads(pickle.dumps(first)).compute()) == repr(whole.compute())


def test_metrics_with_one_backbone_share_it_and_its_features(backbone, monkeypatch):
    metrics = [make(backbone) for make in MAKERS.values()]
    for metric in metrics:
        metric.load()
    (network,) = {metric.features.network for metric in metrics}
    calls, encode = [], network.encode_images
    monkeypatch.setattr(network, "encode_images", lambda inputs: calls.append(len(inputs)) or encode(inputs))
    for index in (20, 21):
        for metric in metrics:
            metric.update(prompt(index))
    assert calls == [6, 6]


# --- names and errors ---


def test_names_give_backbones_other_than_the_default_in_brackets():
    parts = ("quality/clip_score/wording", "quality/clip_score/drift")
    assert CLIPScore().names == ("quality/clip_score", *parts, "quality/clip_score_cut")
    tagged = [name.replace("clip_score", "clip_score[tiny-clip]", 1) for name in ("quality/clip_score", *parts)]
    assert CLIPScore("tiny-clip").names == (*tagged, "quality/clip_score_cut[tiny-clip]")
    assert CLIPIQA().names == ("quality/clip_iqa",)
    assert CLIPIQA(prompts=["quality", "happy"]).names == ("quality/clip_iqa/quality", "quality/clip_iqa/happy")
    assert CLIPCosine().names[0] == "diversity/clip_cosine"
    assert CLIPCosine("ViT-B-32/laion2b_s34b_b79k").names[:3] == (
        "diversity/clip_cosine[ViT-B-32/laion2b_s34b_b79k]",
        "diversity/clip_cosine[ViT-B-32/laion2b_s34b_b79k]/within",
        "diversity/clip_cosine[ViT-B-32/laion2b_s34b_b79k]/between",
    )


def test_the_identity_names_the_backbone_and_its_weights(make, backbone):
    identity = make().identity()
    assert identity["backbone"] == "toy"
    assert len(identity["weights"]) == 64
    assert "CLIP toy" in identity["method"]
    assert make().method == make().method


def test_all_arguments_can_be_set_in_a_config():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(CLIPIQA, "iqa")
    parser.add_class_arguments(CLIPScore, "score")
    words = [
        "--iqa.prompts=[happy]",
        "--iqa.pairs={crisp: [Crisp photo., Soft photo.]}",
        "--score.long_captions=chunks",
    ]
    config = parser.parse_args(words)
    iqa = CLIPIQA(**config.iqa)
    assert iqa.names == ("quality/clip_iqa/happy", "quality/clip_iqa/crisp")
    assert iqa.pairs["crisp"] == ("Crisp photo.", "Soft photo.")
    assert CLIPScore(**config.score).names[0] == "quality/clip_score"


def test_a_backbone_whose_vocabulary_has_none_of_the_words_is_an_error(backbone):
    metric = CLIPIQA(backbone, ["quality", "happy"])
    with pytest.raises(ValueError, match=r"'Happy photo\.'.*'Sad photo\.'.*`pairs`"):
        metric.load()


def test_images_that_are_not_uint8_are_an_error(make):
    with pytest.raises(ValueError, match="uint8"):
        make().update(PromptSamples(torch.rand(2, 3, 16, 16), prompt="red hills"))
    with pytest.raises(ValueError, match="mixed sizes"):
        make().update(PromptSamples([torch.zeros(3, n, n, dtype=torch.uint8) for n in (16, 17)], prompt="red hills"))


def test_a_score_without_a_text_is_an_error(backbone):
    for text in ("", "  "):
        with pytest.raises(ValueError, match="text"):
            CLIPScore(backbone).update(prompt()._replace(prompt=text))
    with pytest.raises(ValueError, match="text"):
        CLIPScore(backbone).check_prompts(["red hills", ""])
    CLIPScore(backbone).check_prompts(["red hills"])


def test_invalid_settings_are_errors_at_construction():
    with pytest.raises(ValueError, match=r"cut, chunks.*'truncate'"):
        CLIPScore(long_captions="truncate")
    with pytest.raises(ValueError, match=r"colorfullness.*'colorfulness'"):
        CLIPIQA(prompts=["colorfulness"])
    with pytest.raises(ValueError, match=r"pairs .*'quality'"):
        CLIPIQA(pairs={"quality": ("a", "b")})
    with pytest.raises(ValueError, match="two texts"):
        CLIPIQA(pairs={"mine": ("a", "b", "c")})
    with pytest.raises(ValueError, match="prompts or pairs must contain"):
        CLIPIQA(prompts=())
    with pytest.raises(ValueError, match="pairs must contain a pair"):
        CLIPIQA(pairs={})
    with pytest.raises(ValueError, match=r"prompts .*'happy'"):
        CLIPIQA(prompts=["happy", "quality", "happy"])
    for metric in (CLIPScore, CLIPIQA, CLIPCosine):
        with pytest.raises(ValueError, match="backbone must be"):
            metric("ViT-L-14")
