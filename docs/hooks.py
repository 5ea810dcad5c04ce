"""MkDocs calls these functions: pages that are made from code at build time, and links that leave docs/.

- The API pages, one per package, are made from its docstrings.
- The command page is made from the parsers, the page of config keys from signatures and docstrings.
- Pages of the repository that lie elsewhere, such as CHANGELOG.md, become pages of the site.
- Notebooks become pages with their stored outputs.

So none of these can be out of date. Links to files that the site does not have keep their text and lose their target.
"""

from __future__ import annotations

import ast
import base64
import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]

# Pages of the site that lie outside docs/ in the repository.
ELSEWHERE = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "explanation/benchmarks.md",
    "examples/README.md": "how-to/examples.md",
    "gendiv_lightning/toy/README.md": "reference/toy-models.md",
}

# The packages that the API pages document, and what each is for.
PACKAGES = {
    "callbacks": "Probes, designs and the callbacks of a run",
    "datamodules": "Prompts and images as LightningDataModules",
    "generators": "Generators of every family",
    "sampling": "Noise, samplers and the sampling loops",
    "recorders": "Observers of the sampling loop",
    "records": "The records that travel through a run",
    "metrics": "Metrics and the registry of their names",
    "features": "Feature networks",
    "attributes": "Attribute lists: what prompts leave open and state",
    "scorers": "Models that answer questions about images",
    "functional": "Estimators as pure functions of tensors",
    "prompts": "Prompt files, prompt sets and paraphrases",
    "images": "Readers of images",
    "runs": "Run folders",
    "analysis": "Comparisons, decompositions and verdicts over runs",
    "testing": "The contract tests of generators",
}
MOVED = {name: ROOT / name for name in ("callbacks", "datamodules", "configs")}  # as setup.py installs them

_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
_FENCE = re.compile(r"^(```.*?^```[^\n]*$)", flags=re.MULTILINE | re.DOTALL)


def _layout() -> str:
    """A folder in which the package lies as it is installed, for tools that read its files without importing it."""
    folder = tempfile.mkdtemp(prefix="gendiv-docs-")
    package = Path(folder, "gendiv_lightning")
    package.mkdir()
    for path in (ROOT / "gendiv_lightning").iterdir():
        (package / path.name).symlink_to(path)
    for name, path in MOVED.items():
        (package / name).symlink_to(path)
    return folder


@event_priority(100)  # before mkdocstrings reads its options
def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Show mkdocstrings the package as it is installed."""
    handlers = config.plugins["mkdocstrings"].config["handlers"]
    handlers["python"]["paths"] = [_layout()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    for path, content in generated_pages():
        files.append(File.generated(config, path, content=content))
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        files.remove(notebook)
        for path, content in notebook_pages(Path(config.docs_dir, notebook.src_uri)):
            uri = str(PurePosixPath(notebook.src_uri).with_name(path))
            files.append(File.generated(config, uri, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to the pages of this site; one to a file that the site does not have keeps its text alone."""
    sources = {page: source for source, page in ELSEWHERE.items()}
    source = sources.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    parts = _FENCE.split(markdown)
    parts[::2] = [_LINK.sub(lambda link: _lead(link, source, page.file.src_uri, files), part) for part in parts[::2]]
    return "".join(parts)


def _lead(link: re.Match[str], source: str, page: str, files: Files) -> str:
    """A link of a file of the repository, as the site needs it."""
    path, hash_mark, anchor = link[3].partition("#")
    if not path or re.match(r"[a-z]+:", path):
        return link[0]
    target = os.path.normpath(os.path.join(os.path.dirname(source), path))
    if target in ELSEWHERE:
        uri = ELSEWHERE[target]
    elif target.startswith("docs/"):
        uri = target.removeprefix("docs/").replace(".ipynb", ".md")
        if source == f"docs/{page}" and uri == target.removeprefix("docs/"):
            return link[0]  # MkDocs follows it, and says so if it leads nowhere
    else:
        if not (ROOT / target).exists():
            raise ValueError(f"{source} links to {path}, which does not exist. Correct the link")
        return link[2]
    relative = os.path.relpath(uri, os.path.dirname(page) or ".")
    return f"{link[1]}[{link[2]}]({relative}{hash_mark}{anchor})"


def generated_pages() -> Iterator[tuple[str, str]]:
    """Paths below docs/ and contents of the pages that are made from code or that lie elsewhere."""
    for source, path in ELSEWHERE.items():
        yield path, (ROOT / source).read_text(encoding="utf-8")
    for name, title in PACKAGES.items():
        modules = "\n\n".join(f"::: gendiv_lightning.{module}" for module in _modules(name))
        yield f"reference/api/{name}.md", f"# {name}\n\n{title}.\n\n{modules}\n"
    yield "reference/cli.md", cli_page()
    yield "reference/config-keys.md", config_page()


def _modules(package: str) -> Iterator[str]:
    """The modules below a package that define something public, such as `sampling.noise`."""
    folder = MOVED.get(package, ROOT / "gendiv_lightning" / package)
    for path in sorted(folder.rglob("*.py")):
        parts = [package, *path.relative_to(folder).with_suffix("").parts]
        body = ast.parse(path.read_text(encoding="utf-8")).body
        names = [node.name for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
        if any(not name.startswith("_") for name in names) and not any(part.startswith("_") for part in parts):
            yield ".".join(parts)


def cli_page() -> str:
    """The help of every command."""
    os.environ |= {"COLUMNS": "100", "NO_COLOR": "1"}
    from jsonargparse import ArgumentParser

    from gendiv_lightning.cli import main, predict

    parser = main.build_parser()
    (subparsers,) = [action for action in parser._actions if action.choices and action.dest == "command"]
    commands = {subparser.prog.split()[-1]: subparser for subparser in subparsers.choices.values()}
    lines = [
        "# Commands",
        "This page is the `--help` of every command. `gendiv predict`, `validate` and their long forms "
        "`gendiv fit-free predict` and `gendiv fit-free validate` take a config.",
        "Every value of a config can be set on the command line: `--data.num_samples 16`. "
        "[Config keys](config-keys.md) lists them all.",
    ]
    run = ArgumentParser(prog="gendiv predict", add_help=False, description=predict.DESCRIPTION.strip())
    run.formatter_class = type("Raw", (run.formatter_class, predict.RawDescriptionHelpFormatter), {})
    predict.Config.add_arguments_to_parser(None, run)  # type: ignore[arg-type]
    lines += ["## predict, validate", "```text\n" + run.format_help().strip() + "\n```"]
    for name, command in commands.items():
        if name not in ("predict", "validate", "fit-free"):
            lines += [f"## {name}", "```text\n" + command.format_help().strip() + "\n```"]
    return "\n\n".join(lines) + "\n"


def config_page() -> str:
    """The keys of a config: the arguments of the classes that it may name."""
    from griffe import GriffeLoader

    loader = GriffeLoader(search_paths=[_layout()], docstring_parser="google")
    loader.load("gendiv_lightning", try_relative_path=False)
    loader.resolve_aliases()
    lines = [
        "# Config keys",
        "A config names a `model`, the `data`, the `probes` and what to `measure`. The keys of each are the "
        "arguments of its class. The same keys work on the command line: `--model.temperature 0.9`.",
    ]
    for title, key, note, classes in config_classes():
        lines += [f"## {title}", note]
        for name, path in classes:
            found = loader.modules_collection[path]
            found = found.final_target if found.is_alias else found
            lines += [f"### {name}", found.docstring.value.split("\n\n")[0].replace("\n", " ")]
            lines += _keys(found, key)
    return "\n\n".join(lines) + "\n"


def config_classes() -> Iterator[tuple[str, str, str, list[tuple[str, str]]]]:
    """Sections of the page of config keys: title, key, a sentence, and the classes with their paths."""
    from gendiv_lightning import plugins

    def registered(group: str) -> list[tuple[str, str]]:
        entries = plugins.registered(group).items()
        return [(name, entry.target.replace(":", ".")) for name, entry in entries if ".toy." not in entry.target]

    yield "Generators", "model", "`model:` in a config.", registered("generators")
    data = [(name, f"gendiv_lightning.datamodules.{name}") for name in ("PromptData", "ImageData")]
    yield "Data", "data", "`data:` in a config. `predict` needs prompts, `validate` needs images.", data
    yield "Probes and designs", "probes", "A list, `probes:` in a config.", registered("probes")
    measure = [("Measure", "gendiv_lightning.callbacks.measure.Measure")]
    yield "Measure", "measure", "`measure:` in a config.", measure
    note = "Names in `metrics:` of `measure`, and options in their brackets: `vendi[dinov2,q=2]`."
    yield "Options of metrics", "metrics", note, registered("metrics")
    note = "In the brackets of `attributes` and `vqa_score`, after the scorer: `vqa_score[endpoint,model=NAME]`."
    yield "Options of scorers", "metrics", note, registered("scorers")


def _keys(found: Any, key: str) -> list[str]:
    """The table of the arguments of a class, or a sentence where it has none."""
    described: dict[str, str] = {}
    for member in [found, *found.mro()]:
        for section in member.docstring.parse("google", warnings=False) if member.docstring else []:
            if section.kind.value == "parameters":
                described = {p.name: " ".join(p.description.split()) for p in section.value} | described
    constructor = found.all_members.get("__init__")
    parameters = [p for p in constructor.parameters if p.name != "self"] if constructor else []
    if not parameters:
        return ["It has no keys."]
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for p in parameters:
        default = "required" if p.default is None else f"`{p.default}`"
        meaning = described.get(p.name, "").replace("|", r"\|")
        rows.append(f"| `{p.name}` | {_type(str(p.annotation))} | {default} | {meaning} |")
    return ["\n".join(rows)]


def _type(annotation: str) -> str:
    """A type in words: `Literal['a', 'b'] | None` is "'a', 'b' or None"; a bar would end the cell of a table."""
    kinds = [re.sub(r"Literal\[(.*)\]", r"\1", kind.strip()) for kind in annotation.split(" | ")]
    return " or ".join(", ".join(f"`{part}`" for part in re.split(r", (?=')", kind)) for kind in kinds)


def notebook_pages(path: Path) -> Iterator[tuple[str, str | bytes]]:
    """A notebook as a page and its pictures: code, printed text and PNG outputs, as they are stored in it."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    parts = []
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                name = f"{path.stem}-{len(parts)}.png"
                yield name, base64.b64decode(data["image/png"])
                parts.append(f"![output]({name})")
            elif output.get("name") != "stderr":
                text = "".join(output.get("text", data.get("text/plain", "")))
                parts.append(f"```text\n{text.rstrip()}\n```")
    parts.append(f"*This page is the notebook `docs/tutorials/{path.name}`.*")
    yield f"{path.stem}.md", "\n\n".join(parts) + "\n"
