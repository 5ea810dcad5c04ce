"""Texts that a text encoder would truncate are counted by its tokenizer, for the metadata of a prompt set."""

import json

import pytest
import transformers

from gendiv_lightning.callbacks import Paraphrase
from gendiv_lightning.cli.main import main
from gendiv_lightning.console.tables import format_truncation
from gendiv_lightning.datamodules import PromptData
from gendiv_lightning.prompts.token_counts import TokenCounter
from gendiv_lightning.runs.assemble import Parts, assemble
from gendiv_lightning.toy.files import write_tokenizer

LONG = "a red circle " * 30  # 90 words


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    write_tokenizer(folder, kind="clip")
    return folder


def test_texts_beyond_the_limit_are_counted(clip):
    counter = TokenCounter(str(clip))
    assert counter.limit == 64
    assert counter.count(["a red circle", LONG]).lengths == [5, 92]
    assert counter.facts({"prompts": ["a red circle", LONG]}) == {
        "limit": 64,
        "prompts": {"texts": 2, "cut": 1, "longest": 92},
    }
    assert TokenCounter(f"{clip}:92").count([LONG]).cut == []
    assert TokenCounter(f"{clip}:91").count([LONG, "a"]).cut == [LONG]
    assert counter.count([]).facts() == {"texts": 0, "cut": 0, "longest": 0}


def test_captions_for_t5_are_cleaned_as_their_reader_cleans_them(tmp_path, monkeypatch):
    write_tokenizer(tmp_path)
    counter = TokenCounter(f"{tmp_path}:120")
    assert counter.count(["a circle free download"]).lengths == [5]
    fast = transformers.PreTrainedTokenizerFast
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", type("T5Like", (fast,), {}).from_pretrained)
    assert TokenCounter(f"{tmp_path}:120").count(["a circle free download"]).lengths == [3]


def test_a_missing_tokenizer_or_one_without_a_limit_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="--count-tokens no/where: "):
        TokenCounter("no/where")
    write_tokenizer(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    del config["model_max_length"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="limit"):
        TokenCounter(str(tmp_path))


def prompts_file(folder):
    paraphrases = [{"text": "a red circle", "length": "short"}, {"text": LONG, "length": "long"}]
    rows = [{"prompt": LONG, "paraphrases": paraphrases}, {"prompt": "a blue star", "paraphrases": paraphrases}]
    path = folder / "prompts.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_both_commands_record_and_print_counts(clip, tmp_path, capsys):
    words = ["prompts", str(prompts_file(tmp_path)), "--num", "2", "--out", str(tmp_path / "out" / "set.jsonl")]
    with pytest.raises(SystemExit):
        main([*words, "--count-tokens", str(clip), "--count-tokens", f"{clip}:100"])
    assert f"{clip.name}: truncated to 64 tokens: 1 of 2 prompts\n" in capsys.readouterr().out
    card = json.loads((tmp_path / "out" / "set.card.json").read_text())
    assert card["tokens"][f"{clip.name}:100"]["prompts"] == {"texts": 2, "cut": 0, "longest": 92}
    (tmp_path / "sky.jsonl").write_text('{"prompt": "the moon at the left"}')
    words = ["paraphrase", str(tmp_path / "sky.jsonl"), "--model", "postcards", "--out", str(tmp_path / "p.jsonl")]
    with pytest.raises(SystemExit):
        main([*words, "--per-prompt", "3", "--count-tokens", f"{clip}:20"])
    assert f"{clip.name}:20: truncated to 20 tokens: 0 of 1 prompts, 2 of 3 paraphrases" in capsys.readouterr().out
    card = json.loads((tmp_path / "p.card.json").read_text())
    assert card["tokens"][f"{clip.name}:20"]["paraphrases"]["cut"] == 2


def metadata(generator, data, *probes):
    return assemble(Parts(generator, data, probes)).prompt_metadata


def test_a_run_counts_its_prompts_and_the_paraphrases_that_it_samples(make_t2i, make_c2i, tmp_path):
    generator, data = make_t2i(), PromptData(str(prompts_file(tmp_path)))
    generator.locate()
    found = metadata(generator, data, Paraphrase(1, "short"))["text_encoder"]
    assert found["paraphrases"] == {"texts": 2, "cut": 0, "longest": 4}
    found = metadata(generator, data, Paraphrase(2, "any"))["text_encoder"]
    assert found == {
        "limit": 64,
        "prompts": {"texts": 2, "cut": 1, "longest": 91},
        "paraphrases": {"texts": 4, "cut": 2, "longest": 91},
    }
    assert format_truncation(found) == "truncated to 64 tokens: 1 of 2 prompts, 2 of 4 paraphrases"
    labels = make_c2i()
    labels.locate()
    numbers = tmp_path / "labels.txt"
    numbers.write_text("1\n2\n")
    found = metadata(labels, PromptData(str(numbers)))
    assert found["text_encoder"] == {}
    assert found["report"]["kept"] == 2
