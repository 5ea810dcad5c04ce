"""Column names of the tables in a run folder, once, and the types that the readers rely on."""

from __future__ import annotations

PROMPT_ID, PROMPT = "prompt_id", "prompt"  # in every table

# samples/*.parquet, a row a sample
IMAGE, TEXT, PROMPT_INDEX, SEED, SOURCE = "image", "text", "prompt_index", "seed", "source"
PARAPHRASE, PATH, SAMPLE = "paraphrase", "path", "sample"
TOKENS, ENTROPY_BITS, LOG2_PROB = "tokens", "entropy_bits", "log2_prob"  # of generators that draw tokens
# of generators that draw continuous latents: float16, flat, and their shape
LATENTS, LATENT_SHAPE = "latents", "latent_shape"
# What recorders kept: a column per recorder, with its name after the prefix. Version 0.1 had two, without prefixes.
RECORDED_PER_PROMPT, RECORDED_PER_SAMPLE = "per_prompt.", "per_sample."
FORMER = {
    "marginal_bits": f"{RECORDED_PER_PROMPT}marginal_bits",
    "wording_log2_prob": f"{RECORDED_PER_SAMPLE}paraphrase_log2_prob",
}

NOISE_KEY = (PROMPT_ID, PARAPHRASE, PATH, SAMPLE)  # the name of a sample, in the order of `NoiseKey`
SAMPLES = (  # the columns that every run has, in the order in which they are stored
    *(IMAGE, PROMPT, TEXT, PROMPT_ID, PROMPT_INDEX, PARAPHRASE, PATH, SAMPLE, SEED, SOURCE),
)

TEXTS = (PROMPT, TEXT, PROMPT_ID, SOURCE)
NUMBERS = (PROMPT_INDEX, PARAPHRASE, PATH, SAMPLE, SEED)

# per_prompt.parquet, a row a prompt: these two, then a column a number
PER_PROMPT = (PROMPT_ID, PROMPT)

# a number of metrics.json that tables look for: the probability that one more sample shows a new token
UNSEEN = "h_total/token/counts/unseen"
