"""Names and types of the columns of the tables in a run folder."""

from __future__ import annotations

PROMPT_ID, PROMPT = "prompt_id", "prompt"  # in every table

# samples/*.parquet, one row per sample
IMAGE, TEXT, PROMPT_INDEX, SEED, SOURCE = "image", "text", "prompt_index", "seed", "source"
PARAPHRASE, PATH, SAMPLE = "paraphrase", "path", "sample"
TOKENS, ENTROPY_BITS, LOG2_PROB = "tokens", "entropy_bits", "log2_prob"  # only generators with tokens
# only generators with continuous latents: float16, flattened, and their shape
LATENTS, LATENT_SHAPE = "latents", "latent_shape"
# Results of recorders: one column per recorder, named after the prefix. Version 0.1 had two, without prefixes.
RECORDED_PER_PROMPT, RECORDED_PER_SAMPLE = "per_prompt.", "per_sample."
FORMER = {
    "marginal_bits": f"{RECORDED_PER_PROMPT}marginal_bits",
    "wording_log2_prob": f"{RECORDED_PER_SAMPLE}paraphrase_log2_prob",
}

NOISE_KEY = (PROMPT_ID, PARAPHRASE, PATH, SAMPLE)  # the key of a sample, in the order of `NoiseKey`
SAMPLES = (  # columns of every run, in stored order
    *(IMAGE, PROMPT, TEXT, PROMPT_ID, PROMPT_INDEX, PARAPHRASE, PATH, SAMPLE, SEED, SOURCE),
)

TEXTS = (PROMPT, TEXT, PROMPT_ID, SOURCE)
NUMBERS = (PROMPT_INDEX, PARAPHRASE, PATH, SAMPLE, SEED)

# per_prompt.parquet, one row per prompt: these two, then one column per number
PER_PROMPT = (PROMPT_ID, PROMPT)

# a number in metrics.json that tables read: the probability that one more sample contains a new token
UNSEEN = "h_total/token/counts/unseen"
