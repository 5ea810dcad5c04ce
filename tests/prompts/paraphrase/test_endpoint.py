"""The official client with a real server on the loopback interface, and all kinds of failures between them."""

import asyncio
import json
import time

import pytest
from chat_server import FAULTS, completion, reword, serving, status

from gendiv_lightning.chat import endpoint
from gendiv_lightning.chat.endpoint import Endpoint
from gendiv_lightning.prompts.paraphrase.request import INSTRUCTION, Request, read_answer

KEY = "sk-f00dfacef00dfacef00dface"
REQUEST = Request("blue sky, red house left", "medium", 3, ("there already",), seed=5)


@pytest.fixture
def connect(monkeypatch):
    """An endpoint at a server, with short delays."""

    def connect(server, **settings):
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        return Endpoint("tiny", **{"timeout": 0.5, "num_tries": 4, "first_delay": 0.01, **settings})

    return connect


def ask(endpoint, request=REQUEST):
    async def answer():
        try:
            return await endpoint.answer(request)
        finally:
            await endpoint.close()

    return asyncio.run(answer())


def test_a_request_contains_everything_that_the_model_needs(connect):
    with serving() as server:
        answer = ask(connect(server))
    (body,) = server.bodies
    assert answer == reword(body)
    assert (body["model"], body["seed"]) == ("tiny", 5)
    assert body["messages"][0] == {"role": "system", "content": INSTRUCTION}
    content = {"caption": REQUEST.prompt, "number": 3, "words": "13 to 40", "there already": ["there already"]}
    assert json.loads(body["messages"][1]["content"]) == content
    assert body["response_format"]["json_schema"]["schema"]["required"] == ["paraphrases"]
    assert server.keys == {f"Bearer {KEY}"}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_transient_failure_is_retried_with_the_same_answer(connect, fault):
    with serving(faults=[FAULTS[fault]] * 2) as server:
        answer = ask(connect(server, timeout=0.3))
    assert answer == reword(server.bodies[0])
    assert list(server.asked.values()) == [3]


def test_delays_double_and_the_server_may_ask_for_longer_ones(connect):
    with serving(faults=[status(500)] * 3) as server:
        ask(connect(server, first_delay=0.1))
    first, second, third = (b - a for a, b in zip(server.times, server.times[1:], strict=False))
    assert first >= 0.1
    assert second >= 0.2
    assert third >= 0.4
    with serving(faults=[status(429, Retry_After="1")]) as server:
        ask(connect(server))
    assert server.times[1] - server.times[0] >= 1


def test_an_unreachable_endpoint_is_one_line_without_the_key(connect):
    with serving(faults=[status(500)] * 9) as server, pytest.raises(OSError, match="4 times") as raised:
        ask(connect(server))
    assert "run the same command again" in str(raised.value)
    assert len(server.bodies) == 4


def test_a_refused_connection_is_reported(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://name:password@127.0.0.1:9/v1")
    with pytest.raises(OSError, match="APIConnectionError") as raised:
        ask(Endpoint("tiny", num_tries=2, first_delay=0.01))
    assert "password" not in str(raised.value)


def test_an_outage_is_one_line_that_names_the_endpoint(connect, capsys):
    with serving(faults=[status(500)] * 2) as server:
        ask(connect(server))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"Waiting for {server.url.removesuffix('/v1')}: Error code: 500")
    assert "3 more tries within" in lines[0]


def test_a_pending_answer_is_reported_before_the_timeout(connect, capsys, monkeypatch):
    monkeypatch.setattr(endpoint, "_SILENCE", 0.05)
    with serving(faults=[lambda handler: time.sleep(0.3)]) as server:
        ask(connect(server, timeout=5))
    assert "no answer yet, timeout after 5 s" in capsys.readouterr().err


@pytest.mark.parametrize("number", [400, 401, 404, 422])
def test_a_permanent_failure_is_not_retried(connect, number):
    started = time.monotonic()
    with serving(faults=[status(number)] * 9) as server, pytest.raises(ValueError, match=f"rejected.*fault {number}"):
        ask(connect(server, first_delay=10))
    assert len(server.bodies) == 1
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("number", [401, 500])
def test_a_key_that_the_server_repeats_is_not_shown(connect, number):
    error = json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}."}})
    faults = [lambda handler: handler.reply(error, number)] * 4
    with serving(faults=faults) as server, pytest.raises((ValueError, OSError)) as raised:
        ask(connect(server))
    assert KEY not in str(raised.value)
    assert "provided: ***." in str(raised.value)
    assert raised.value.__suppress_context__


def test_refusals_and_truncated_answers_are_returned_unchanged(connect):
    refusal = {"role": "assistant", "content": None, "refusal": "I will not."}
    whole = json.loads(completion(""))
    whole["choices"][0]["message"] = refusal
    replies = [json.dumps(whole), completion('{"paraphrases": ["red', finish="length")]
    with serving(faults=[lambda h, r=r: h.reply(r) for r in replies]) as server:
        found = [ask(connect(server)), ask(connect(server))]
    assert found == ["I will not.", '{"paraphrases": ["red']
    for answer in found:
        with pytest.raises(ValueError, match=r"JSON|Expecting|Unterminated"):
            read_answer(answer)


def test_a_missing_address_and_key_is_an_error_that_explains_what_to_set(monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ValueError, match=r"OPENAI_BASE_URL.*OPENAI_API_KEY.*postcards"):
        Endpoint("gpt")


def test_a_local_server_needs_no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with serving() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        assert ask(Endpoint("tiny")) == reword(server.bodies[0])


def test_a_missing_client_is_an_error(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "openai", None)
    with pytest.raises(ValueError, match=r'pip install "gendiv_lightning\[paraphrase\]"'):
        Endpoint("gpt")


# --- parsing answers ---


@pytest.mark.parametrize(
    "answer",
    [
        '{"paraphrases": ["red  sky", " a sky "]}',
        '["red sky", "a sky"]',
        '```json\n{"paraphrases": ["red sky", "a sky"]}\n```',
        '<think>[a, b]</think>\n\n["red sky", "a\\nsky"]',
    ],
)
def test_an_answer_is_a_list_of_texts_however_it_is_wrapped(answer):
    assert read_answer(answer) == ["red sky", "a sky"]


@pytest.mark.parametrize(
    "answer",
    ["", "no", "{}", '{"paraphrases": "red"}', '["a", 3]', '["a", ""]', "3", "[" * 100_000, '["\\ud800"]', '["a"] ok'],
    ids=lambda answer: answer[:12],
)
def test_anything_else_is_an_error(answer):
    with pytest.raises(ValueError):  # noqa: PT011  json's own errors are among them
        read_answer(answer)
