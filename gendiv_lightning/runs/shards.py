"""Shards of a run, `samples/*.parquet`: convert batches of samples to tables and back, one row per sample."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor

from gendiv_lightning.errors import DamagedRunError
from gendiv_lightning.records import (
    LatentSamples,
    NoiseKey,
    Paraphrase,
    Prompt,
    PromptBatch,
    SampleBatch,
    TokenSamples,
    length_class,
)
from gendiv_lightning.runs import schema
from gendiv_lightning.runs.files import read_table

ADVICE = "Delete it and run the same command again: its prompts are sampled again, with the same results"


def read_shard(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Some columns of a shard.

    Raises:
        DamagedRunError: it is damaged, or a column is missing or of another type.
    """
    table = read_table(path, columns, required=schema.SAMPLES, advice=ADVICE)
    for name, kind in zip(table.column_names, table.schema.types, strict=True):
        is_wrong = (name in schema.TEXTS and not pa.types.is_string(kind)) or (
            name in schema.NUMBERS and not pa.types.is_integer(kind)
        )
        if is_wrong or (name in schema.SAMPLES and table[name].null_count):
            raise DamagedRunError(f"{path} is damaged (column {name} is of type {kind}, or has empty cells). {ADVICE}")
    return table


def read_batch(path: Path) -> SampleBatch:
    """A shard as the batch that it was written from, except that paraphrases without samples are empty.

    Raises:
        DamagedRunError: the shard is damaged.
    """
    table = read_shard(path)
    try:
        return _from_table(table)
    except (TypeError, ValueError, KeyError, IndexError, OSError, SyntaxError, RuntimeError) as error:
        # Any cell may be of another type or shape, and an image may be truncated.
        raise DamagedRunError(f"{path} is damaged ({' '.join(str(error).split())}). {ADVICE}") from error


def picture_in(path: Path, cell: Any) -> bytes:
    """The PNG file in a cell of a shard's column of images.

    Raises:
        DamagedRunError: it is not a complete PNG file.
    """
    try:
        png: bytes = cell["bytes"]
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            image.verify()
    except (TypeError, ValueError, KeyError, OSError, SyntaxError) as error:
        raise DamagedRunError(f"{path} is damaged (an image cannot be decoded). {ADVICE}") from error
    return png


def to_table(batch: SampleBatch, codebook_size: int) -> pa.Table:
    """Convert a batch to the table of a shard; tokens get the smallest unsigned type that fits the codebook."""
    from datasets import Features, List, Value
    from datasets import Image as ImageFeature

    prompts, keys, samples = batch.batch.prompts, batch.batch.keys, batch.samples
    with ThreadPoolExecutor() as pool:  # zlib releases the GIL
        images = list(pool.map(_png, batch.images))
    columns: dict[str, tuple[Any, list[Any]]] = {
        schema.IMAGE: (ImageFeature(), [{"bytes": png, "path": None} for png in images]),
        schema.PROMPT: (Value("string"), [prompts[row].text for row in batch.batch.rows]),
        schema.TEXT: (Value("string"), batch.batch.texts),
        schema.PROMPT_ID: (Value("string"), [key.prompt for key in keys]),
        schema.PROMPT_INDEX: (Value("int32"), [batch.batch.indices[row] for row in batch.batch.rows]),
        schema.PARAPHRASE: (Value("int16"), [key.paraphrase for key in keys]),
        schema.PATH: (Value("int32"), [key.path for key in keys]),
        schema.SAMPLE: (Value("int32"), [key.sample for key in keys]),
        schema.SEED: (Value("int64"), [batch.batch.seed] * len(keys)),
        schema.SOURCE: (Value("string"), [prompts[row].source for row in batch.batch.rows]),
    }
    if isinstance(samples, TokenSamples):
        token = "uint8" if codebook_size <= 1 << 8 else "uint16" if codebook_size <= 1 << 16 else "uint32"
        columns[schema.TOKENS] = List(Value(token)), list(samples.tokens.numpy().astype(token))
        columns[schema.ENTROPY_BITS] = List(Value("float32")), list(samples.entropy.float().numpy())
        columns[schema.LOG2_PROB] = List(Value("float32")), list(samples.log_prob.float().numpy())
    else:
        shape = list(samples.latents.shape[1:])
        columns[schema.LATENTS] = List(Value("float16")), list(samples.latents.flatten(1).half().numpy())
        columns[schema.LATENT_SHAPE] = List(Value("int32")), [shape] * len(keys)
    for name, values in batch.per_prompt.items():  # the same in each row of a prompt
        per_row = [values[row].numpy() for row in batch.batch.rows]
        columns[schema.RECORDED_PER_PROMPT + name] = List(Value("float64")), per_row
    for name, values in batch.per_sample.items():
        columns[schema.RECORDED_PER_SAMPLE + name] = List(Value("float32")), list(values.numpy())
    features = Features({name: kind for name, (kind, _) in columns.items()})
    return pa.table({name: values for name, (_, values) in columns.items()}, schema=features.arrow_schema)


def _from_table(table: pa.Table) -> SampleBatch:
    column = {schema.FORMER.get(name, name): table[name].to_pylist() for name in table.column_names}
    row_indices = column[schema.PROMPT_INDEX]
    indices = sorted(set(row_indices))
    prompts = tuple(_to_prompt(column, row_indices.index(index)) for index in indices)
    keys = tuple(NoiseKey(*name) for name in zip(*(column[part] for part in schema.NOISE_KEY), strict=True))
    rows = tuple(indices.index(i) for i in row_indices)
    batch = PromptBatch(column[schema.SEED][0], prompts, tuple(indices), keys, rows)
    images = torch.stack([_unpng(image["bytes"]) for image in column[schema.IMAGE]])
    samples: TokenSamples | LatentSamples
    if schema.TOKENS in column:
        tokens, entropy, log_prob = (column[n] for n in (schema.TOKENS, schema.ENTROPY_BITS, schema.LOG2_PROB))
        samples = TokenSamples(torch.tensor(tokens), torch.tensor(entropy), torch.tensor(log_prob))
    else:
        latents = torch.tensor(np.array(column[schema.LATENTS])).view(len(images), *column[schema.LATENT_SHAPE][0])
        samples = LatentSamples(latents, images)
    first_rows = [rows.index(number) for number in range(len(prompts))]
    per_prompt = {
        name.removeprefix(schema.RECORDED_PER_PROMPT): torch.tensor([v[row] for row in first_rows], dtype=torch.float64)
        for name, v in column.items()
        if name.startswith(schema.RECORDED_PER_PROMPT)
    }
    per_sample = {
        name.removeprefix(schema.RECORDED_PER_SAMPLE): torch.tensor(values)
        for name, values in column.items()
        if name.startswith(schema.RECORDED_PER_SAMPLE)
    }
    return SampleBatch(
        batch,
        samples,
        images,
        {name: values for name, values in per_prompt.items() if values.numel()},  # version 0.1 wrote empty columns
        {name: values for name, values in per_sample.items() if values.numel()},
    )


def _to_prompt(column: dict[str, list[Any]], row: int) -> Prompt:
    prompt = column[schema.PROMPT_ID][row]
    names = zip(column[schema.PROMPT_ID], column[schema.PARAPHRASE], column[schema.TEXT], strict=True)
    by_number = {paraphrase: text for owner, paraphrase, text in names if owner == prompt}
    texts = [by_number.get(number, "") for number in range(1, max(by_number) + 1)]
    paraphrases = tuple(Paraphrase(text, length_class(text)) for text in texts)
    return Prompt(prompt, column[schema.PROMPT][row], paraphrases, column[schema.SOURCE][row])


def _png(image: Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _unpng(png: bytes) -> Tensor:
    with Image.open(io.BytesIO(png)) as image:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)
