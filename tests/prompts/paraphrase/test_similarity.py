"""Similarities of texts, compared with the same models by hand; unusable models are errors."""

import pytest
import torch
from torch.nn import functional as F

from gendiv_lightning.prompts.paraphrase.similarity import make_similarity
from gendiv_lightning.toy import captions
from gendiv_lightning.toy.features import TinyClip
from gendiv_lightning.toy.files import num_words, write_tokenizer

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXTS = ("blue sky", "a postcard of the red house on the left, a sky in blue", "two green hills")


def write_model(folder, kind, **more):
    from transformers import BertConfig, BertForSequenceClassification, BertModel

    config = BertConfig(vocab_size=num_words() + 1, initializer_range=0.4, **SIZES, **more)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        (BertModel if kind == "sentence" else BertForSequenceClassification)(config).save_pretrained(folder)
    write_tokenizer(folder, kind="clip")
    return f"{kind}:{folder}"


@pytest.fixture(scope="module")
def sentence(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models") / "encoder", "sentence")


@pytest.fixture(scope="module")
def nli(tmp_path_factory):
    labels = {0: "CONTRADICTION", 1: "NEUTRAL", 2: "ENTAILMENT"}
    return write_model(tmp_path_factory.mktemp("models") / "classifier", "nli", id2label=labels)


def load(name):
    similarity = make_similarity(name)
    similarity.load()
    return similarity


def test_clip_gives_the_cosine_of_its_text_features():
    clip = load("tiny-clip")
    features = TinyClip().texts(TEXTS)
    for number, text in enumerate(TEXTS):
        assert clip.score(TEXTS[0], text) == pytest.approx((features[0] @ features[number]).item(), abs=1e-5)
    assert clip.name == "tiny-clip"


def test_clip_separates_paraphrases_from_other_postcards():
    clip, prompts = load("tiny-clip"), captions.prompts(12)
    own = [clip.score(prompt.text, text) for prompt in prompts for text, _ in prompt.paraphrases]
    others = [clip.score(a.text, b.text) for a in prompts for b in prompts if a != b]
    assert min(own) > 0.85
    assert sum(others) / len(others) < 0.6


def test_a_text_longer_than_the_context_is_measured_to_its_end():
    clip = load("tiny-clip")
    filler = "it is a quiet picture with clean lines that is pleasant to look at, " * 8
    assert abs(clip.score("blue sky", f"{filler} blue sky") - clip.score("blue sky", f"{filler} red house left")) > 1e-3


def test_a_sentence_encoder_gives_the_cosine_of_means_over_tokens(sentence):
    from transformers import AutoModel, AutoTokenizer

    folder = sentence.partition(":")[2]
    tokens = AutoTokenizer.from_pretrained(folder)(list(TEXTS), padding=True, return_tensors="pt")
    with torch.no_grad():
        states = AutoModel.from_pretrained(folder)(**tokens).last_hidden_state
    counts = tokens["attention_mask"][..., None]
    means = F.normalize((states * counts).sum(1) / counts.sum(1), dim=1)
    encoder = load(sentence)
    for number, text in enumerate(TEXTS):
        assert encoder.score(TEXTS[0], text) == pytest.approx((means[0] @ means[number]).item(), abs=1e-5)
    assert encoder.score(*TEXTS[:2]) < 0.999
    assert (encoder.name, len(encoder.identity()["weights"])) == ("sentence:encoder", 64)


def test_entailment_is_the_smaller_of_both_directions(nli):
    from transformers import pipeline

    classify = pipeline("text-classification", nli.partition(":")[2], top_k=None, device="cpu")
    classifier = load(nli)

    def entails(premise, hypothesis):
        (found,) = [r["score"] for r in classify({"text": premise, "text_pair": hypothesis}) if r["label"][0] == "E"]
        return found

    ways = [entails(TEXTS[0], TEXTS[1]), entails(TEXTS[1], TEXTS[0])]
    assert classifier.score(*TEXTS[:2]) == pytest.approx(min(ways), abs=1e-5)
    assert classifier.score(*TEXTS[1::-1]) == pytest.approx(min(ways), abs=1e-5)
    assert abs(ways[0] - ways[1]) > 1e-3


def test_wrong_models_are_errors(sentence, nli, tmp_path):
    with pytest.raises(ValueError, match=r"label_0, label_1, not entailment"):
        load(write_model(tmp_path / "labels", "nli"))
    with pytest.raises(ValueError, match=r"missing .*classifier"):
        load(sentence.replace("sentence:", "nli:"))
    with pytest.raises(FileNotFoundError, match="sentence:no/such"):
        load("sentence:no/such")
    with pytest.raises(ValueError, match="backbone"):
        make_similarity("ViT")
