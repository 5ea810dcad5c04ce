"""Run the tutorials: `python docs/tutorials/execute.py [NAME ...]` stores new outputs, `--check` only runs them.

Each notebook runs in an empty folder, with the `gendiv` of this environment. `stable_diffusion.ipynb` needs a GPU, and
`real_photos.ipynb` the folder `GENDIV_REAL_WEIGHTS` (see tests/real_files.py): they are left out unless they are named.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent
NEEDS_MORE = {"stable_diffusion", "real_photos"}


def execute(path: Path) -> nbformat.NotebookNode:
    """The notebook with the outputs of a new kernel; progress bars and times of execution are left out."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(
            notebook, timeout=600, record_timing=False, coalesce_streams=True, resources={"metadata": {"path": folder}}
        ).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            check_commands(cell)
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for output in cell.outputs:
                output.get("data", {}).pop("image/jpeg", None)  # the same picture as image/png
    return notebook


def check_commands(cell: nbformat.NotebookNode) -> None:
    """IPython ignores the exit status of `!gendiv`, so look for the line of its errors; the tag `fails` expects one."""
    text = "".join(output.get("text", "") for output in cell.outputs)
    failed = re.search(r"^.*error GD\d+: .*|^.*No such file or directory", text, flags=re.MULTILINE)
    if bool(failed) != ("fails" in cell.metadata.get("tags", [])):
        raise SystemExit(f"{cell.source}\n\n{text}\n" + ("failed" if failed else "was expected to fail"))


def main() -> None:
    """Run the notebooks that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="notebooks without .ipynb (default: all that need nothing else)")
    parser.add_argument("--check", action="store_true", help="run them and store nothing")
    arguments = parser.parse_args()
    names = arguments.names or sorted({path.stem for path in HERE.glob("*.ipynb")} - NEEDS_MORE)
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    os.environ.update(WANDB_MODE="offline", COLUMNS="110", TQDM_DISABLE="1")
    for name in names:
        path = HERE / f"{name}.ipynb"
        notebook = execute(path)
        if not arguments.check:
            nbformat.write(notebook, path)
        print(f"{path.name}: {sum(cell.cell_type == 'code' for cell in notebook.cells)} cells")


if __name__ == "__main__":
    main()
