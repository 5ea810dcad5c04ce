"""Imports go one way, all random numbers come from `Noise`, and the command starts quickly."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A module may import from the layers above it and from its own package, never from its own layer or below.
LAYERS = [
    ["errors"],
    ["records", "storage.atomic", "functional", "plugins", "console.text"],
    ["storage.named_files"],
    ["sampling"],
    ["recorders"],
    ["storage"],
    ["weights"],
    ["text"],
    ["features"],
    ["chat"],
    ["attributes", "scorers"],
    ["prompts.design"],
    ["console.grid"],
    ["runs.schema", "runs.protocol"],
    ["runs.files", "runs.index", "runs.lock"],
    ["runs.shards"],
    ["runs.folder"],
    ["generators", "metrics"],
    ["golden"],
    ["runs"],
    ["analysis"],
    ["console"],
    ["report"],
    ["prompts"],
    ["images"],
    ["runs.assemble"],
    ["datamodules"],
    ["tracking", "api"],
    ["callbacks"],
    ["testing"],
    ["toy"],  # above everything that a plug-in uses; the commands below load it only by registered names
    ["cli.options", "cli.language_models"],
    ["cli.values"],
    ["cli.predict"],
    ["study"],
    ["cli.commands"],
    ["cli"],
]
PLACES = {name: place for place, names in enumerate(LAYERS) for name in names}
FOLDERS = {
    "gendiv_lightning": "gendiv_lightning",
    "callbacks": "gendiv_lightning.callbacks",
    "datamodules": "gendiv_lightning.datamodules",
}


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    package = FOLDERS[parts[0]]
    return ".".join([package, *(part for part in parts[1:] if part != "__init__")])


FILES = {module_name(path): path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))}


def imports(module):
    """Full names of everything that a module imports, anywhere in its code, with relative imports resolved."""
    path = FILES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *([base] if base else [])])
            submodules = {f"{base}.{alias.name}" for alias in node.names} & FILES.keys()
            yield from submodules or {base}


def layer(module):
    """The entry of `LAYERS` that a module of ours belongs to; None for the package itself, which holds nothing."""
    name = module.removeprefix("gendiv_lightning").removeprefix(".")
    entries = [entry for entry in PLACES if name == entry or name.startswith(f"{entry}.")]
    if entries or name == "":
        return max(entries, key=len, default=None)
    pytest.fail(f"{module} has no place in LAYERS: give it one")


def ours(module):
    return module == "gendiv_lightning" or module.startswith("gendiv_lightning.")


@pytest.mark.parametrize("module", FILES)
def test_imports_go_one_way(module):
    own = layer(module)
    if module == "gendiv_lightning":
        return  # the facade imports its names on first use
    for imported in filter(ours, imports(module)):
        other = layer(imported)
        if other is None or other == own:
            continue
        assert own is not None, f"{module} must not import {imported}"
        assert PLACES[other] < PLACES[own], f"{module} ({own}) must not import {imported} ({other})"


@pytest.mark.parametrize("module", FILES)
def test_only_its_command_imports_the_toy(module):
    if not (module.startswith("gendiv_lightning.toy") or module == "gendiv_lightning.cli.commands.toy"):
        assert not [name for name in imports(module) if name.startswith("gendiv_lightning.toy")]


def test_an_import_that_points_back_would_be_found():
    assert PLACES["sampling"] < PLACES["generators"] < PLACES["report"] < PLACES["callbacks"] < PLACES["cli"]
    assert layer("gendiv_lightning.generators.base") == "generators"
    assert layer("gendiv_lightning.toy.postcards") == "toy"
    found = set(imports("gendiv_lightning.callbacks.probes"))
    assert {
        "gendiv_lightning.prompts.design",
        "gendiv_lightning.sampling",
        "gendiv_lightning.storage.codebook_counts",
    } <= found
    assert "gendiv_lightning.callbacks.measure" in set(imports("gendiv_lightning.callbacks.run_writer"))  # relative
    assert "gendiv_lightning.cli.predict" in set(imports("gendiv_lightning.cli.main"))  # inside a function
    assert "gendiv_lightning.toy.postcards" in set(imports("gendiv_lightning.toy.recipes.base"))  # from a package


@pytest.mark.parametrize("module", FILES)
def test_no_module_imports_the_two_folders_by_their_bare_names(module):
    assert not {name.partition(".")[0] for name in imports(module)} & {"callbacks", "datamodules"}


ARITHMETIC = [module for module in FILES if module.split(".")[1:2] in (["functional"], ["sampling"])]


@pytest.mark.parametrize("module", ARITHMETIC)
def test_functional_and_sampling_import_torch_only(module):
    allowed = (
        {"gendiv_lightning.functional", "gendiv_lightning.errors"}
        if "functional" in module
        else {f"gendiv_lightning.{name}" for name in ("sampling", "records", "functional", "errors")}
    )
    for imported in imports(module):
        top = imported.partition(".")[0]
        is_allowed = any(imported == name or imported.startswith(f"{name}.") for name in allowed)
        assert top == "torch" or top in sys.stdlib_module_names or is_allowed, f"{module} imports {imported}"


RANDOM = re.compile(
    r"(rand|randn|randint)(_like)?|randperm|random_|uniform_|(log_)?normal_?|bernoulli_?|binomial|multinomial|poisson|"
    r"cauchy_|exponential_|geometric_|gumbel_softmax|(manual|initial)_seed|seed_everything|default_generator|fork_rng"
)


def random_names(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and RANDOM.fullmatch(node.attr):
            yield node.attr
        elif isinstance(node, ast.Name) and RANDOM.fullmatch(node.id):
            yield node.id
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names if RANDOM.fullmatch(alias.name))


INTERCEPTS = (
    "gendiv_lightning.sampling.latents"  # compares calls of other code with these functions, and calls none itself
)


def called(tree):
    """The functions of all calls, as syntax trees."""
    return ast.Module([ast.Expr(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)], type_ignores=[])


CHANCE = [module for module in FILES if module.split(".")[1:2] in (["generators"], ["sampling"])]


@pytest.mark.parametrize("module", CHANCE)
def test_all_random_numbers_come_from_keyed_noise(module):
    tree = ast.parse(FILES[module].read_text(encoding="utf-8"))
    assert not list(random_names(called(tree) if module == INTERCEPTS else tree))
    assert not {"random", "numpy.random", "secrets", "torch.distributions"} & set(imports(module))


def test_other_randomness_would_be_found():
    code = "torch.multinomial(p, 1); x.exponential_(); from torch import rand; rand(3); noise.uniform(0, 1)"
    found = list(random_names(ast.parse(code.replace("; ", "\n"))))
    assert found.count("rand") == 2
    assert set(found) == {"multinomial", "exponential_", "rand"}
    in_calls = list(random_names(called(ast.parse("torch.rand(3); f(torch.randn); torch.randn_like"))))
    assert in_calls == ["rand"]
    assert len(CHANCE) >= 6
    assert len(ARITHMETIC) >= 8


HEAVY = {"torch", "lightning", "transformers", "numpy", "datasets", "huggingface_hub", "pyarrow", "PIL", "safetensors"}
RUN = "from gendiv_lightning.cli.main import main\ntry:\n    main({})\nexcept SystemExit:\n    pass"
START = {
    "import": "import gendiv_lightning.cli.main",
    "help": RUN.format(["--help"]),
    "doctor help": RUN.format(["doctor", "--help"]),
}


@pytest.mark.parametrize("code", START.values(), ids=START.keys())
def test_the_command_starts_without_the_heavy_libraries(code):
    program = f"{code}\nimport sys\nsys.stderr.write(' '.join(sys.modules))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "gendiv_lightning.cli" in result.stderr.split()
    assert not HEAVY & set(result.stderr.split())
