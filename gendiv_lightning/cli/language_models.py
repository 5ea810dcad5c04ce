"""Options of commands that ask a language model about prompts, and what they name."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gendiv_lightning.errors import ConfigValueError, DamagedRunError, FileFormatError

if TYPE_CHECKING:
    from gendiv_lightning.chat.model import ChatRequest, LanguageModel


def add_request_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the requests, and of the prompts that they are about."""
    parser.add_argument("--seed", type=int, default=0, help="seed of the requests (default: 0)")
    parser.add_argument(
        "--concurrency", type=int, default=8, metavar="N", help="maximum number of parallel requests (default: 8)"
    )
    parser.add_argument(
        "--timeout", type=float, default=120, metavar="SECONDS", help="timeout of a request (default: 120)"
    )
    parser.add_argument(
        "--instruction",
        type=Path,
        metavar="FILE",
        help="file with an instruction for the model that replaces the default",
    )
    parser.add_argument("--column", help="column with the prompts (default: prompt, caption, text, short_caption)")
    parser.add_argument("--limit", type=int, metavar="N", help="use only the first N prompts")
    parser.add_argument("--device", default="cpu", help="device for local models: cpu, cuda (default: cpu)")


def check_positive(arguments: argparse.Namespace, names: Sequence[str]) -> None:
    """Raise ConfigValueError for an option that is given and not above 0."""
    for name in names:
        value = getattr(arguments, name)
        if value is not None and value <= 0:
            raise ConfigValueError(f"--{name.replace('_', '-')} must be above 0, got {value}. Give a positive number")


def read_instruction(path: Path) -> str:
    """The instruction for a model in the file of `--instruction`."""
    from gendiv_lightning.storage.files import check_regular

    check_regular(path)
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise FileFormatError(f"--instruction {path} is not UTF-8 text: {error}. Save it as UTF-8") from error


def language_model(arguments: argparse.Namespace) -> LanguageModel[ChatRequest]:
    """The chat model of `--model`: `local:NAME`, or a name at an endpoint."""
    from gendiv_lightning.chat.endpoint import Endpoint
    from gendiv_lightning.chat.local import ChatModel

    kind, _, name = arguments.model.partition(":")
    if kind == "local" and name:
        return ChatModel(name, arguments.device)
    return Endpoint(arguments.model, arguments.timeout)


def license_of(prompts: Path) -> Any:
    """The license in the metadata of a prompt set, if there is one: a text, or several on the Hub."""
    from gendiv_lightning.runs.files import read_json

    card = prompts.with_suffix(".card.json")
    if not card.is_file():
        return None
    try:
        source = read_json(card).get("source", {})
    except DamagedRunError as error:
        raise FileFormatError(f"{card} is not a JSON object. Restore or delete it") from error
    if not isinstance(source, dict):
        raise FileFormatError(f"{card}: source must be an object, got {source!r:.80}. Correct it, or delete the file")
    return source.get("license")
