"""`ChatModel`: a chat model of transformers on this machine."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from gendiv_lightning.chat.model import ChatRequest, LanguageModel
from gendiv_lightning.errors import WrongWeightsError
from gendiv_lightning.weights.hash import sha256
from gendiv_lightning.weights.load import load_pretrained, reading


class ChatModel(LanguageModel[ChatRequest]):
    """A causal language model with a chat template, sampled with the seed of each request, one request at a time.

    Args:
        name: folder in the Hugging Face layout, or name on the Hub. Code in the repository is not executed.
        device: device of the model.
    """

    def __init__(self, name: str, device: str = "cpu") -> None:
        self.source, self.device = name, torch.device(device)
        self.folder = Path(name).expanduser() if Path(name).expanduser().is_dir() else None
        self.name = self.folder.resolve().name if self.folder else name
        self._model: Any = None
        self._tokenizer: Any = None

    def identity(self) -> dict[str, object]:
        """Name, hash of local weights, and the version of transformers, whose sampling may change."""
        weights = sha256(self.folder) if self.folder else None
        return {"model": self.name, "weights": weights, "transformers": version("transformers")}

    def load(self) -> None:
        """Load the model, once.

        Raises:
            MissingWeightsError: the model is not on this machine and could not be downloaded.
            WrongWeightsError: it is not a complete chat model.
        """
        if self._model is not None:
            return
        from transformers import AutoModelForCausalLM, AutoTokenizer

        source = str(self.folder or self.source)
        advice = "Pass a folder, as in --model local:FOLDER, or download the model where the Hub can be reached"
        with reading("model of --model", f"local:{self.source}", advice):
            self._tokenizer = AutoTokenizer.from_pretrained(source)
            model = load_pretrained(AutoModelForCausalLM, source, "auto")
        if self._tokenizer.chat_template is None:
            raise WrongWeightsError(
                f"--model local:{self.source} must be a chat model, but its tokenizer has no chat template. Choose "
                "another"
            )
        self._model = model.to(self.device)

    async def answer(self, request: ChatRequest) -> str:
        """Load the model if necessary and sample its answer."""
        self.load()
        tokenizer = self._tokenizer
        chat = tokenizer.apply_chat_template(request.messages, add_generation_prompt=True, tokenize=False)
        inputs = tokenizer(chat, add_special_tokens=False, return_tensors="pt").to(self.device)
        padding = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(request.seed)
            tokens = self._model.generate(
                **inputs, do_sample=True, max_new_tokens=request.longest, pad_token_id=padding
            )
        return tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
