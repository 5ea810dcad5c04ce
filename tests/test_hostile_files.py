"""Hostile files: 64 of them are opened by the commands that would open them, and nothing in them is executed.

Each payload would make the file `OWNED` when it runs. Beside it, no file outside the data folder is read, no control
character reaches the terminal, and nothing hangs or ends in a traceback.
"""

import base64
import io
import json
import os
import pickle
import shutil
import sys
import tarfile
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from bad_inputs import PREDICT, Case, attempt
from PIL import Image

from gendiv_lightning import plugins
from gendiv_lightning.console.text import printable
from gendiv_lightning.storage.config_files import config_folder
from gendiv_lightning.weights.load import read_checkpoint

SECRET = "a secret of another folder"
IMAGES = ("measure", "{data}", "--metrics", "pixel_cosine")
PROMPTS = (*PREDICT, "--measure.metrics=[pixel_cosine]", "--measure.reference=null")


class Call:
    """An object that calls a function when it is unpickled."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def payloads(owned):
    """Ways to make a file while a pickle is read."""
    code = f"open({str(owned)!r}, 'w')"
    return {
        "os.system": Call(os.system, f"touch {owned}"),
        "os.mkdir": Call(os.mkdir, str(owned)),
        "eval": Call(eval, code),
        "exec": Call(exec, code),
        "open": Call(open, str(owned), "w"),
        "subprocess": Call(__import__("subprocess").check_call, ["touch", str(owned)]),
        "pathlib": Call(__import__("pathlib").Path.touch, owned),
        "torch.save": Call(torch.save, {}, str(owned)),
    }


def raw(content):
    return pickle.dumps(content, 2)  # the protocol that torch uses


def legacy(content):
    file = io.BytesIO()
    torch.save({"model": {"x": torch.ones(1)}, "args": content}, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def zipped(content):
    file = io.BytesIO()
    torch.save({"model": {"x": torch.ones(1)}, "args": content}, file)
    return file.getvalue()


PICKLES = [
    (kind, make) for kind in ("os.system", "os.mkdir", "eval", "exec", "open", "subprocess", "pathlib", "torch.save")
    for make in (raw, legacy, zipped)
]  # fmt: skip


@pytest.mark.parametrize(("kind", "make"), PICKLES, ids=lambda value: getattr(value, "__name__", value))
def test_no_pickle_runs(kind, make, tmp_path):
    owned = tmp_path / "OWNED"
    (tmp_path / "weights.pt").write_bytes(make(payloads(owned)[kind]))
    with pytest.raises(ValueError, match=r"weights\.pt"):
        read_checkpoint(tmp_path / "weights.pt")
    assert not owned.exists()


# --- configs ---


def config(**entries):
    """A config of predict with entries of its own."""

    def make(folder, owned):
        text = json.dumps(entries).replace("OWNED", str(owned))
        path = folder / "config.yaml"
        tiny = yaml.safe_load((folder / "tiny.yaml").read_text())
        path.write_text(yaml.safe_dump({**tiny, **json.loads(text)}))
        return ("predict", "--config", str(path), *PREDICT[3:])

    return make


def text_config(text):
    """A config as text."""

    def make(folder, owned):
        (folder / "config.yaml").write_text(text.replace("OWNED", str(owned)))
        return ("predict", "--config", str(folder / "config.yaml"), *PREDICT[3:])

    return make


POPEN = {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", "OWNED"]}}
SYSTEM = {"class_path": "os.system", "init_args": {"command": "touch OWNED"}}
LAMBDA = {"class_path": "lightning.pytorch.callbacks.LambdaCallback", "init_args": {"setup": "os.system"}}
CONFIGS = {
    "a process for a model": config(model=POPEN),
    "a function for a model": config(model=SYSTEM),
    "a process for data": config(data=POPEN),
    "a process for a probe": config(probes=[POPEN]),
    "a function for a probe": config(probes=[SYSTEM]),
    "a process for a metric": config(measure={"metrics": [POPEN]}),
    "a process for metrics": config(measure=POPEN),
    "a process for a callback": config(trainer={"callbacks": [POPEN]}),
    "a function in a callback": config(trainer={"callbacks": [LAMBDA]}),
    "a process for a logger": config(trainer={"logger": POPEN}),
    "a process for a strategy": config(trainer={"strategy": POPEN}),
    "a process for a profiler": config(trainer={"profiler": POPEN}),
    "a process for a plug-in": config(trainer={"plugins": [POPEN]}),
    "a process as an argument": config(model={"class_path": "LlamaGen", "init_args": {"gpt": POPEN}}),
    "a tag that calls": text_config("model: !!python/object/apply:os.system ['touch OWNED']\n"),
    "a tag that makes": text_config("model: !!python/object/new:subprocess.Popen [['touch', 'OWNED']]\n"),
    "aliases without end": text_config("model: &a [*a]\n"),
}


def study(folder, owned):
    (folder / "study.yaml").write_text(f"generators: !!python/object/apply:os.system ['touch {owned}']\n")
    return ("study", "--config", str(folder / "study.yaml"), "--out", "{out}/study", "--dry-run")


def generator_config(folder, owned):
    (folder / "model.yaml").write_text(f"class_path: subprocess.Popen\ninit_args: {{args: [touch, {owned}]}}\n")
    return ("check-generator", str(folder / "model.yaml"))


def generator_function(folder, owned):
    (folder / "evil_module.py").write_text(f"def make():\n    open({str(owned)!r}, 'w')\n")
    sys.path.append(str(folder))
    return ("check-generator", "evil_module.make")


# --- models whose folders bring code ---


def transformers_code(folder, owned):
    model = folder / "t5"
    model.mkdir()
    (model / "evil.py").write_text(f"open({str(owned)!r}, 'w')\nclass Evil: ...\n")
    auto = {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil", "AutoTokenizer": ["evil.Evil", None]}
    (model / "config.json").write_text(json.dumps({"auto_map": auto, "model_type": "evil"}))
    (model / "tokenizer_config.json").write_text(json.dumps({"auto_map": auto, "tokenizer_class": "Evil"}))
    return (*PREDICT, f"--model.text_encoder={model}")


def transformers_pickle(folder, owned):
    model = folder / "t5"
    shutil.copytree(folder / "toy" / "t5", model)
    for weights in model.glob("*.safetensors"):
        weights.unlink()
    (model / "pytorch_model.bin").write_bytes(zipped(payloads(owned)["os.mkdir"]))
    return (*PREDICT, f"--model.text_encoder={model}")


def diffusers_code(folder, owned):
    model = folder / "pipeline"
    model.mkdir()
    (model / "pipeline.py").write_text(f"open({str(owned)!r}, 'w')\n")
    (model / "unet.py").write_text(f"open({str(owned)!r}, 'w')\n")
    (model / "model_index.json").write_text(json.dumps({"_class_name": ["pipeline", "Evil"], "unet": ["unet", "Evil"]}))
    return ("predict", "--config", "configs/tiny/latent_diffusion.yaml", *PREDICT[3:], f"--model.checkpoint={model}")


def clip_code(folder, owned):
    model = folder / "clip"
    model.mkdir()
    (model / "evil.py").write_text(f"open({str(owned)!r}, 'w')\n")
    (model / "config.json").write_text(json.dumps({"model_type": "clip", "auto_map": {"AutoModel": "evil.Evil"}}))
    return ("measure", "{images}", "--metrics", f"clip_score[{model}]")


def dataset_code(folder, owned):
    data = folder / "data"
    data.mkdir()
    (data / "data.py").write_text(f"open({str(owned)!r}, 'w')\n")
    (data / "dataset_infos.json").write_text("{}")
    return ("prompts", str(data), "--num", "1", "--out", "{out}/p.jsonl")


def pickled_counts(folder, owned):
    (folder / "usage.safetensors").write_bytes(raw(payloads(owned)["os.mkdir"]))
    subset = ("--probes+=CodebookSubset", "--probes.ratio=0.5", f"--probes.usage={folder / 'usage.safetensors'}")
    return (*PREDICT, *subset)


def pickled_reference(folder, owned):
    (folder / "r.safetensors").write_bytes(raw(payloads(owned)["os.mkdir"]))
    return ("measure", "{images}", "--metrics", "fd[tiny-clip]", "--reference", str(folder / "r.safetensors"))


# --- tables, archives and pictures ---


def png(size=(12, 12)):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def images_of(folder):
    data = folder / "data"
    data.mkdir()
    for name in ("1.png", "2.png"):
        (data / name).write_bytes(png())
    return data


def outside(name):
    """A table that names a file outside its folder."""

    def make(folder, owned):
        data = images_of(folder)
        (folder / "secret.png").write_bytes(png())
        names = name.replace("SECRET", str(folder / "secret.png"))
        (data / "metadata.csv").write_text(f"file_name,prompt\n1.png,a\n{names},a\n")
        return (*IMAGES[:1], str(data), *IMAGES[2:])

    return make


def archive(**member):
    """A tar with a member that leads out of it."""

    def make(folder, owned):
        path = folder / "00000.tar"
        with tarfile.open(path, "w") as file:
            info = tarfile.TarInfo(member.get("name", "0.png"))
            info.type, info.linkname = member.get("type", tarfile.REGTYPE), member.get("linkname", "")
            data = png() if info.isreg() else b""
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
            text = tarfile.TarInfo("0.txt")
            text.size = len(b"a red ball")
            file.addfile(text, io.BytesIO(b"a red ball"))
        return (*IMAGES[:1], str(path), *IMAGES[2:])

    return make


def huge_tar(folder, owned):
    path = folder / "00000.tar"
    info = tarfile.TarInfo("0.png")
    info.size = 2**40  # stated, and not there
    path.write_bytes(info.tobuf() + bytes(1024))
    return (*IMAGES[:1], str(path), *IMAGES[2:])


def sparse_file(folder, owned):
    data = images_of(folder)
    with (data / "3.png").open("wb") as file:
        file.truncate(2**40)
    return (*IMAGES[:1], str(data), *IMAGES[2:])


def zip_bomb(folder, owned):
    with zipfile.ZipFile(folder / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("bomb/data.pkl", bytes(2**26))
    return (*PREDICT, f"--model.gpt_checkpoint={folder / 'bomb.pt'}")


def picture_bomb(folder, owned):
    data = images_of(folder)
    Image.new("1", (10_000, 10_000)).save(data / "3.png")
    return (*IMAGES[:1], str(data), *IMAGES[2:])


def parquet_bomb(folder, owned):
    value = pa.DictionaryArray.from_arrays(pa.array([0] * 3000, pa.int32()), pa.array([bytes(2**20)]))
    path = folder / "bomb.parquet"
    table = pa.table({"image": value, "prompt": ["a"] * 3000})
    pq.write_table(table, path, compression="zstd", store_schema=False)
    return (*IMAGES[:1], str(path), *IMAGES[2:])


def endless(folder, owned):
    data = images_of(folder)
    (data / "metadata.jsonl").symlink_to("/dev/zero")
    return (*IMAGES[:1], str(data), *IMAGES[2:])


def waiting(folder, owned):
    data = images_of(folder)
    os.mkfifo(data / "metadata.csv")
    return (*IMAGES[:1], str(data), *IMAGES[2:])


ESCAPES = {
    "colours": "\x1b[31mred",
    "a title": "\x1b]0;owned\x07",
    "a clipboard": "\x1b]52;c;" + base64.b64encode(b"rm -rf").decode() + "\x07",
    "a cleared screen": "\x1b[2J\x1b[H",
    "backspaces": "safe" + "\b" * 4 + "evil",
    "a C1 sequence": "\x9b31mred",
}


def escapes(text):
    """Names of folders and files with control characters."""

    def make(folder, owned):
        data = folder / "data" / f"{text} ball"
        data.mkdir(parents=True)
        (data / f"{text}.png").write_bytes(b"no image")
        (data / "1.png").write_bytes(png())
        return (*IMAGES[:1], str(data.parent), *IMAGES[2:])

    return make


def json_bomb(folder, owned):
    (folder / "p.jsonl").write_text("[" * 1_000_000)
    return (*PROMPTS, f"--data.path={folder / 'p.jsonl'}")


def escaping_prompts(folder, owned):
    (folder / "p.jsonl").write_text(json.dumps({"prompt": 3, "id": "\x1b]0;owned\x07"}) + "\n")
    return (*PROMPTS, f"--data.path={folder / 'p.jsonl'}")


CASES = {
    **CONFIGS,
    "a study": study,
    "a generator's config": generator_config,
    "a generator's function": generator_function,
    "code of transformers": transformers_code,
    "a pickle of transformers": transformers_pickle,
    "code of diffusers": diffusers_code,
    "code of a CLIP": clip_code,
    "code of a dataset": dataset_code,
    "counts": pickled_counts,
    "a reference": pickled_reference,
    "a file above": outside("../secret.png"),
    "an absolute file": outside("SECRET"),
    "a file of the system": outside("/etc/passwd"),
    "a link out of a tar": archive(type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    "a hard link out of a tar": archive(type=tarfile.LNKTYPE, linkname="../../etc/passwd"),
    "a device in a tar": archive(type=tarfile.CHRTYPE),
    "a tar that states a terabyte": huge_tar,
    "a sparse file of a terabyte": sparse_file,
    "a zip bomb": zip_bomb,
    "a picture bomb": picture_bomb,
    "a Parquet bomb": parquet_bomb,
    "a file without end": endless,
    "a pipe that nobody fills": waiting,
    **{f"a name with {name}": escapes(text) for name, text in ESCAPES.items()},
    "deep JSON": json_bomb,
    "an id with a title": escaping_prompts,
}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("places")
    for name in ("1.png", "2.png"):
        (folder / "a red ball").mkdir(exist_ok=True)
        (folder / "a red ball" / name).write_bytes(png())
    return {"images": str(folder)}


@pytest.mark.parametrize("case", CASES)
def test_a_hostile_file_is_one_line_and_executes_nothing(case, places, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    owned = tmp_path / "OWNED"
    (tmp_path / "toy").symlink_to(plugins.load("files", "toy"))
    tiny = config_folder() / "tiny" / "llamagen.yaml"
    there = {key: str((tiny.parent / value).resolve()) if isinstance(value, str) else value
             for key, value in yaml.safe_load(tiny.read_text()).items()}  # fmt: skip
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(there))
    words = CASES[case](tmp_path, owned)
    outcome = attempt(Case(case, words, "", in_weights="pickle" in case or "bomb" in case), places, tmp_path / "out")
    assert outcome.kind == "clear", outcome
    assert not owned.exists()
    assert printable(outcome.message) == outcome.message
    assert "root:" not in outcome.message + outcome.printed


def test_there_are_64_hostile_files():
    assert len(CASES) + len(PICKLES) >= 64
