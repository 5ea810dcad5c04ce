"""Machine and package versions of a run, for information; comparisons ignore them."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gendiv_lightning import __version__

PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "transformers", "datasets", "lpips", "numpy")


def environment() -> dict[str, Any]:
    """Python, platform, devices, package versions, and the commit of the code."""
    import torch

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] or ["CPU"],
        "versions": {"gendiv_lightning": __version__, **{name: version(name) for name in PACKAGES}},
        "source": describe_source(Path(__file__).parents[2]),
    }


def describe_source(folder: Path) -> dict[str, Any]:
    """The commit of a checkout, and whether tracked files have changed since; empty for an installed package."""
    if not (folder / ".git").exists():
        return {}
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return {"commit": commit, "is_dirty": bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):  # git is not installed, or the repository belongs to another user
        return {}


def _git(folder: Path, *words: str) -> str:
    line = ["git", "-C", str(folder), *words]
    return subprocess.run(line, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
