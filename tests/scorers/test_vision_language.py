"""Tiny random models of transformers: probabilities are those of their own first token."""

import json
import shutil

import pytest
import torch
from PIL import Image
from tiny_token_models import build_llava, build_qwen2_vl

from gendiv_lightning.errors import (
    ConfigValueError,
    MissingWeightsError,
    NonFiniteError,
    PromptError,
    WrongWeightsError,
)
from gendiv_lightning.metrics.registry import make_metric
from gendiv_lightning.records import PromptSamples
from gendiv_lightning.records.questions import Question
from gendiv_lightning.scorers.vision_language import TransformersScorer
from gendiv_lightning.toy import postcards

IMAGES = postcards.render(torch.tensor([0, 9_000, 30_000, 77_777]))
SKY = Question("sky", ("red", "green", "black"), text="What is the sky?")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_llava(tmp_path_factory.mktemp("llava") / "tiny-llava")


@pytest.fixture(scope="module")
def scorer(folder):
    scorer = TransformersScorer(str(folder))
    scorer.load()
    return scorer


def next_tokens(folder, image, text, family="Llava", place="<image>"):
    """Probabilities of the model's next token by its text, through the processor and the model alone."""
    import transformers

    processor = getattr(transformers, f"{family}Processor").from_pretrained(folder)
    model = getattr(transformers, f"{family}ForConditionalGeneration").from_pretrained(folder).eval()
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    inputs = processor(images=[picture], text=[f"user : {place} {text}  assistant :"], return_tensors="pt")
    with torch.no_grad():
        shares = model(**inputs).logits[0, -1].double().softmax(0)
    return {processor.tokenizer.decode([number]): share.item() for number, share in enumerate(shares)}


def test_the_probability_of_yes_is_that_of_the_models_next_token(folder, scorer):
    affirmed = scorer.affirm(IMAGES, "two green hills")
    for image, found in zip(IMAGES, affirmed, strict=True):
        text = 'Does this figure show "two green hills"? Please answer yes or no.'
        shares = next_tokens(folder, image, text)
        assert found.item() == pytest.approx(shares["Yes"] + shares["yes"], rel=1e-6)
        assert shares["Yes"] > 0 < shares["yes"]
    assert affirmed.std() > 1e-3
    assert affirmed.dtype == torch.float64


def test_models_of_another_family_give_their_probabilities_too(tmp_path):
    """Qwen2-VL cuts an image into patches and has positions of its own."""
    scorer = TransformersScorer(str(build_qwen2_vl(tmp_path)))
    affirmed = scorer.affirm(IMAGES, "two green hills")
    for image, found in zip(IMAGES, affirmed, strict=True):
        text = 'Does this figure show "two green hills"? Please answer yes or no.'
        shares = next_tokens(tmp_path, image, text, "Qwen2VL", "<|vision_start|><|image_pad|><|vision_end|>")
        assert found.item() == pytest.approx(shares["Yes"] + shares["yes"], rel=1e-6)
    assert affirmed.std() > 1e-3


def test_the_probability_of_a_value_is_that_of_its_letter_in_both_orders(folder, scorer):
    chosen = scorer.choose(IMAGES, SKY)
    text = "What is the sky?\n{}\nAnswer with the letter of the best option only."
    for image, found in zip(IMAGES, chosen, strict=True):
        given = next_tokens(folder, image, text.format("A. red\nB. green\nC. black"))
        turned = next_tokens(folder, image, text.format("A. black\nB. green\nC. red"))
        for number, (first, second) in enumerate(zip("ABC", "CBA", strict=True)):
            expected = given[first] / sum(given[x] for x in "ABC") + turned[second] / sum(turned[x] for x in "ABC")
            assert found[number].item() == pytest.approx(expected / 2, rel=1e-6)
    assert torch.allclose(chosen.sum(1), torch.ones(4, dtype=torch.float64))


def test_the_answer_for_an_image_does_not_depend_on_its_batch(scorer):
    whole = scorer.affirm(IMAGES, "the sun")
    assert torch.equal(torch.cat([scorer.affirm(image[None], "the sun") for image in IMAGES]), whole)
    assert torch.equal(scorer.choose(IMAGES.flip(0), SKY).flip(0), scorer.choose(IMAGES, SKY))
    assert scorer.choose(IMAGES[:0], SKY).shape == (0, 3)


def test_scorers_of_one_model_share_it_and_others_do_not(folder, scorer):
    same, half = TransformersScorer(str(folder)), TransformersScorer(str(folder), dtype="bfloat16")
    for other in (same, half):
        other.load()
    assert same._network is scorer._network
    assert half._network is not scorer._network
    assert half.affirm(IMAGES, "a hill") != pytest.approx(scorer.affirm(IMAGES, "a hill"), rel=1e-9)
    assert half.affirm(IMAGES, "a hill") == pytest.approx(scorer.affirm(IMAGES, "a hill"), abs=0.05)


def test_the_identity_contains_the_weights_and_not_the_path(folder, scorer, tmp_path):
    identity = scorer.identity()
    assert (identity["model"], identity["dtype"], len(identity["weights"])) == ("tiny-llava", "float32", 64)
    assert str(folder) not in json.dumps(identity)
    shutil.copytree(folder, tmp_path / "tiny-llava")
    assert TransformersScorer(str(tmp_path / "tiny-llava")).identity() == identity
    (tmp_path / "tiny-llava" / "model.safetensors").write_bytes(b"other")
    assert TransformersScorer(str(tmp_path / "tiny-llava")).identity() != identity


def test_the_metric_is_the_mean_probability(folder, scorer):
    metric = make_metric(f"vqa_score[transformers,model={folder}]")
    metric.load()
    metric.update(PromptSamples(IMAGES, prompt="two green hills"))
    estimate = metric.compute()["quality/vqa_score[tiny-llava]"]
    assert estimate.value == pytest.approx(scorer.affirm(IMAGES, "two green hills").mean().item(), rel=1e-12)


def test_a_missing_folder_is_an_error_when_the_metric_is_loaded(tmp_path):
    metric = make_metric(f"vqa_score[transformers,model={tmp_path}/nowhere]")
    with pytest.raises(MissingWeightsError, match=r"no folder '.*nowhere'.*Pass a folder"):
        metric.load()


def test_formats_that_can_run_code_are_refused(folder, tmp_path):
    for file in folder.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, tmp_path)
    torch.save({"weights": torch.zeros(3)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(MissingWeightsError, match=r"no model\.safetensors, and other formats are not read"):
        TransformersScorer(str(tmp_path)).load()


def change(folder, tmp_path, name, **values):
    copy = shutil.copytree(folder, tmp_path / "copy")
    content = json.loads((copy / name).read_text())
    (copy / name).write_text(json.dumps({**content, **values}))
    return copy


def test_code_of_a_repository_is_not_executed(folder, tmp_path):
    auto_map = {"AutoConfig": "alien.Config", "AutoModelForImageTextToText": "alien.Model"}
    copy = change(folder, tmp_path, "config.json", model_type="alien", auto_map=auto_map)
    (copy / "alien.py").write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n")
    with pytest.raises(WrongWeightsError, match="vision-language model"):
        TransformersScorer(str(copy)).load()
    assert not (tmp_path / "ran").exists()


def test_a_model_without_chat_template_is_an_error(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "chat_template.jinja").unlink()
    with pytest.raises(WrongWeightsError, match=r"chat template\. Choose a model that chats"):
        TransformersScorer(str(copy)).load()


def test_a_vocabulary_without_the_answers_is_an_error(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    vocabulary = (copy / "tokenizer.json").read_text()
    (copy / "tokenizer.json").write_text(vocabulary.replace('"No"', '"Nay"'))
    with pytest.raises(WrongWeightsError, match=r"letters A to T as tokens; missing: no\. Choose"):
        TransformersScorer(str(copy)).load()


def test_missing_weights_are_an_error(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(folder, tmp_path / "copy")
    weights = load_file(copy / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "lm_head" not in name}
    save_file(kept, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(WrongWeightsError, match="missing"):
        TransformersScorer(str(copy)).load()


def test_logits_that_are_not_finite_are_an_error(folder):
    scorer = TransformersScorer(str(folder), dtype="float16")
    scorer.load()
    scorer._network.model.lm_head.weight.data[3] = torch.inf
    with pytest.raises(NonFiniteError, match="logits are not finite"):
        scorer.affirm(IMAGES[:1], "a hill")


@pytest.mark.parametrize(
    ("inside", "words"),
    [("", "requires the option 'model'"), (",model=m,dtype=int8", "dtype must be one of float32, bfloat16, float16")],
)
def test_wrong_options_are_an_error(inside, words):
    with pytest.raises(ValueError, match=words):
        make_metric(f"vqa_score[transformers{inside}]")


def test_arguments_are_checked_in_python_too():
    with pytest.raises(ConfigValueError, match="model must not be empty"):
        TransformersScorer(" ")
    with pytest.raises(ConfigValueError, match="dtype must be one of"):
        TransformersScorer("model", dtype="int8")


def test_a_question_with_more_values_than_letters_is_an_error():
    with pytest.raises(PromptError, match=r"'number' must have at most 20 values.*got 21"):
        TransformersScorer("model").check(Question("number", tuple(map(str, range(21)))))
