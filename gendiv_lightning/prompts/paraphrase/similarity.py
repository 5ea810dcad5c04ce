"""Similarity of a paraphrase to its prompt: by CLIP's text tower, a sentence encoder, or an entailment classifier.

Texts are encoded one at a time, so that no number depends on the batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from gendiv_lightning.errors import WrongWeightsError
from gendiv_lightning.features.clip import DEFAULT_BACKBONE
from gendiv_lightning.features.registry import clip_of
from gendiv_lightning.weights.hash import sha256
from gendiv_lightning.weights.load import load_pretrained, reading


class Similarity(ABC):
    """A similarity of a prompt and a text; 1 means the same meaning."""

    name: str

    @abstractmethod
    def identity(self) -> dict[str, object]:
        """Everything that can change a number."""

    @abstractmethod
    def load(self) -> None:
        """Load the model; raises OSError if it is not available, ValueError if it is of another kind."""

    @abstractmethod
    def score(self, prompt: str, text: str) -> float:
        """Similarity of a text to its prompt."""


class ClipSimilarity(Similarity):
    """Cosine similarity of CLIP's text features, in [-1, 1]; a text longer than the context is the mean of its chunks.

    Args:
        backbone: as in the brackets of `clip_score[...]`.
        device: device of the model.
    """

    def __init__(self, backbone: str, device: str = "cpu") -> None:
        self.features = clip_of(backbone).to(device)
        self.name = DEFAULT_BACKBONE if self.features.label == DEFAULT_BACKBONE else self.features.tag
        self._encode = lru_cache(maxsize=64)(lambda text: self.features.chunk_texts([text])[0].double().cpu())

    def identity(self) -> dict[str, object]:
        """Backbone and hash of its weights."""
        return self.features.identity()

    @override
    def load(self) -> None:
        self.features.load()

    @override
    def score(self, prompt: str, text: str) -> float:
        return float(self._encode(prompt) @ self._encode(text))


class _Transformer:
    """A model of transformers with its tokenizer, by folder or Hub name; code in the repository is not executed."""

    def __init__(self, name: str, device: str) -> None:
        folder = Path(name).expanduser()
        self.source, self.device = str(folder if folder.is_dir() else name), device
        self.label = folder.resolve().name if folder.is_dir() else name
        self.weights = sha256(folder) if folder.is_dir() else None

    def load(self, model_class: Any, kind: str) -> None:
        from transformers import AutoTokenizer

        advice = "Pass a folder to --similarity, or download the model where the Hub can be reached"
        with reading("model of --similarity", f"{kind}:{self.label}", advice):
            self.tokenizer: Any = AutoTokenizer.from_pretrained(self.source)
            # Features are means over tokens, so the pooler is not needed.
            self.model: Any = load_pretrained(model_class, self.source, optional=("pooler",)).to(self.device)

    @torch.inference_mode()
    def run(self, *texts: str) -> tuple[Any, Tensor]:
        """Outputs for one text or a pair, and its attention mask (1, T)."""
        inputs = self.tokenizer(*texts, truncation=True, return_tensors="pt").to(self.device)
        return self.model(**inputs), inputs["attention_mask"]


class SentenceSimilarity(Similarity):
    """Cosine similarity of a sentence encoder's mean token features, in [-1, 1].

    Source: Reimers and Gurevych, "Sentence-BERT" (2019), section 3.

    Args:
        name: folder or Hub name, such as sentence-transformers/all-MiniLM-L6-v2.
        device: device of the model.
    """

    def __init__(self, name: str, device: str = "cpu") -> None:
        self._network = _Transformer(name, device)
        self.name = f"sentence:{self._network.label}"
        self._encode = lru_cache(maxsize=64)(self._features)

    def identity(self) -> dict[str, object]:
        """Encoder and hash of its weights."""
        return {"encoder": self._network.label, "weights": self._network.weights}

    @override
    def load(self) -> None:
        from transformers import AutoModel

        self._network.load(AutoModel, "sentence")

    @override
    def score(self, prompt: str, text: str) -> float:
        return float(self._encode(prompt) @ self._encode(text))

    def _features(self, text: str) -> Tensor:
        output, counts = self._network.run(text)
        states, weights = output.last_hidden_state[0].double().cpu(), counts[0].double().cpu()
        return F.normalize((weights @ states) / weights.sum(), dim=0)


class MutualEntailment(Similarity):
    """The smaller of P(the prompt entails the text) and P(the text entails the prompt), in [0, 1].

    A text that adds or omits something is entailed in one direction only.

    Args:
        name: folder or Hub name of a classifier of text pairs with the label "entailment".
        device: device of the model.
    """

    def __init__(self, name: str, device: str = "cpu") -> None:
        self._network = _Transformer(name, device)
        self.name = f"nli:{self._network.label}"

    def identity(self) -> dict[str, object]:
        """Classifier and hash of its weights."""
        return {"classifier": self._network.label, "weights": self._network.weights}

    @override
    def load(self) -> None:
        from transformers import AutoModelForSequenceClassification

        self._network.load(AutoModelForSequenceClassification, "nli")
        labels = {label.lower(): number for number, label in self._network.model.config.id2label.items()}
        if "entailment" not in labels:
            raise WrongWeightsError(
                f"--similarity {self.name} has the labels {', '.join(labels)}, not entailment. Choose an NLI classifier"
            )
        self._entailment = labels["entailment"]

    @override
    def score(self, prompt: str, text: str) -> float:
        return min(self._entails(prompt, text), self._entails(text, prompt))

    def _entails(self, premise: str, hypothesis: str) -> float:
        output, _ = self._network.run(premise, hypothesis)
        return float(output.logits[0].double().softmax(0)[self._entailment])


_KINDS: dict[str, Callable[[str, str], Similarity]] = {"sentence": SentenceSimilarity, "nli": MutualEntailment}


def make_similarity(name: str, device: str = "cpu") -> Similarity:
    """The similarity of a name: a CLIP as in `clip_score[...]`, `sentence:NAME` or `nli:NAME`.

    Raises:
        ValueError: the name is not that of a CLIP.
    """
    kind, _, model = name.partition(":")
    return _KINDS[kind](model, device) if kind in _KINDS and model else ClipSimilarity(name, device)
