"""The check of paraphrases with a real sentence encoder, all-MiniLM-L6-v2: `python tests/real_files.py FOLDER`."""

import json

import pytest
import torch
from real_parts import part
from torch.nn import functional as F

from gendiv_lightning.cli.main import main
from gendiv_lightning.prompts.paraphrase.similarity import make_similarity

pytestmark = pytest.mark.real

# Captions in the style of MSCOCO, each with two paraphrases.
CAPTIONS = {
    "A man riding a wave on top of a surfboard.": (
        "A surfer rides a big wave.",
        "Someone on a surfboard is carried along by an ocean wave.",
    ),
    "A bowl of fruit sits on a kitchen table.": (
        "There is a fruit bowl on the table in the kitchen.",
        "Fruit in a bowl, placed upon a table where people cook.",
    ),
    "Two dogs are playing with a ball in the park.": (
        "A pair of dogs in a park chase a ball.",
        "In the park, two puppies play ball.",
    ),
    "A red double decker bus drives down the street.": (
        "A double-decker bus in red goes along the road.",
        "Down the street comes a red bus with two floors.",
    ),
    "A woman is holding an umbrella in the rain.": (
        "In the rain, a lady holds up an umbrella.",
        "It is raining, and a woman carries an umbrella.",
    ),
}


@pytest.fixture(scope="module")
def encoder():
    return part("sentences") / "all-MiniLM-L6-v2"


@pytest.fixture(scope="module")
def similarity(encoder):
    similarity = make_similarity(f"sentence:{encoder}")
    similarity.load()
    return similarity


def test_similarities_equal_those_of_the_published_recipe_of_the_model(encoder, similarity):
    """The recipe: the mean of the token features over the attention mask, of a padded batch, then the cosine."""
    from transformers import AutoModel, AutoTokenizer

    texts = [text for caption, others in CAPTIONS.items() for text in (caption, *others)]
    inputs = AutoTokenizer.from_pretrained(encoder)(texts, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        states = AutoModel.from_pretrained(encoder).eval()(**inputs).last_hidden_state
    mask = inputs["attention_mask"][..., None].float()
    features = F.normalize((states * mask).sum(1) / mask.sum(1), dim=1)
    expected = features @ features.T
    ours = torch.tensor([[similarity.score(a, b) for b in texts] for a in texts])
    assert expected.min() < 0.1 < 0.6 < expected[0, 1]
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


def test_every_paraphrase_is_nearer_to_its_caption_than_any_text_of_another_caption(similarity):
    for caption, paraphrases in CAPTIONS.items():
        own = min(similarity.score(caption, text) for text in paraphrases)
        foreign = [text for other, texts in CAPTIONS.items() if other != caption for text in (other, *texts)]
        assert own > 0.5
        assert max(similarity.score(caption, text) for text in foreign) < 0.3


def test_the_check_accepts_paraphrases_and_names_a_text_with_another_meaning(encoder, tmp_path, capsys):
    def check(captions):
        path = tmp_path / "set.jsonl"
        sets = {caption: [{"text": text} for text in texts] for caption, texts in captions.items()}
        rows = ({"prompt": caption, "paraphrases": texts} for caption, texts in sets.items())
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        with pytest.raises(SystemExit) as ended:
            main(["paraphrase", str(path), "--check", "--similarity", f"sentence:{encoder}", "--min-similarity", "0.5"])
        return ended.value.code, capsys.readouterr()

    code, printed = check(CAPTIONS)
    assert code == 0, printed
    assert "sentence:all-MiniLM-L6-v2" in printed.out
    surfer, _, dogs, *_ = CAPTIONS
    code, printed = check({**CAPTIONS, dogs: (*CAPTIONS[dogs], surfer)})
    assert code == 1
    assert dogs in printed.err
