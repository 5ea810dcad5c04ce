"""Column names of the tables in a run folder, once, and the types that the readers rely on."""

from __future__ import annotations

PROMPT_ID, PROMPT = "prompt_id", "prompt"  # in every table

# samples/*.parquet, a row a sample
IMAGE, TEXT, PROMPT_INDEX, SEED, SOURCE = "image", "text", "prompt_index", "seed", "source"
PARAPHRASE, PATH, SAMPLE = "paraphrase", "path", "sample"
TOKENS, ENTROPY_BITS, LOG2_PROB = "tokens", "entropy_bits", "log2_prob"
MARGINAL_BITS, WORDING_LOG2_PROB = "marginal_bits", "wording_log2_prob"

NOISE_KEY = (PROMPT_ID, PARAPHRASE, PATH, SAMPLE)  # the name of a sample, in the order of `NoiseKey`
SAMPLES = (  # all columns, in the order in which they are stored
    *(IMAGE, PROMPT, TEXT, PROMPT_ID, PROMPT_INDEX, PARAPHRASE, PATH, SAMPLE, SEED, SOURCE),
    *(TOKENS, ENTROPY_BITS, LOG2_PROB, MARGINAL_BITS, WORDING_LOG2_PROB),
)

# per_prompt.parquet, a row a prompt: these two, then a column a number
PER_PROMPT = (PROMPT_ID, PROMPT)
