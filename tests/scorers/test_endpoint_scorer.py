"""A model at an endpoint that reads postcards, with and without log-probabilities, failures and interruptions."""

import asyncio
import base64
import io
import json
import math
import os
import re
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from chat_server import completion, hang_up, serving, status
from PIL import Image

from gendiv_lightning.chat.endpoint import ChatEndpoint
from gendiv_lightning.errors import ConfigValueError, NetworkError
from gendiv_lightning.metrics.registry import make_metric
from gendiv_lightning.records import PromptSamples
from gendiv_lightning.records.questions import Question
from gendiv_lightning.scorers import endpoint
from gendiv_lightning.scorers.endpoint import EndpointScorer
from gendiv_lightning.toy import postcards
from gendiv_lightning.toy.scorer import PostcardScorer, postcard_attributes

KEY = "sk-f00dfacef00dfacef00dface"
INDICES = torch.tensor([0, 9_000, 30_000, 77_777])
IMAGES = postcards.render(INDICES)
(SKY,) = (a.question for a in postcard_attributes("blue sky") if a.question.name == "sky")
WRONG = 0.1  # probability that the model gives to a wrong answer


def image_of(body):
    picture, text = body["messages"][0]["content"]
    head, _, data = picture["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64"
    pixels = np.array(Image.open(io.BytesIO(base64.b64decode(data))))
    return torch.from_numpy(pixels).permute(2, 0, 1)[None], text["text"]


def truth(body):
    """The possible answers to a question, and the right one."""
    image, text = image_of(body)
    if "yes or no" in text:
        caption = re.search('"(.*)"', text)[1]
        known = caption != "a white square"  # the question of `load`
        return ["Yes", "No"], "Yes" if known and PostcardScorer().affirm(image, caption).item() else "No"
    options = re.findall(r"^([A-T])\. (.*)$", text, flags=re.MULTILINE)
    shown = SKY.values[PostcardScorer().choose(image, SKY).argmax()]
    return [letter for letter, _ in options], next(letter for letter, value in options if value == shown)


def with_probabilities(body):
    answers, right = truth(body)
    shares = {answer: 1 - WRONG if answer == right else WRONG / (len(answers) - 1) for answer in answers}
    tokens = {answer: math.log(0.8 * share) for answer, share in shares.items()}
    tokens[f" {right.lower()}"] = math.log(0.1 * shares[right])  # another token for the same answer
    return completion(right, tokens={**tokens, "The": math.log(0.05)})


def in_json(body):
    assert "logprobs" not in body
    return json.dumps({"answer": truth(body)[1]})


@pytest.fixture(autouse=True)
def _environment(monkeypatch, tmp_path):
    monkeypatch.setenv("GENDIV_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(endpoint, "ChatEndpoint", partial(ChatEndpoint, first_delay=0.01, num_tries=4))


@pytest.fixture
def connect(monkeypatch):
    def connect(server, **settings):
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        return EndpointScorer("maker/tiny-vlm:2b", **settings)

    return connect


def test_probabilities_are_those_of_the_first_token_summed_over_its_forms(connect):
    with serving(content=with_probabilities) as server:
        affirmed = connect(server).affirm(IMAGES, "blue sky")
        chosen = connect(server).choose(IMAGES, SKY)
    is_blue = postcards.factors_of(INDICES)["sky"] == SKY.values.index("blue")
    assert affirmed.tolist() == pytest.approx(
        [0.9 * (1 - WRONG) if blue else 0.8 * WRONG for blue in is_blue], rel=1e-12
    )
    right = postcards.factors_of(INDICES)["sky"]
    likely = 0.9 * (1 - WRONG)  # of all answers 0.8 WRONG more
    assert chosen.gather(1, right[:, None])[:, 0] == pytest.approx(torch.full((4,), likely / (likely + 0.8 * WRONG)))
    assert chosen.sum(1) == pytest.approx(torch.ones(4))
    assert server.keys == {f"Bearer {KEY}"}


def test_a_request_asks_for_one_token_of_a_deterministic_answer(connect):
    with serving(content=with_probabilities) as server:
        connect(server).affirm(IMAGES[:1], "blue sky")
    (body,) = server.bodies
    image, text = image_of(body)
    assert torch.equal(image, IMAGES[:1])
    assert text == 'Does this figure show "blue sky"? Please answer yes or no.'
    del body["messages"]
    settings = {"temperature": 0, "seed": 0, "logprobs": True, "top_logprobs": 20, "max_tokens": 1}
    assert body == {"model": "maker/tiny-vlm:2b", **settings}


def test_values_are_offered_in_both_orders_which_cancels_a_preference_for_the_first(connect):
    def first(body):
        return completion("A", tokens={"A": math.log(0.7), "B": math.log(0.2), "C": math.log(0.1)})

    with serving(content=first) as server:
        chosen = connect(server).choose(IMAGES[:1], Question("mood", ("calm", "wild", "sad")))
    texts = [image_of(body)[1] for body in server.bodies]
    assert "What is the mood?\nA. calm\nB. wild\nC. sad\n" in texts[0]
    assert "What is the mood?\nA. sad\nB. wild\nC. calm\n" in texts[1]
    assert chosen[0].tolist() == pytest.approx([0.4, 0.2, 0.4])


def test_without_probabilities_the_answer_is_json_and_certain(connect):
    with serving(content=in_json) as server:
        scorer = connect(server, probabilities="none")
        chosen, affirmed = scorer.choose(IMAGES, SKY), scorer.affirm(IMAGES, "blue sky")
    assert torch.equal(chosen, PostcardScorer().choose(IMAGES, SKY))
    assert torch.equal(affirmed, PostcardScorer().affirm(IMAGES, "blue sky"))
    schema = server.bodies[0]["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["answer"]["enum"] == list("ABCDEFGHIJKLMNOPQRST")[: len(SKY.values)]


def test_the_two_kinds_of_probabilities_have_different_identities_without_secrets(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://name:password@host/v1")
    first, second = EndpointScorer("m").identity(), EndpointScorer("m", "none").identity()
    assert first != second
    assert "password" not in str(first)
    assert KEY not in str(first)
    assert EndpointScorer("m", concurrency=2, timeout=5).identity() == first


@pytest.mark.parametrize("tokens", [None, {}])
def test_an_endpoint_without_log_probabilities_is_one_error_that_names_the_option(connect, tokens):
    words = r"reports no log-probabilities.*pass probabilities=none"
    content = partial(completion, "Yes", tokens=tokens)
    with serving(content=lambda body: content()) as server, pytest.raises(ConfigValueError, match=words):
        connect(server).load()
    assert len(server.bodies) == 1


def test_an_endpoint_that_refuses_log_probabilities_is_the_same_error(connect):
    error = json.dumps({"error": {"message": "logprobs are not supported"}})
    words = r"logprobs are not supported.*pass probabilities=none"
    refuse = [lambda handler: handler.reply(error, 400)]
    with serving(faults=refuse) as server, pytest.raises(ConfigValueError, match=words):
        connect(server).load()


def test_an_answer_that_is_neither_yes_nor_no_is_an_error_and_not_0(connect):
    with serving(content=lambda body: completion("<think>", tokens={"<think>": -0.1, "Well": -3.0})) as server:
        scorer = connect(server)
        with pytest.raises(NetworkError, match="none of yes, no; its likeliest first tokens are '<think>', 'Well'"):
            scorer.affirm(IMAGES[:1], "blue sky")
        with pytest.raises(NetworkError, match="none of A, B"):
            scorer.choose(IMAGES[:1], SKY)


@pytest.mark.parametrize("text", ["I will not.", '{"answer": "Z"}', '{"answer": 3}', "[]", ""])
def test_an_unusable_text_is_an_error_and_not_cached(connect, text):
    words = "must answer with JSON and one of yes, no"
    with serving(content=lambda body: text) as server, pytest.raises(NetworkError, match=words):
        connect(server, probabilities="none").affirm(IMAGES[:1], "blue sky")
    with serving(content=in_json) as server:
        assert connect(server, probabilities="none").affirm(IMAGES[:1], "blue sky").item() in (0, 1)


def test_only_no_among_the_tokens_counts_as_0(connect):
    with serving(content=lambda body: completion("No", tokens={"No": 0.0})) as server:
        assert connect(server).affirm(IMAGES[:1], "blue sky").item() == 0


def test_transient_failures_are_retried_and_change_nothing(connect, tmp_path, monkeypatch):
    with serving(content=with_probabilities) as server:
        expected = connect(server).choose(IMAGES, SKY)
    monkeypatch.setenv("GENDIV_CACHE", str(tmp_path / "other"))
    with serving(content=with_probabilities, faults=[status(429), hang_up, status(500)]) as server:
        assert torch.equal(connect(server).choose(IMAGES, SKY), expected)


def test_the_key_is_not_shown(connect, capsys):
    error = json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}."}})
    faults = [lambda handler: handler.reply(error, 500), lambda handler: handler.reply(error, 401)]
    with serving(faults=faults) as server, pytest.raises(NetworkError, match=r"provided: \*\*\*") as raised:
        connect(server).load()
    output = capsys.readouterr()
    assert KEY not in f"{raised.value}{output.out}{output.err}"
    assert "Waiting for" in output.err


def test_answers_are_cached_by_model_question_and_pixels(connect, monkeypatch):
    with serving(content=with_probabilities) as server:
        scorer = connect(server)
        first = scorer.affirm(torch.cat([IMAGES, IMAGES[:2]]), "blue sky")
        assert len(server.bodies) == 4  # equal images are one question
        assert torch.equal(scorer.affirm(IMAGES.flip(0), "blue sky"), first[:4].flip(0))
        assert len(server.bodies) == 4
        for change in ({"text": "no hills"}, {"images": 255 - IMAGES[:1]}, {"model": "other"}):
            scorer.model = change.get("model", scorer.model)
            scorer.affirm(change.get("images", IMAGES[:1]), change.get("text", "blue sky"))
        assert len(server.bodies) == 7
    monkeypatch.delenv("OPENAI_BASE_URL")
    assert torch.equal(EndpointScorer("maker/tiny-vlm:2b").affirm(IMAGES, "blue sky"), first[:4])


def test_only_a_few_requests_are_sent_at_a_time(connect):
    with serving(content=with_probabilities, seconds=0.05) as server:
        connect(server, concurrency=2).choose(IMAGES, SKY)
    assert server.most_at_once == 2


def test_it_works_inside_a_running_event_loop_as_in_a_notebook(connect):
    async def cell(scorer):
        return scorer.affirm(IMAGES, "blue sky")

    with serving(content=with_probabilities) as server:
        scorer = connect(server)
        assert torch.equal(asyncio.run(cell(scorer)), scorer.affirm(IMAGES, "blue sky"))


RUN = """
import sys
sys.path.insert(0, sys.argv[1])
import test_endpoint_scorer as t
print(t.EndpointScorer("m", concurrency=1).affirm(t.IMAGES, "blue sky").tolist())
"""


@pytest.mark.slow
def test_a_killed_run_resumes_where_it_was(tmp_path):
    """The first process is killed after two of four answers; the second sends the other two."""
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    with serving(content=with_probabilities, seconds=0.5) as server:
        environment = {**os.environ, "OPENAI_BASE_URL": server.url, "PYTHONPATH": os.pathsep.join(folders)}
        line = [sys.executable, "-c", RUN, folders[0]]
        with subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL) as first:
            while len([*(tmp_path / "cache").rglob("*.json")]) < 2:
                assert first.poll() is None
                time.sleep(0.02)
            first.kill()
        asked = len(server.bodies)
        assert asked in (2, 3)
        second = subprocess.run(line, env=environment, capture_output=True, text=True, check=True)
        assert len(server.bodies) == asked + 2
    assert len(json.loads(second.stdout)) == 4


def test_the_metric_asks_each_image_and_checks_the_endpoint_first(connect):
    with serving(content=with_probabilities) as server:
        connect(server)
        metric = make_metric("vqa_score[endpoint,model=maker/tiny-vlm:2b]")
        assert not server.bodies
        metric.load()
        assert image_of(server.bodies[0])[0].min() == 255
        metric.update(PromptSamples(IMAGES, prompt="blue sky"))
    estimate = metric.compute()["quality/vqa_score[tiny-vlm:2b]"]
    is_blue = postcards.factors_of(INDICES)["sky"] == SKY.values.index("blue")
    assert estimate.value == pytest.approx(torch.where(is_blue, 0.81, 0.08).double().mean().item())
    assert len(server.bodies) == 5


def test_a_missing_address_is_an_error_when_the_metric_is_loaded(monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY")
    metric = make_metric("vqa_score[endpoint,model=m]")
    with pytest.raises(NetworkError, match=r"OPENAI_BASE_URL.*OPENAI_API_KEY.*use the scorer transformers"):
        metric.load()


@pytest.mark.parametrize(
    ("inside", "words"),
    [
        ("", r"requires the option 'model'\. Pass it in brackets"),
        (",model=m,probabilities=some", "probabilities must be one of logprobs, none, got 'some'"),
        (",model=m,concurrency=0", "concurrency must be above 0, got 0"),
        (",model=m,timeout=-1", "timeout must be above 0"),
        (",model=m,speed=3", "has no option 'speed'"),
    ],
)
def test_wrong_options_are_an_error(inside, words):
    with pytest.raises(ValueError, match=words):
        make_metric(f"vqa_score[endpoint{inside}]")


def test_arguments_are_checked_in_python_too():
    with pytest.raises(ConfigValueError, match="model must not be empty"):
        EndpointScorer("")
    with pytest.raises(ConfigValueError, match="probabilities must be one of"):
        EndpointScorer("m", probabilities="some")
