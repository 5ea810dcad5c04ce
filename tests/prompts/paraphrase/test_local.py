"""A local chat model: tiny and random, or trained to give one answer."""

import asyncio

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from gendiv_lightning.chat.local import ChatModel
from gendiv_lightning.prompts.paraphrase.request import Request, read_answer

ANSWER = '{"paraphrases": ["a blue sky", "sky in blue"]}'
TEMPLATE = "{% for message in messages %}{{ message.content }} {% endfor %}"
REQUEST = Request("blue sky", "short", 2, seed=3)


def write_chat_model(folder, *, learnt="", template=TEMPLATE):
    """A GPT-2 of words. If it has learnt an answer, each position predicts its word independently of the others."""
    words = list(dict.fromkeys(["<unk>", "<end>", *ANSWER.split(), "green", "hills"]))
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<end>")
    fast.chat_template = template
    fast.save_pretrained(folder)
    sizes = {"n_positions": 1024, "n_embd": 32, "n_layer": 1, "n_head": 2, "tie_word_embeddings": False}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config(vocab_size=len(words), bos_token_id=1, eos_token_id=1, **sizes))
    if learnt:
        chat = fast.apply_chat_template(REQUEST.messages, add_generation_prompt=True, tokenize=False)
        start = len(fast(chat).input_ids) - 1
        for parameter in model.transformer.h.parameters():
            parameter.data.zero_()
        model.transformer.wte.weight.data.zero_()
        for place, word in enumerate([*learnt.split(), "<end>"]):
            direction = torch.nn.functional.one_hot(torch.tensor(place), 32).float() * 30
            model.transformer.wpe.weight.data[start + place] = direction
            model.lm_head.weight.data[words.index(word)] += direction
    model.save_pretrained(folder)
    return str(folder)


def ask(model, request=REQUEST):
    return asyncio.run(model.answer(request))


def test_the_answer_is_the_text_after_the_chat(tmp_path):
    assert read_answer(ask(ChatModel(write_chat_model(tmp_path, learnt=ANSWER)))) == ["a blue sky", "sky in blue"]


def test_an_answer_is_sampled_with_the_seed_of_its_request_only(tmp_path):
    model = ChatModel(write_chat_model(tmp_path / "chat"))
    state = torch.random.get_rng_state()
    answers = [ask(model, REQUEST._replace(seed=seed)) for seed in (0, 1, 0)]
    assert answers[0] == answers[2] != answers[1]
    assert torch.equal(state, torch.random.get_rng_state())
    assert model.name == "chat"
    assert len(model.identity()["weights"]) == 64


def test_a_model_without_a_chat_template_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"local:.*chat"):
        ask(ChatModel(write_chat_model(tmp_path, template=None)))
    with pytest.raises(FileNotFoundError, match="local:no/such"):
        ask(ChatModel("no/such"))
