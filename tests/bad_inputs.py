"""Bad input, case by case: wrong values of configs and options, damaged files, options that do not apply.

A case is a command line with `{places}` for files, and a word that its error must contain: the key or the file's name.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import re
import shutil
import signal
import struct
import time
import traceback
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from gendiv_lightning import plugins
from gendiv_lightning.cli.main import main
from gendiv_lightning.errors import LINK
from gendiv_lightning.generators.base import Generator
from gendiv_lightning.storage.codebook_counts import write_usage
from gendiv_lightning.study import launch

SECONDS = 60


class Case(NamedTuple):
    """One bad input.

    Attributes:
        name: what is wrong.
        words: of the command line.
        key: what the error must name; several with bars between them: one of them.
        in_weights: the fault is in the contents of weights, so that they may be read before it is found.
    """

    name: str
    words: tuple[str, ...]
    key: str
    in_weights: bool = False


# --- values of configs ---

COUNT = ("null", ".nan", "-1", "0", "1.5", "x", "''", "[1]", "{}", "true")
OPTIONAL_COUNT = COUNT[1:]
NATURAL = ("null", ".nan", "-2", "1.5", "x", "''", "[1]", "{}")  # 0, and sometimes -1, has a meaning
POSITIVE = ("null", ".nan", ".inf", "-1", "x", "''", "[1]", "{}", "false")
SHARE = (*POSITIVE, "1.5")
NAME = ("null", "''", "/nowhere/x", "[a]", "{folder}/nothing")
CHOICE = ("null", "''", "x", "3", "[float32]", "{}")
SWITCH = ("null", "''", "x", "3", "[true]")
SEED = ("null", ".nan", "1.5", "x", "''", "[1]", "9223372036854775808", "-9223372036854775809", "1" + "0" * 30)
HUGE = ("1" + "0" * 30,)

LLAMAGEN = {
    "gpt_checkpoint": (*NAME, "{folder}"),
    "vq_checkpoint": (*NAME, "{folder}"),
    "text_encoder": NAME,
    "gpt": ("null", "''", "GPT-Q", "{folder}", "[GPT-B]", "{bad}/list.json", "{bad}/cut.json"),
    "vq": ("null", "''", "VQ-99", "{folder}", "[VQ-16]", "{bad}/list.json", "{bad}/cut.json"),
    "model_type": CHOICE,
    "image_size": (*COUNT, "50", *HUGE),
    "dtype": CHOICE,
    "guidance_scale": POSITIVE[:3] + POSITIVE[4:],
    "cfg_interval": NATURAL,
    "temperature": POSITIVE,
    "top_k": (*NATURAL, "257", *HUGE),
    "top_p": SHARE,
    "decoding": CHOICE,
    "window": COUNT,
    "compile": SWITCH,
    "batch_size": (*COUNT, *HUGE),
}
FOLDERS = {
    "checkpoint": (*NAME, "{folder}", "{bad}/list.json"),
    "dtype": CHOICE,
    "num_steps": (*COUNT, *HUGE),
    "guidance_scale": POSITIVE[:3],
    "batch_size": COUNT,
}
FAMILIES = {
    "amused": {
        **FOLDERS,
        "size": ("x", "''", "3"),
        "mask_schedule": CHOICE,
        "mask_temperature": ("null", "1", "[1]", "[1, 2, 3]", "[.nan, 0]", "[-1, 0]", "x"),
        "temperature": POSITIVE,
        "top_k": (*NATURAL, "257"),
        "top_p": SHARE,
        "aesthetic_score": (".nan", "null", "x", ".inf"),
        "crop": ("null", "1", "[1]", "[-1, 0]", "x"),
    },
    "vq_diffusion": {
        **FOLDERS,
        "size": ("x", "''", "3"),
        "spacing": CHOICE,
        "truncation_rate": SHARE,
        "temperature": POSITIVE,
        "top_k": (*NATURAL, "257"),
    },
    "latent_diffusion": {
        **FOLDERS,
        "num_steps": (*OPTIONAL_COUNT, *HUGE),
        "guidance_scale": POSITIVE[1:3],
        "scheduler": ("''", "NoSuchScheduler", "[x]", "os.system", "3"),
        "scheduler_args": ("3", "x", "[1]", "{no_such: 1}"),
        "image_size": (*OPTIONAL_COUNT, "47"),
        "call_args": ("3", "x", "[1]", "{no_such: 1}", "{num_inference_steps: 3}"),
    },
}
DATA = {
    "path": ("''", "/nowhere/p.jsonl", "{folder}", "[a]", "toy:nothing.jsonl", "nothing:postcards.jsonl"),
    "dataset": ("''", "x/y", "{folder}"),
    "column": ("''", "nothing", "[a]"),
    "config": ("''", "x"),
    "split": ("''", "train"),
    "revision": ("''", "x"),
    "limit": OPTIONAL_COUNT,
    "num_samples": (*COUNT, *HUGE),
    "seed": SEED,
    "prompts_per_batch": COUNT,
    "max_words": OPTIONAL_COUNT,
    "cache_dir": ("''", "[a]", "{bad}/list.json"),
    "nonsense": ("3",),
}
IMAGES = {
    "source": NAME,
    "image_size": (*COUNT, "64", *HUGE),
    "batch_size": COUNT,
    "limit": OPTIONAL_COUNT,
    "num_workers": ("null", ".nan", "-1", "1.5", "x"),
    "column": ("''", "x"),
    "split": ("''", "x"),
    "revision": ("''", "x"),
    "max_corrupt": (*SHARE,),
    "allow_outside": SWITCH,
    "memory_limit": (*POSITIVE, "0"),
}
PROBES = {
    "Temperature": {"temperature": POSITIVE},
    "TopK": {"top_k": (*COUNT, "257", *HUGE)},
    "TopP": {"top_p": SHARE},
    "Guidance": {"guidance_scale": POSITIVE[:3]},
    "Branch": {"step": ("null", ".nan", "-1", "1.5", "x", "''")},
    "Paraphrase": {"num_paraphrases": (*COUNT, *HUGE), "length": CHOICE},
    "Decompose": {"num_paths": (*COUNT, "3", *HUGE), "num_paraphrases": (*NATURAL, "3"), "length": CHOICE},
    "CodebookSubset": {
        "select": CHOICE,
        "size": (*OPTIONAL_COUNT, "257"),
        "ratio": (*SHARE[1:], "0"),
        "tokens": ("3", "x", "[]", "[0, 0]", "[256]", "[-1]", "[.nan]"),
        "usage": (
            "''",
            "/nowhere/x",
            "{folder}",
            "{bad}/list.json",
            "{bad}/counts.safetensors",
            "{bad}/short.safetensors",
        ),
        "seed": SEED[:5],
    },
}
PROBE_BASICS = {
    "CodebookSubset.size": ("select=random",),
    "CodebookSubset.ratio": ("select=random",),
    "CodebookSubset.tokens": ("select=list",),
    "CodebookSubset.usage": ("ratio=0.5",),
    "CodebookSubset.seed": ("select=random", "ratio=0.5"),
    "CodebookSubset.select": ("ratio=0.5",),
}
TRAINER = {
    "devices": ("x", "-3", "1.5", "[99]"),
    "accelerator": ("x", "3", "tpu"),
    "strategy": ("x", "3"),
    "precision": ("16-mixed", "x", "3"),
    "limit_predict_batches": ("x", "-1", ".nan"),
    "callbacks": ("x", "3", "[x]", "os.system"),
    "logger": ("x", "os.system"),
    "num_nodes": ("0", "x", "-1"),
    "no_such": ("1",),
}
METRICS = (
    *(
        "x",
        "ssim[vgg]",
        "lpips[nothing]",
        "lpips[alex",
        "lpips]alex[",
        "fid",
        "kid",
        "kd[dinov2]",
        "codebook",
        "vendi[q=x]",
    ),
    *("vendi[q=-1]", "vendi[q=.nan]", "vendi[inception,q=1,q=2]", "vendi[q=2,inception]", "ssim[no_such=1]", "lpips[]"),
    *(
        "clip_iqa[pairs={}]",
        "clip_iqa[prompts=[]]",
        "clip_iqa[pairs={a: [b]}]",
        "clip_iqa[pairs=3]",
        "clip_iqa[prompts=[nonsense]]",
    ),
    *(
        "clip_score[long_captions=x]",
        "clip_score[/nowhere/clip]",
        "lpips[tiny,weights=/nowhere/x]",
        "precision_recall[k=0]",
    ),
    *(
        "precision_recall[k=x]",
        "pixel_cosine,pixel_cosine",
        "lpips[tiny],lpips[tiny]",
        "ssim,,ssim",
        ",",
        "fid[resize=x]",
        "",
    ),
)


def values() -> Iterator[Case]:
    """Wrong values of every key of a config."""
    for key, wrong in LLAMAGEN.items():
        yield from _set(PREDICT, f"model.{key}", wrong)
    for family, keys in FAMILIES.items():
        for key, wrong in keys.items():
            yield from _set(_predict(family), f"model.{key}", wrong, family)
    for key, wrong in DATA.items():
        base = PREDICT
        if key in ("dataset", "cache_dir"):
            base = (*_without(PREDICT, "--data.path"), "--data.path", "null", "--data.dataset", "{captions}")
        yield from _set(base, f"data.{key}", wrong)
    for key, wrong in IMAGES.items():
        yield from _set(VALIDATE, f"data.{key}", wrong, "validate")
    for probe, keys in PROBES.items():
        for key, wrong in keys.items():
            given = PROBE_BASICS.get(f"{probe}.{key}", ())
            base = (*PREDICT, f"--probes+={probe}", *(f"--probes.{pair}" for pair in given))
            yield from _set(base, f"probes.{key}", wrong, probe)
    for key, wrong in TRAINER.items():
        yield from _set(PREDICT, f"trainer.{key}", wrong)
    for name in METRICS:
        listed = json.dumps(
            [] if name == "" else name.split(",") if name.replace(",", "").isalpha() or ",l" in name else [name]
        )
        if name not in (",", "ssim,,ssim", ""):
            yield Case(
                f"measure.metrics={name}",
                (*PREDICT, f"--measure.metrics={listed}", "--measure.reference=null"),
                "metric",
            )
        yield Case(f"measure --metrics {name}", ("measure", "{images}", "--metrics", name), "metric")
    for reference in (
        "/nowhere/x.safetensors",
        "{folder}",
        "''",
        "{bad}/list.json",
        "{bad}/counts.safetensors",
        "3",
        "[a]",
    ):
        yield from _set(PREDICT, "measure.reference", (reference,))
    for key, wrong in {
        "overwrite": SWITCH,
        "wandb": CHOICE,
        "wandb_project": ("null", "''"),
        "run_dir": ("''", "{bad}/list.json", "{bad}/list.json/x"),
    }.items():
        yield from _set(PREDICT[:-2] if key == "wandb" else PREDICT, key, wrong)


def _set(base: tuple[str, ...], key: str, wrong: tuple[str, ...], where: str = "") -> Iterator[Case]:
    last = key.rpartition(".")[2]
    for value in wrong:
        value = "" if value == "''" else value
        words = (*_without(base, f"--{key}"), f"--{key}={value}")
        yield Case(f"{where} {key}={value}".strip(), words, last)


def _predict(family: str) -> tuple[str, ...]:
    given = (
        "--data.path",
        "toy:postcards.jsonl",
        "--data.limit",
        "2",
        "--data.num_samples",
        "2",
        "--run_dir",
        "{out}/run",
    )
    return ("predict", "--config", f"configs/tiny/{family}.yaml", *given, "--wandb", "disabled")


PREDICT = _predict("llamagen")
VALIDATE = (
    *("validate", "--config", "configs/tiny/llamagen_codebook.yaml", "--run_dir", "{out}/run", "--wandb", "disabled"),
    *("--data", "gendiv_lightning.datamodules.ImageData", "--data.source", "{images}", "--data.image_size", "48"),
)

# --- options of commands ---

OPTIONS: dict[tuple[str, ...], dict[str, tuple[str, ...]]] = {
    ("measure", "{images}", "--metrics", "pixel_cosine"): {
        "": (
            "/nowhere/x",
            "{bad}/list.json",
            "{folder}",
            "{bad}/empty.parquet",
            "{bad}/cut.tar",
            "{bad}/notes.txt",
            "",
        ),
        "--column": ("", "x"),
        "--image-column": ("", "x"),
        "--split": ("", "x"),
        "--max-corrupt": ("nan", "-1", "2", "x", "", "inf"),
        "--memory-limit": ("nan", "-1", "0", "x", "", "-inf"),
        "--resize": ("0", "-1", "1.5", "x", "", "nan"),
        "--device": ("x", "", "cuda", "cuda:99", "mps"),
        "--out": ("", "{bad}/list.json", "{bad}/list.json/x"),
        "--reference": ("", "/nowhere/x", "{folder}", "{bad}/list.json"),
        "--pairs": (None,),
        "--no-such": (None, "1"),
    },
    ("reference", "{images}", "--out", "{out}/r.safetensors", "--backbone", "pixels"): {
        "": (
            "/nowhere/x",
            "{bad}/list.json",
            "{folder}",
            "{bad}/empty.parquet",
            "",
        ),
        "--out": ("", "{folder}", "{bad}/list.json/x"),
        "--backbone": ("", "x y", "inception,resize=x", "inception,no=1", "tiny,weights=/nowhere/x"),
        "--num": ("0", "1", "-1", "x", "", "1.5"),
        "--part": ("", "x", "0/2", "3/2", "1/0", "-1/2", "1"),
        "--image-column": ("", "x"),
        "--split": ("", "x"),
        "--config": ("", "x"),
        "--revision": ("", "x"),
        "--max-corrupt": ("nan", "-1", "2", "x"),
        "--memory-limit": ("nan", "0", "-1"),
        "--device": ("x", "", "cuda", "mps"),
    },
    ("reference", "{images}", "--out", "{out}/r.safetensors"): {
        "": ("{bad}/x.safetensors", "{bad}/counts.safetensors"),
    },
    ("compare", "{run}", "{argmax}"): {
        "": ("/nowhere/x", "{folder}", "{bad}/list.json", "{images}", "", ","),
        "--only": ("nothing", ""),
        "--margin": ("", "x", "0", "-1", "nan", "inf", "%", "nan%", "-5%"),
    },
    ("decompose", "{run}"): {
        "": ("/nowhere/x", "{folder}", "{bad}/list.json", "{images}", ""),
        "--argmax": ("", "/nowhere/x", "{folder}"),
        "--subset": ("", "/nowhere/x", "{subset}"),
        "--plot": ("", "x.png", "{out}/x", "{folder}", "{svg}", "{bad}/list.json/x.svg"),
        "--distance": ("", "x", "vendi"),
    },
    ("drift", "{run}", "{argmax}"): {
        "": ("/nowhere/x", "{folder}", "{bad}/list.json", "{images}", ""),
        "--control": ("", "/nowhere/x", "{folder}", "{argmax}"),
        "--scorer": ("", "/nowhere/x", "{folder}", "tiny-clip/x"),
        "--list": ("", "/nowhere/x", "{bad}/list.json", "{folder}"),
        "--attribute": ("", "x", "Sky"),
        "--json": ("", "x.txt", "{folder}", "{bad}/list.json/x.json"),
        "--device": ("x", "", "cuda", "mps"),
    },
    ("show", "{run}"): {"": ("/nowhere/x", "{folder}", "{bad}/list.json", "{images}", ""), "--only": ("", "nothing")},
    ("report", "{run}", "--out", "{out}/report"): {
        "": ("/nowhere/x", "{folder}", "{bad}/list.json", "{images}", ""),
        "--out": ("", "{bad}/list.json", "{bad}/list.json/x"),
        "--wandb": ("", "x", "/", "a/b/c", "a/", "/b"),
    },
    ("power", "--between", "0.1", "--within", "0.1", "--width", "0.1"): {
        "--between": ("nan", "-1", "inf", "x", "", "-nan"),
        "--within": ("nan", "-1", "inf", "x", ""),
        "--width": ("nan", "0", "-1", "inf", "x", "", "1e-300"),
        "--effect": ("0.1",),
        "--power": ("nan", "0", "1", "-1", "x", "1.5"),
        "--pilot": ("{run}", "/nowhere/x", ""),
        "--metric": ("ssim", ""),
        "--number": ("x", ""),
    },
    ("plan", "--between", "0.1", "--within", "0.1", "--effect", "0.1"): {
        "--between": ("nan", "-1"),
        "--within": ("nan", "-1"),
        "--effect": ("nan", "0", "inf", "-inf", "x"),
        "--power": ("nan", "1", "0.01"),
    },
    ("power", "--pilot", "{run}", "--metric", "pixel_cosine", "--width", "0.1"): {
        "--pilot": ("/nowhere/x", "{folder}", ""),
        "--metric": ("", "x", "vendi_set", "ssim,lpips", "fid", "clip_iqa[pairs={}]"),
        "--number": ("", "x"),
        "--between": ("1",),
        "--width": ("nan", "-1"),
    },
    ("prompts", "{prompts}", "--num", "2", "--out", "{out}/p.jsonl"): {
        "": (
            "/nowhere/x",
            "{folder}",
            "{bad}/list.json",
            "",
            "{bad}/empty.parquet",
            "{bad}/cut.tar",
            "{bad}/notes.bin",
        ),
        "--num": ("0", "-1", "x", "", "1.5", "nan", "1000000", "1" + "0" * 30),
        "--seed": ("x", "1.5", "nan", "", "1" + "0" * 30),
        "--column": ("", "x"),
        "--id": ("", "x"),
        "--source": ("", "nothing"),
        "--min-words": ("0", "-1", "x", ""),
        "--max-words": ("0", "-1", "x", ""),
        "--near-duplicates": ("nan", "-1", "0", "2", "x", "", "inf"),
        "--stratify": ("x", ""),
        "--count-tokens": ("", "/nowhere/x", "{folder}", "{folder}:x", "{folder}:-1"),
        "--max-corrupt": ("nan", "-1", "2", "x"),
        "--license": ("",),
        "--split": ("", "train"),
        "--config": ("", "x"),
        "--revision": ("", "x"),
        "--out": ("", "{out}/p.txt", "{folder}", "{prompts}", "{bad}/list.json/p.jsonl"),
    },
    ("paraphrase", "{prompts}", "--model", "postcards", "--out", "{out}/p.jsonl"): {
        "": ("/nowhere/x", "{folder}", "{bad}/list.json", "", "{bad}/notes.bin"),
        "--model": ("", "local:", "local:/nowhere/x", "http://127.0.0.1:9/x", "ftp://x"),
        "--per-prompt": ("0", "-1", "x", "", "1.5"),
        "--out": ("", "{out}/p.txt", "{folder}", "{prompts}"),
        "--length": ("x", ""),
        "--seed": ("x", "", "1.5"),
        "--similarity": ("", "x", "/nowhere/x"),
        "--min-similarity": ("nan", "-2", "2", "x", "inf"),
        "--instruction": ("", "/nowhere/x", "{folder}", "{bad}/notes.bin"),
        "--concurrency": ("0", "-1", "x"),
        "--limit": ("0", "-1", "x"),
        "--timeout": ("0", "-1", "nan", "x", "inf"),
        "--column": ("", "x"),
        "--check": (None,),
        "--device": ("x", "", "cuda"),
        "--count-tokens": ("", "/nowhere/x"),
        "--license": ("",),
    },
    ("attributes", "{prompts}", "--model", "postcards", "--out", "{out}/a.jsonl"): {
        "": ("/nowhere/x", "{folder}", "{bad}/list.json", "", "{bad}/notes.bin"),
        "--model": ("", "local:", "local:/nowhere/x", "http://127.0.0.1:9/x"),
        "--per-prompt": ("0", "-1", "x", "", "1.5", "3"),
        "--out": ("", "{out}/a.txt", "{folder}", "{prompts}"),
        "--seed": ("x", "", "1.5", "1"),
        "--instruction": ("", "/nowhere/x", "{folder}"),
        "--concurrency": ("0", "-1", "x"),
        "--limit": ("0", "-1", "x"),
        "--timeout": ("0", "-1", "nan", "x", "inf"),
        "--column": ("", "x"),
        "--device": ("x", "", "cuda"),
        "--license": ("",),
    },
    ("study", "--config", "{study}", "--out", "{out}/study", "--dry-run"): {
        "--config": ("", "/nowhere/x", "{folder}", "{bad}/list.json", "{bad}/notes.bin"),
        "--out": ("", "{bad}/list.json", "{bad}/list.json/x"),
        "--jobs": ("0", "-1", "x", "1.5", ""),
        "--launch": ("x", ""),
        "--slurm": ("x", "", "=1", "a=1"),
    },
    ("branch", "configs/tiny/llamagen.yaml", "--steps", "1", "--out", "{out}/branch"): {
        "": ("/nowhere/x", "{folder}", "{bad}/list.json", "", "configs/tiny/llamagen.yaml", "{study}"),
        "--steps": ("", "x", "-1", "1.5", "nan", ",", "99999999999999999999"),
        "--prompts": ("0", "-1", "x", ""),
        "--samples": ("0", "-1", "1", "x"),
        "--seed": ("x", "1" + "0" * 30),
        "--distance": ("x", ""),
        "--jobs": ("0", "-1", "x"),
        "--out": ("", "{bad}/list.json"),
    },
    ("verify", "{run}"): {
        "": ("/nowhere/x", "{folder}", "{bad}/list.json", "{images}", ""),
        "--num": ("0", "-1", "x", "", "1.5"),
        "--seed": ("x", "", "1" + "0" * 30),
    },
    ("check-generator", "template"): {
        "": (
            "",
            "x",
            "/nowhere/x.yaml",
            "{bad}/list.json",
            "{bad}/broken.yaml",
            "{folder}",
            "os.system",
            "os.path",
            "json.JSONDecoder",
        ),
        "--prompts": ("", "/nowhere/x", "{folder}", "{bad}/list.json"),
        "--device": ("x", "", "cuda"),
    },
    ("new", "generator", "my_model", "--to", "{out}/new"): {"--to": ("", "{bad}/list.json", "{bad}/list.json/x")},
    ("new", "generator", "--to", "{out}/new"): {"": ("", "A", "a b", "../x", "class", "1a", "a.b")},
    ("configs", "copy", "configs/tiny/llamagen.yaml", "--to", "{out}/c"): {
        "": ("", "x", "../x"),
        "--to": ("", "{bad}/list.json", "{bad}/list.json/x"),
    },
    ("list",): {"": ("", "x")},
    ("doctor",): {"--golden": ("", "/nowhere/x", "{folder}", "{bad}/list.json")},
    ("toy", "evaluate"): {"": ("x",)},
    (): {"": ("x", "", "predikt")},
}


def options() -> Iterator[Case]:
    """Wrong values of every option and every argument of the commands."""
    for base, wrong in OPTIONS.items():
        command = " ".join(base[:1])
        for option, values in wrong.items():
            for value in values:
                if option:
                    key = option
                    words = _without(base, option) + ((option,) if value is None else (f"{option}={value}",))
                else:
                    key = Path(value).name.replace("{", "").replace("}", "") if value else ""
                    key = {"images": "", "folder": "", "study": "study.yaml", "llamagen.yaml": "llamagen"}.get(key, key)
                    words = _replaced(base, value)
                yield Case(f"{command} {option} {value}", words, key)


def _without(base: tuple[str, ...], option: str) -> tuple[str, ...]:
    """A command line without an option and its value; one that may be repeated stays."""
    words = tuple(word for word in base if not word.startswith(f"{option}="))
    if option in words and option != "--pilot":
        place = words.index(option)
        return words[:place] + words[place + 2 :]
    return words


def _replaced(base: tuple[str, ...], value: str) -> tuple[str, ...]:
    """The first argument of a command replaced, or added where it has none."""
    if base[:1] in (("new",), ("list",), ("toy",), ()):
        return (*base[:2], value, *base[2:]) if base[:1] == ("new",) else (*base, value)
    if base[0] == "branch" and value.startswith("configs"):
        return (*base[:2], value, *base[2:])
    place = 2 if base[0] == "configs" else 1
    return (*base[:place], value, *base[place + 1 :])


# --- contents of files ---

BROKEN_YAML = {
    "empty": "",
    "a list": "- 1\n- 2\n",
    "a text": "hello\n",
    "a number": "3\n",
    "cut": "model: [",
    "a tab": "model:\n\tx: 1\n",
    "bytes": b"\xff\xfe\x00\x01",
    "NUL": "model: \x00\n",
    "a key twice removed": "modle: 3\n",
    "an alias without anchor": "model: *x\n",
    "a tag that makes objects": "model: !!python/object/apply:os.system ['touch {out}/owned']\n",
    "a class that is a function": "model: {class_path: os.system, init_args: {command: x}}\n",
    "a class of another kind": "model: {class_path: pathlib.Path}\n",
    "a class that is missing": "model: {class_path: no.such.Class}\n",
    "a class path that is a number": "model: {class_path: 3}\n",
    "null for a model": "model: null\n",
    "null for data": "model: configs/models/tiny_llamagen.yaml\ndata: null\n",
    "a fragment that is missing": "model: nowhere.yaml\n",
    "a fragment of itself": "model: broken.yaml\n",
    "deep": "model: " + "[" * 3000,
    "billion laughs": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
}
BROKEN_STUDY = {
    **{name: text for name, text in BROKEN_YAML.items() if "class" not in name and "fragment" not in name},
    "no generators": "probes: {a: }\n",
    "no probes": "generators: {a: {config: configs/tiny/llamagen.yaml}}\n",
    "a generator, null": "generators: {a: }\nprobes: {b: }\n",
    "a config that is a folder": "generators: {a: {config: .}}\nprobes: {b: }\n",
    "a config that is a number": "generators: {a: {config: 3}}\nprobes: {b: }\n",
    "seeds, texts": "generators: {a: {config: %s}}\nprobes: {b: }\nseeds: [x]\n",
    "seeds beyond 64 bits": "generators: {a: {config: %s}}\nprobes: {b: }\nseeds: [99999999999999999999]\n",
    "settings, a list": "generators: {a: {config: %s}}\nprobes: {b: }\nsettings: [1]\n",
    "a setting of nothing": "generators: {a: {config: %s}}\nprobes: {b: }\nsettings: {no.such.key: 1}\n",
    "a setting below a value": "generators: {a: {config: %s}}\nprobes: {b: }\nsettings: {data.limit.x: 1}\n",
    "metrics, a text": "generators: {a: {config: %s}}\nprobes: {b: }\nmetrics: ssim\n",
    "metrics, numbers": "generators: {a: {config: %s}}\nprobes: {b: }\nmetrics: [3]\n",
    "metrics, twice": "generators: {a: {config: %s}}\nprobes: {b: }\nmetrics: [ssim, ssim]\n",
    "a probe that is missing": "generators: {a: {config: %s}}\nprobes: {b: {Nothing: }}\n",
    "a value of a probe, NaN": "generators: {a: {config: %s}}\nprobes: {b: {CodebookSubset: {ratio: .nan}}}\n",
    "an empty sweep": "generators: {a: {config: %s}}\nprobes: {b: {CodebookSubset: {ratio: []}}}\n",
    "usage that is missing": "generators: {a: {config: %s, usage: /no}}\nprobes: {b: {CodebookSubset: {ratio: 0.5}}}\n",
    "usage that is a number": "generators: {a: {config: %s, usage: 3}}\nprobes: {b: {CodebookSubset: {ratio: 0.5}}}\n",
}
PROMPTS = {
    "empty.jsonl": "",
    "blank.txt": "\n \n",
    "cut.jsonl": '{"prompt": "a',
    "lists.jsonl": "[1, 2]\n",
    "numbers.jsonl": '{"prompt": 3}\n',
    "null.jsonl": '{"prompt": null}\n',
    "other.jsonl": '{"text_de": "ein Ball"}\n',
    "nan.jsonl": '{"prompt": NaN}\n',
    "nested.jsonl": '{"prompt": {"en": "a ball"}}\n',
    "half.jsonl": '{"prompt": "a \\ud83d"}\n',
    "bytes.jsonl": b"\xff\xfe\x00\xd8\x00\xd8",
    "latin.txt": "gr\u00fcn".encode("latin-1"),
    "deep.jsonl": "[" * 100_000,
    "lines.json": '{"prompt": "a"}\n{"prompt": "b"}\n',
    "text.json": '"a red ball"',
    "number.json": "3",
    "object.json": '{"a": 1}',
    "two_ids.jsonl": '{"id": "1", "prompt": "a ball"}\n{"id": "1", "prompt": "a cube"}\n',
    "list_id.jsonl": '{"id": [1], "prompt": "a ball"}\n',
    "attributes.jsonl": '{"prompt": "a ball", "paraphrases": 3, "attributes": []}\n',
    "paraphrases.jsonl": '{"prompt": "a ball", "paraphrases": "a sphere"}\n',
    "paraphrase_numbers.jsonl": '{"prompt": "a ball", "paraphrases": [3]}\n',
    "header.csv": "prompt\n",
    "columns.csv": "a,b\n1,2\n",
    "comma.csv": "prompt,id\na ball, red,1\n",
    "quote.csv": 'prompt\n"a ball\n',
    "twice.csv": "prompt,prompt\na,b\n",
    "empty.csv": "",
    "empty.parquet": b"",
    "fake.parquet": b"PAR1" + bytes(50),
    "empty.tar": b"",
    "fake.tar": b"x" * 2000,
    "notes.md": "a red ball\n",
    "none": "a red ball\n",
    "script.py": "import os\n",
}
TABLES = {
    "list_prompt.parquet": {"prompt": [["a", "b"]] * 2},
    "number_prompt.parquet": {"prompt": [1, 2]},
    "null_prompt.parquet": {"prompt": pa.nulls(2)},
    "bytes_prompt.parquet": {"prompt": [b"\xff", b"a"]},
    "no_prompt.parquet": {"x": ["a", "b"]},
    "no_rows.parquet": {"prompt": pa.array([], pa.string())},
}
IMAGE_FILES = {
    "empty.png": b"",
    "text.png": b"hello",
    "page.jpg": b"<html>",
    "cut.png": "cut",
    "pointer.png": b"version https://git-lfs.github.com/spec/v1\n",
    "deep.png": "deep",
    "strip.png": "strip",
    "bomb.png": "bomb",
    "huge_header.png": b"\x89PNG\r\n\x1a\n"
    + struct.pack(">I4sIIBBBBBI", 13, b"IHDR", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0, 0),
    "svg.svg": b"<svg/>",
    "fifo.png": "fifo",
    "gone.png": "gone",
    "loop.png": "loop",
    "folder.png": "folder",
}
IMAGE_TABLES = {
    "metadata.csv": (
        "file_name,prompt\n1.png\n",
        "file_name,prompt\nnowhere.png,a\n",
        "file_name,prompt\n../../../etc/passwd,a\n",
        "file_name,prompt\n/dev/zero,a\n",
        "file_name,prompt\n,a\n",
        "x,y\n1,2\n",
        "file_name,prompt\n1.png,\n",
        "",
        "\x00\n",
    ),
    "metadata.jsonl": (
        "{",
        "3\n",
        '{"file_name": 3, "prompt": "a"}\n',
        '{"file_name": "1.png", "prompt": 3}\n',
        '{"file_name": ["1.png"], "prompt": "a"}\n',
        '{"file_name": "1.png"}\n',
        '{"prompt": "a"}\n',
        '{"file_name": "1.png", "prompt": "a", "paraphrase": -1}\n',
    ),
    "data.parquet": (b"", b"PAR1", b"PAR1" + bytes(100) + b"PAR1"),
    "00000.tar": (b"", b"not a tar", b"\x1f\x8b" + bytes(30)),
    "dataset_info.json": ("{", "[]", "{}"),
}
PICTURE_TABLES = {
    "numbers": {"image": [1, 2], "prompt": ["a", "a"]},
    "texts": {"image": ["x", "y"], "prompt": ["a", "a"]},
    "base64": {"image": ["iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ"] * 2, "prompt": ["a", "a"]},
    "lists": {"image": [[b"a"], [b"b"]], "prompt": ["a", "a"]},
    "nulls": {"image": pa.nulls(2), "prompt": ["a", "a"]},
    "bytes that are no image": {"image": [b"a", b"b"], "prompt": ["a", "a"]},
    "no prompt": {"image": [b"a", b"b"]},
    "prompts, numbers": {"image": [b"a", b"b"], "prompt": [1, 2]},
    "two kinds of images": {"image": [b"a"], "image2": [b"b"], "jpg": [b"c"], "prompt": ["a"]},
    "a struct without bytes": {"image": [{"x": 1}], "prompt": ["a"]},
}
WEIGHTS = (
    "empty",
    "text",
    "cut",
    "pickle",
    "pointer",
    "list",
    "no tensors",
    "ema",
    "other names",
    "other shapes",
    "NaN",
    "folder inside a zip",
    "half a header",
)


def files() -> Iterator[Case]:
    """Damaged and malformed files."""
    for name in BROKEN_YAML:
        words = ("predict", "--config", f"{{yaml}}/{name}/broken.yaml", *PREDICT[3:])
        yield Case(f"config, {name}", words, "")
        if "fragment" not in name:
            yield Case(f"model, {name}", (*PREDICT, f"--model={{yaml}}/{name}/broken.yaml"), "model")
    for name in BROKEN_STUDY:
        words = ("study", "--config", f"{{studies}}/{name}/study.yaml", "--out", "{out}/study", "--dry-run")
        yield Case(f"study, {name}", words, "")
    for name in (*PROMPTS, *TABLES):
        yield Case(f"predict, {name}", (*PREDICT, f"--data.path={{texts}}/{name}"), name)
        if name not in ("two_ids.jsonl", "list_prompt.parquet"):  # captions of one image, of which one is drawn
            yield Case(
                f"prompts, {name}", ("prompts", f"{{texts}}/{name}", "--num", "1", "--out", "{out}/p.jsonl"), name
            )
        if name.startswith("paraphrase") or name in (
            "empty.jsonl",
            "cut.jsonl",
            "deep.jsonl",
            "bytes.jsonl",
            "notes.md",
        ):
            yield Case(f"paraphrase, {name}", ("paraphrase", f"{{texts}}/{name}", "--check"), name)
    for name in IMAGE_FILES:
        yield Case(f"measure, {name}", ("measure", f"{{pictures}}/{name}", "--metrics", "pixel_cosine"), "")
        yield Case(
            f"reference, {name}",
            ("reference", f"{{pictures}}/{name}", "--backbone", "pixels", "--out", "{out}/r.safetensors"),
            "",
        )
    for name, contents in IMAGE_TABLES.items():
        for number in range(len(contents)):
            yield Case(
                f"measure, {name} {number}", ("measure", f"{{listed}}/{name}-{number}", "--metrics", "pixel_cosine"), ""
            )
    for name in PICTURE_TABLES:
        yield Case(
            f"measure, table of {name}", ("measure", f"{{listed}}/{name}.parquet", "--metrics", "pixel_cosine"), ""
        )
    for kind in WEIGHTS:
        for key in ("gpt_checkpoint", "vq_checkpoint"):
            yield Case(f"{key}, {kind}", (*PREDICT, f"--model.{key}={{weights}}/{kind}-{key}.pt"), "", in_weights=True)
    for kind in ("empty", "text", "half a header"):
        yield Case(
            f"safetensors, {kind}",
            (*PREDICT, f"--model.gpt_checkpoint={{weights}}/{kind}.safetensors"),
            "",
            in_weights=True,
        )


# --- options that do not apply ---

UNFIT = {
    "a reference that no metric needs": (
        ("measure", "{images}", "--metrics", "ssim", "--reference", "toy:postcards_reference.safetensors"),
        "reference",
    ),
    "a column of images in a folder": (
        ("measure", "{images}", "--metrics", "ssim", "--image-column", "x"),
        "--image-column",
    ),
    "a split of a folder": (("measure", "{images}", "--metrics", "ssim", "--split", "train"), "--split"),
    "a resize of a run": (("measure", "{run}", "--metrics", "ssim", "--resize", "16"), "--resize"),
    "tokens of images": (("measure", "{images}", "--metrics", "token_entropy"), "token_entropy"),
    "a metric twice": (("measure", "{images}", "--metrics", "ssim,ssim"), "ssim"),
    "a metric twice by two names": (("measure", "{images}", "--metrics", "lpips,lpips[alex]"), "lpips"),
    "pairs without a place": (("measure", "{images}", "--metrics", "ssim", "--pairs"), "--pairs"),
    "an option twice": (("measure", "{images}", "--metrics", "ssim", "--metrics", "pixel_cosine"), "--metrics"),
    "an option of the config twice": ((*PREDICT, "--data.seed", "1", "--data.seed", "2"), "data.seed"),
    "a run folder twice": ((*PREDICT, "--run_dir", "{out}/other"), "run_dir"),
    "compare --only without a match": (("compare", "{run}", "{argmax}", "--only", "nothing"), "--only"),
    "compare a run with itself": (("compare", "{run}", "{run}"), "same"),
    "compare a run twice on a side": (("compare", "{run},{run}", "{argmax}"), "twice"),
    "drift of a run from itself": (("drift", "{run}", "{run}"), "twice"),
    "the split of a file": ((*PREDICT, "--data.split", "train"), "split"),
    "a path and a dataset": ((*PREDICT, "--data.dataset", "x"), "dataset"),
    "neither path nor dataset": ((*PREDICT, "--data.path", "null"), "path"),
    "two of one probe": ((*PREDICT, "--probes+=Argmax", "--probes+=Argmax"), "Argmax"),
    "two of one knob": ((*PREDICT, "--probes+=TopK", "--probes.top_k=3", "--probes+=TopK", "--probes.top_k=4"), "TopK"),
    "a subset of latents": (
        (*_predict("latent_diffusion"), "--probes+=CodebookSubset", "--probes.select=random", "--probes.ratio=0.5"),
        "codebook",
    ),
    "metrics of tokens, of latents": (
        (*_predict("latent_diffusion"), "--measure.metrics=[token_entropy]", "--measure.reference=null"),
        "token",
    ),
    "top_k of latents": ((*_predict("latent_diffusion"), "--probes+=TopK", "--probes.top_k=3"), "TopK"),
    "more masked steps than tokens": ((*_predict("amused"), "--model.num_steps=37"), "num_steps"),
    "more steps than were trained": ((*_predict("vq_diffusion"), "--model.num_steps=101"), "num_steps"),
    "a precision of the trainer": ((*PREDICT, "--trainer.precision=16-mixed"), "precision"),
    "a codebook of another model": (
        (
            *_predict("amused"),
            "--probes+=CodebookSubset",
            "--probes.ratio=0.5",
            "--probes.usage=toy:llamagen_usage.safetensors",
        ),
        "usage",
    ),
    "a config of validate": (
        ("predict", "--config", "configs/tiny/llamagen_codebook.yaml", "--run_dir", "{out}/run"),
        "data",
    ),
    "a config of predict": (("validate", "--config", "configs/tiny/llamagen.yaml", "--run_dir", "{out}/run"), "data"),
    "validate of latents": (
        ("validate", "--config", "configs/tiny/latent_diffusion.yaml", "--run_dir", "{out}/run"),
        "data",
    ),
    **{
        f"images of another size, {family}": (
            ("validate", "--config", f"configs/tiny/{family}_codebook.yaml", *VALIDATE[3:-1], "64"),
            "image_size",
        )
        for family in ("llamagen", "amused", "vq_diffusion")
    },
    "decompose a run without Decompose": (("decompose", "{flat}"), "Decompose"),
    "argmax that is no Argmax": (("decompose", "{run}", "--argmax", "{subset}"), "Argmax"),
    "subset that is no subset": (("decompose", "{run}", "--argmax", "{argmax}", "--subset", "{argmax}"), "subset"),
    "verify fewer than one": (("verify", "{run}", "--num", "0"), "--num"),
    "width and effect": (("power", "--between", "1", "--within", "1", "--width", "1", "--effect", "1"), "--width"),
    "neither width nor effect": (("power", "--between", "1", "--within", "1"), "--width"),
    "one variance": (("power", "--between", "1", "--width", "1"), "--within"),
    "three pilots": (("power", *("--pilot", "{run}") * 3, "--metric", "ssim", "--width", "1"), "--pilot"),
    "two pilots that are one run": (
        ("power", *("--pilot", "{run}") * 2, "--metric", "ssim", "--width", "1"),
        "--pilot",
    ),
    "paraphrase --check with a model": (("paraphrase", "{prompts}", "--check", "--model", "postcards"), "--check"),
    "paraphrase without a model": (("paraphrase", "{prompts}", "--out", "{out}/p.jsonl"), "--model"),
    "attributes that are not in the file": (("attributes", "{prompts}", "--out", "{out}/a.jsonl"), "attributes"),
    "attributes without a list": (("attributes", "/nowhere/x", "--out", "{out}/a.jsonl"), "/nowhere/x"),
    "attributes of a list with a seed": (
        ("attributes", "{prompts}", "--seed", "1", "--out", "{out}/a.jsonl"),
        "--seed",
    ),
    "a metric without its attribute list": (
        ("measure", "{run}", "--metrics", "attributes[tiny-clip,list=/nowhere/x]"),
        "/nowhere/x",
    ),
    "a metric whose attribute list has other prompts": (
        ("measure", "{run}", "--metrics", "attributes[tiny-clip,list={texts}/attributes.jsonl]"),
        "attributes.jsonl",
    ),
    "the split of a prompt file": (
        ("prompts", "{prompts}", "--num", "1", "--split", "x", "--out", "{out}/p.jsonl"),
        "--split",
    ),
    "words from more to fewer": (
        ("prompts", "{prompts}", "--num", "1", "--min-words", "3", "--max-words", "2", "--out", "{out}/p.jsonl"),
        "--min-words",
    ),
    "a part of registered images": (
        ("reference", "postcards", "--part", "1/2", "--backbone", "pixels", "--out", "{out}/r.safetensors"),
        "--part",
    ),
    "a split of registered images": (
        (
            "reference",
            "postcards",
            "--split",
            "x",
            "--num",
            "4",
            "--backbone",
            "pixels",
            "--out",
            "{out}/r.safetensors",
        ),
        "--split",
    ),
    "options of parts": (("reference", "{reference}", "--num", "3", "--out", "{out}/r.safetensors"), "--num"),
    "two sources": (
        ("reference", "{images}", "{images}", "--backbone", "pixels", "--out", "{out}/r.safetensors"),
        "SOURCE",
    ),
    "slurm options on this machine": (
        ("study", "--config", "{study}", "--slurm", "a=1", "--out", "{out}/study", "--dry-run"),
        "--slurm",
    ),
    "a seed without a random choice": (
        (
            *PREDICT,
            "--probes+=CodebookSubset",
            "--probes.ratio=0.5",
            "--probes.usage=toy:llamagen_usage.safetensors",
            "--probes.seed=3",
        ),
        "seed",
    ),
    "a subset by list and by size": (
        (*PREDICT, "--probes+=CodebookSubset", "--probes.select=list", "--probes.tokens=[1]", "--probes.size=1"),
        "size",
    ),
    "a trainer's callback that is no callback": ((*PREDICT, "--trainer.callbacks+=pathlib.Path"), "callbacks"),
    "os.system for a method": (
        (
            *PREDICT,
            "--trainer.callbacks+=lightning.pytorch.callbacks.LambdaCallback",
            "--trainer.callbacks.setup=os.system",
        ),
        "setup",
    ),
    "a run folder that holds another run": (
        (*PREDICT[:-4], "--run_dir", "{run}", "--wandb", "disabled"),
        "--overwrite",
    ),
    "a run folder with files of the user": ((*PREDICT, "--overwrite", "true", "--run_dir={images}"), ""),
}


def unfit() -> Iterator[Case]:
    """Options that do not apply, or exclude each other."""
    return (Case(name, words, key) for name, (words, key) in UNFIT.items())


CASES = [*values(), *options(), *files(), *unfit()]


# --- what cases name, and what becomes of them ---


def make_places(folder: Path, runs: Path) -> dict[str, str]:
    """Write the files that cases name."""
    import numpy as np

    random = np.random.default_rng(0)

    def image(path: Path, size: tuple[int, int] = (48, 48)) -> bytes:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
        return path.read_bytes()

    def write(path: Path, content: str | bytes) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    names = ["bad", "yaml", "studies", "texts", "pictures", "listed", "weights", "images", "empty"]
    at = {name: folder / name for name in names}
    for number in range(4):
        image(at["images"] / f"prompt {number // 2}" / f"{number}.png")
    at["empty"].mkdir()
    bad = at["bad"]
    write(bad / "list.json", "[1]")
    write(bad / "cut.json", '{"dim": ')
    write(bad / "notes.txt", "hello")
    write(bad / "notes.bin", b"\xff\x00\xfe")
    write(bad / "empty.parquet", b"")
    write(bad / "cut.tar", b"abc")
    write(bad / "broken.yaml", "model: [")
    write(bad / "counts.safetensors", b"\x08\x00\x00")
    write_usage(bad / "short.safetensors", torch.ones(7, dtype=torch.int64), {})
    for name, text in BROKEN_YAML.items():
        write(at["yaml"] / name / "broken.yaml", text)
    for name, text in BROKEN_STUDY.items():
        config = str(Path(__file__).parents[1] / "configs" / "tiny" / "llamagen.yaml")
        write(at["studies"] / name / "study.yaml", text.replace("%s", config) if isinstance(text, str) else text)
    for name, text in PROMPTS.items():
        write(at["texts"] / name, text)
    for name, columns in TABLES.items():
        pq.write_table(pa.table(columns), at["texts"] / name)
    for name, content in IMAGE_FILES.items():
        path = at["pictures"] / name / "prompt" / name
        whole = image(path.parent / "1.png")
        match content:
            case "cut":
                write(path, whole[:200])
            case "deep":
                Image.fromarray(np.full((9, 9), 40000, np.uint16)).save(path)
            case "strip":
                Image.new("L", (60_000, 1)).save(path)
            case "bomb":
                Image.new("1", (20_000, 20_000)).save(path)
            case "fifo":
                os.mkfifo(path)
            case "gone":
                path.symlink_to("nowhere.png")
            case "loop":
                path.symlink_to("loop.png")
            case "folder":
                path.mkdir()
            case _:
                write(path, content)
    for name, contents in IMAGE_TABLES.items():
        for number, content in enumerate(contents):
            image(at["listed"] / f"{name}-{number}" / "1.png") if "metadata" in name else None
            write(at["listed"] / f"{name}-{number}" / name, content)
    for name, columns in PICTURE_TABLES.items():
        pq.write_table(pa.table(columns), at["listed"] / f"{name}.parquet")
    _write_weights(at["weights"])
    shutil.copy(plugins.load("files", "toy") / "postcards.jsonl", folder / "prompts.jsonl")
    write(folder / "captions" / "p.jsonl", '{"prompt": "a red ball"}\n')
    tiny = Path(__file__).parents[1] / "configs" / "tiny" / "llamagen.yaml"
    write(folder / "study.yaml", f"generators: {{a: {{config: {tiny}}}}}\nprobes: {{b: }}\n")
    return {
        **{name: str(path) for name, path in at.items()},
        "folder": str(at["empty"]),
        "captions": str(folder / "captions"),
        "prompts": str(folder / "prompts.jsonl"),
        "study": str(folder / "study.yaml"),
        "svg": str(write(folder / "folder.svg" / "x", "").parent),
        "reference": "toy:postcards_reference.safetensors",
        "run": str(runs / "plain"),
        "argmax": str(runs / "argmax"),
        "subset": str(runs / "subset"),
    }


def _write_weights(folder: Path) -> None:
    from safetensors.torch import load_file

    folder.mkdir()
    toy = plugins.load("files", "toy")
    for key, name in (("gpt_checkpoint", "llamagen_gpt"), ("vq_checkpoint", "llamagen_vq")):
        state = load_file(toy / f"{name}.safetensors")
        first, *_ = state
        part = next(k for k in reversed(state) if state[k].is_floating_point())
        buffer = io.BytesIO()
        torch.save(state, buffer)
        zipped = io.BytesIO()
        with zipfile.ZipFile(zipped, "w") as file:
            file.writestr("x/", "")
        kinds: dict[str, Any] = {
            "empty": b"",
            "text": b"hello\n",
            "cut": buffer.getvalue()[: len(buffer.getvalue()) // 2],
            "pickle": pickle.dumps(Owned(folder / "owned")),
            "pointer": b"version https://git-lfs.github.com/spec/v1\n",
            "half a header": b"PK\x03\x04",
            "folder inside a zip": zipped.getvalue(),
            "list": [1, 2],
            "no tensors": {"step": 3},
            "ema": {"ema": state},
            "other names": {f"x.{k}": v for k, v in state.items()},
            "other shapes": {**state, first: state[first][:1]},
            "NaN": {**state, part: torch.full_like(state[part], float("nan"))},
        }
        for kind, content in kinds.items():
            path = folder / f"{kind}-{key}.pt"
            path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    for kind, content in {"empty": b"", "text": b"hello\n", "half a header": b"\xff" * 7}.items():
        (folder / f"{kind}.safetensors").write_bytes(content)


class Owned:
    """A pickle that leaves a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


class Stop(BaseException):
    """Ends a command that went too far; no command catches it."""


class Outcome(NamedTuple):
    """What became of a bad input: "clear", "unclear", "silent", "traceback", "late" or "hang", and what was printed."""

    kind: str
    message: str
    seconds: float = 0.0
    printed: str = ""


def attempt(case: Case, places: dict[str, str], out: Path) -> Outcome:
    """Run a case in this process."""
    started = time.process_time()
    named = {**places, "out": str(out)}
    words = [re.sub(r"\{(\w+)\}", lambda found: named[found[1]], word) for word in case.words]
    printed = io.StringIO()

    def stop(kind: str):
        def act(*_: Any, **__: Any) -> None:
            raise Stop(kind)

        return act

    before = signal.signal(signal.SIGALRM, stop("hang"))
    signal.alarm(SECONDS)
    try:
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(printed), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if not case.in_weights:
                patch.setattr(Generator, "configure_model", stop("late"))
                patch.setattr(launch, "run_here", stop("late"))
            with contextlib.redirect_stdout(io.StringIO()):
                main(words)
        found = Outcome("silent", "returned")
    except SystemExit as ended:
        found = _classify(ended.code, printed.getvalue(), case, words)
    except Stop as stopped:
        found = Outcome(str(stopped), "")
    except BaseException as error:  # noqa: BLE001  whatever comes is an outcome
        found = Outcome("traceback", "".join(traceback.format_exception(error)[-3:]))
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return found._replace(seconds=time.process_time() - started, printed=printed.getvalue())


def _classify(status: Any, printed: str, case: Case, words: Sequence[str]) -> Outcome:
    if status == 2 and "usage: " in printed:  # what the command's parser says
        message = printed.rstrip().splitlines()[-1]
    elif isinstance(status, str):
        message = status.partition(f"\n{LINK}")[0]
    elif status == 0 or status is None:
        return Outcome("silent", printed[-300:])
    else:
        return Outcome("unclear", f"{status}: {printed[-400:]}")
    value = words[-1].rpartition("=")[2]
    reasons = {
        "not ours": not message.startswith("gendiv"),
        "several lines": "\n" in message and "--config configs/tiny/" not in message,
        "long": len(message) > 2000,
        f"does not name {case.key}": not (
            _plain(case.key) in _plain(message) or (len(value) > 3 and Path(value).name in message)
        ),
        "Traceback": "Traceback" in message + printed,
    }
    wrong = [reason for reason, is_wrong in reasons.items() if is_wrong]
    return Outcome("unclear", f"{message[:900]} {wrong}") if wrong else Outcome("clear", message)


def _plain(text: str) -> str:
    return text.lstrip("-").replace("-", "_").lower()
