"""The transformer with its collapsed condition, against full attention over all condition positions.

R rows, T condition positions, n of them valid (left-padded), N image tokens, H heads, d head size.
"""

import itertools
import math

import pytest
import torch
from torch.nn import functional as F

from gendiv_lightning.generators.llamagen.transformer import GPT, Cache, GPTConfig, join_prefills, rotary_table

T, N = 7, 9
SIZES = {"dim": 48, "n_layer": 3, "n_head": 4, "multiple_of": 16, "vocab_size": 50, "block_size": N}
CAPTION = {"cls_token_num": T, "caption_dim": 24, "model_type": "t2i"}
CONFIGS = {
    "captions": GPTConfig(**SIZES, **CAPTION),
    "grouped queries": GPTConfig(**SIZES, **CAPTION, n_kv_head=2),
    "one key head": GPTConfig(**SIZES, **CAPTION, n_kv_head=1),
    "labels": GPTConfig(**SIZES, num_classes=10),
}
LENGTHS = torch.tensor([T, 1, 3, T - 1, 2])


def make_gpt(config, seed=0):
    gpt, generator = GPT(config).eval().requires_grad_(False), torch.Generator().manual_seed(seed)
    for name, tensor in gpt.state_dict().items():
        if "norm" in name:
            tensor.uniform_(0.5, 1.5, generator=generator)
        else:
            tensor.normal_(std=1.5 / tensor.shape[-1] ** 0.5, generator=generator)
    return gpt


def make_input(gpt, lengths=LENGTHS, seed=1):
    """Left-padded condition positions (R, T, dim), their mask, and image tokens (R, N)."""
    generator, config = torch.Generator().manual_seed(seed), gpt.config
    tokens = torch.randint(config.vocab_size, (len(lengths), config.block_size), generator=generator)
    if config.model_type == "c2i":
        labels = torch.arange(len(lengths))
        return gpt.cls_embedding(labels), torch.ones(len(lengths), 1, dtype=torch.bool), tokens
    mask = torch.arange(T) >= T - lengths[:, None]
    features = torch.randn(len(lengths), T, config.caption_dim, generator=generator) * mask[..., None]
    return gpt.cls_embedding(features), mask, tokens


def plain_rotary(config, num_condition):
    """Complex factors (positions, d / 2): zero, not one, on condition positions."""
    side, quarter = math.isqrt(config.block_size), config.head_dim // 4
    rows = []
    for row, column in itertools.product(range(side), range(side)):
        angles = [row / config.rope_base ** (j / quarter) for j in range(quarter)]
        angles += [column / config.rope_base ** (j / quarter) for j in range(quarter)]
        rows.append([complex(math.cos(a), math.sin(a)) for a in angles])
    return torch.cat([torch.zeros(num_condition, 2 * quarter), torch.tensor(rows)])


def plain_norm(x, weight, eps):
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


def plain_turn(x, factors):
    pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2).contiguous())
    return torch.view_as_real(pairs * factors[:, None]).flatten(-2)


def plain_attention(x, state, prefix, config, factors, mask):
    """Attention of every head over all T + N positions, with an explicit softmax."""
    d, heads, kv_heads = config.head_dim, config.n_head, config.n_kv_head or config.n_head
    q, k, v = (x @ state[f"{prefix}.wqkv.weight"].T).split([heads * d, kv_heads * d, kv_heads * d], dim=-1)
    q, k, v = (part.unflatten(-1, (-1, d)) for part in (q, k, v))
    q, k = plain_turn(q, factors), plain_turn(k, factors)
    outputs = []
    for head in range(heads):
        ours = head * kv_heads // heads
        scores = (q[:, :, head] @ k[:, :, ours].transpose(1, 2) / d**0.5).masked_fill(~mask, -math.inf)
        outputs.append(scores.softmax(-1) @ v[:, :, ours])
    return torch.cat(outputs, -1) @ state[f"{prefix}.wo.weight"].T


def plain_forward(gpt, positions, condition_mask, tokens):
    """Logits (R, N, K) of the whole model, implemented from the paper and the state dict only."""
    config, state, num_condition = gpt.config, gpt.state_dict(), positions.shape[1]
    x = torch.cat([positions, state["tok_embeddings.weight"][tokens[:, :-1]]], 1)
    length = x.shape[1]
    mask = torch.ones(length, length, dtype=torch.bool).tril().expand(len(x), -1, -1).clone()
    mask[:, :, :num_condition] &= condition_mask[:, None]
    mask |= torch.eye(length, dtype=torch.bool)  # a pad position attends to itself
    factors = plain_rotary(config, num_condition)[:length]
    for layer in range(config.n_layer):
        p = f"layers.{layer}"
        h = plain_norm(x, state[f"{p}.attention_norm.weight"], config.norm_eps)
        x = x + plain_attention(h, state, f"{p}.attention", config, factors, mask)
        h = plain_norm(x, state[f"{p}.ffn_norm.weight"], config.norm_eps)
        gate, up = (h @ state[f"{p}.feed_forward.{w}.weight"].T for w in ("w1", "w3"))
        x = x + (F.silu(gate) * up) @ state[f"{p}.feed_forward.w2.weight"].T
    x = plain_norm(x, state["norm.weight"], config.norm_eps)
    return (x @ state["output.weight"].T)[:, num_condition - 1 :]


def decode_all(gpt, prefill, tokens, decode=None, num_slots=N):
    """Logits (R, N, K) with the static cache, one image token at a time."""
    cache, logits = Cache(prefill, num_slots), [prefill.logits]
    for i in range(N - 1):
        logits.append((decode or gpt.decode)(tokens[:, i : i + 1], torch.tensor([i]), i + 2, cache)[:, 0])
    return torch.stack(logits, 1)


every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


@every_config
def test_the_collapsed_condition_equals_attention_over_all_condition_positions(config):
    gpt = make_gpt(config)
    inputs = make_input(gpt)
    expected = plain_forward(gpt, *inputs)
    assert expected.std() > 0.5
    torch.testing.assert_close(gpt(*inputs), expected, atol=1e-5, rtol=1e-5)


@every_config
def test_the_plain_model_is_sensitive_to_the_condition(config):
    """The agreement tested above is not trivial: another condition or length changes the logits."""
    gpt = make_gpt(config)
    positions, mask, tokens = make_input(gpt)
    base = plain_forward(gpt, positions, mask, tokens)
    assert (plain_forward(gpt, 1.1 * positions.flip(0), mask, tokens) - base).abs().max() > 0.1
    if config.model_type == "t2i":
        assert (plain_forward(gpt, positions, mask.flip(0), tokens)[0] - base[0]).abs().max() > 0.1


@every_config
def test_decoding_token_by_token_equals_the_forward_pass(config):
    gpt = make_gpt(config)
    positions, mask, tokens = make_input(gpt)
    prefill, _ = gpt.condition(positions, mask)
    torch.testing.assert_close(decode_all(gpt, prefill, tokens), gpt(positions, mask, tokens), atol=1e-5, rtol=1e-5)


@every_config
def test_a_row_does_not_depend_on_the_other_rows(config):
    gpt = make_gpt(config)
    positions, mask, tokens = make_input(gpt)
    whole = gpt(positions, mask, tokens)
    for row in range(len(tokens)):
        one = slice(row, row + 1)
        torch.testing.assert_close(gpt(positions[one], mask[one], tokens[one]), whole[one], atol=1e-5, rtol=1e-5)


def test_the_content_of_pad_positions_does_not_matter():
    gpt = make_gpt(CONFIGS["captions"])
    positions, mask, tokens = make_input(gpt)
    junk = torch.where(mask[..., None], positions, torch.full_like(positions, 3.0))
    torch.testing.assert_close(gpt(junk, mask, tokens), gpt(positions, mask, tokens), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("length", [1, 2, T])
def test_pad_positions_may_be_omitted(length):
    gpt = make_gpt(CONFIGS["captions"])
    positions, mask, tokens = make_input(gpt, torch.tensor([length]))
    short = gpt(positions[:, T - length :], mask[:, T - length :], tokens)
    torch.testing.assert_close(short, gpt(positions, mask, tokens), atol=1e-5, rtol=1e-5)


def test_a_condition_of_one_position_is_a_key_of_score_zero():
    gpt = make_gpt(CONFIGS["captions"])
    positions, mask, tokens = make_input(gpt, torch.tensor([1]))
    prefill, _ = gpt.condition(positions, mask)
    assert prefill.log_count.item() == 0
    torch.testing.assert_close(
        gpt(positions, mask, tokens), plain_forward(gpt, positions, mask, tokens), atol=1e-5, rtol=1e-5
    )


def test_the_order_of_condition_positions_matters_for_their_own_states_only_through_running_means():
    gpt = make_gpt(CONFIGS["captions"])
    positions, mask, _ = make_input(gpt, torch.tensor([3]))
    order = torch.tensor([*range(T - 3), T - 2, T - 3, T - 1])
    same, _ = gpt.condition(positions, mask)
    other, _ = gpt.condition(positions[:, order], mask)
    torch.testing.assert_close(other.values[:, 0], same.values[:, 0], atol=1e-6, rtol=0)  # a mean has no order
    assert not torch.allclose(other.values[:, 1], same.values[:, 1], atol=1e-3)


@every_config
def test_a_subset_of_rows_can_be_continued(config):
    gpt = make_gpt(config)
    positions, mask, tokens = make_input(gpt)
    prefill, _ = gpt.condition(positions, mask)
    whole = decode_all(gpt, prefill, tokens)
    cache = Cache(prefill, N)
    for i in range(N - 1):
        rows = slice(None) if i < 4 else slice(2)
        logits = gpt.decode(tokens[rows, i : i + 1], torch.tensor([i]), i + 2, cache)[:, 0]
        torch.testing.assert_close(logits, whole[rows, i + 1], atol=1e-5, rtol=1e-5)


def test_attending_empty_slots_changes_nothing():
    gpt = make_gpt(CONFIGS["captions"])
    positions, mask, tokens = make_input(gpt)
    prefill, _ = gpt.condition(positions, mask)
    cache, exact = Cache(prefill, N), decode_all(gpt, prefill, tokens)
    for i in range(N - 1):
        logits = gpt.decode(tokens[:, i : i + 1], torch.tensor([i]), N, cache)[:, 0]
        torch.testing.assert_close(logits, exact[:, i + 1], atol=1e-5, rtol=1e-5)


def test_prefills_can_be_repeated_and_joined():
    gpt = make_gpt(CONFIGS["captions"])
    positions, mask, tokens = make_input(gpt)
    prefill, _ = gpt.condition(positions, mask)
    rows = torch.tensor([2, 0, 0, 4])
    joined = join_prefills([prefill.take(rows[:1]), prefill.take(rows[1:])])
    expected = gpt(positions[rows], mask[rows], tokens[:4])
    torch.testing.assert_close(decode_all(gpt, joined, tokens[:4]), expected, atol=1e-5, rtol=1e-5)


def test_labels_have_null_rows():
    gpt = make_gpt(CONFIGS["labels"])
    labels = torch.tensor([3, 0, 3])
    prefill = gpt.prefill_labels(labels)
    assert prefill.logits.shape == (6, 50)
    assert torch.equal(prefill.logits[0], prefill.logits[2])
    null, _ = gpt.condition(gpt.cls_embedding(torch.tensor([10])), torch.ones(1, 1, dtype=torch.bool))
    torch.testing.assert_close(prefill.logits[3:], null.logits.expand(3, -1), atol=1e-5, rtol=1e-5)


def test_the_null_condition_is_the_end_of_the_fixed_rows_as_long_as_the_caption():
    gpt = make_gpt(CONFIGS["captions"])
    features, mask = gpt.null_features(torch.tensor([1, 4]))
    assert mask.tolist() == [[False] * 6 + [True], [False] * 3 + [True] * 4]
    assert torch.equal(features, gpt.cls_embedding.uncond_embedding.expand(2, -1, -1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_float32_logits_close_to_the_exact_ones(dtype):
    gpt = make_gpt(CONFIGS["grouped queries"])
    positions, mask, tokens = make_input(gpt)
    exact = gpt(positions, mask, tokens)
    table = gpt.rotary
    half = make_gpt(CONFIGS["grouped queries"]).to(dtype)
    half.rotary = table
    prefill, _ = half.condition(positions.to(dtype), mask)
    decoded = decode_all(half, prefill, tokens)
    forward = half(positions.to(dtype), mask, tokens)
    assert decoded.dtype == forward.dtype == torch.float32
    for logits in (decoded, forward):
        assert (logits - exact).abs().max() < (0.5 if dtype == torch.bfloat16 else 0.06)  # of a spread of about 2
        assert (logits - exact).abs().mean() < (0.06 if dtype == torch.bfloat16 else 0.008)


def test_the_rotary_table_agrees_with_the_grid():
    config = CONFIGS["captions"]
    table = torch.view_as_complex(rotary_table(3, config.head_dim))
    torch.testing.assert_close(table, plain_rotary(config, 0).to(torch.complex64), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("change", "message"), [({"block_size": 10}, "square grid, got 10"), ({"n_head": 5}, "multiple of 4")]
)
def test_invalid_sizes_are_an_error(change, message):
    with pytest.raises(ValueError, match=message):
        GPTConfig(**{**SIZES, **change})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Torchinductor does not support code generation for complex operators")
def test_compiled_decoding_gives_the_same_logits():
    gpt = make_gpt(CONFIGS["grouped queries"])
    positions, mask, tokens = make_input(gpt)
    prefill, _ = gpt.condition(positions, mask)
    compiled = torch.compile(gpt.decode, dynamic=False)

    def decode(tokens, position, length, cache):
        return compiled(tokens, position, N, cache)

    torch.testing.assert_close(
        decode_all(gpt, prefill, tokens, decode), decode_all(gpt, prefill, tokens), atol=1e-5, rtol=1e-5
    )
