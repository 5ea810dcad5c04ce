"""How near a paraphrase is to its prompt: by CLIP's text tower, a sentence encoder, or a model of entailment.

Texts are encoded one by one: no number depends on which texts came together.
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

from gendiv_lightning.errors import WrongWeightsError
from gendiv_lightning.features.clip import DEFAULT_BACKBONE
from gendiv_lightning.features.registry import clip_of
from gendiv_lightning.weights.hash import sha256
from gendiv_lightning.weights.load import load_pretrained, reading


class Similarity(ABC):
    """A number of a prompt and a text: 1 says the same."""

    name: str

    @abstractmethod
    def identity(self) -> dict[str, object]:
        """All that can change a number."""

    @abstractmethod
    def load(self) -> None:
        """Load the model; OSError if it cannot be had, ValueError if it is none of its kind."""

    @abstractmethod
    def score(self, prompt: str, text: str) -> float:
        """Similarity of a text to its prompt."""


class ClipSimilarity(Similarity):
    """Cosine of CLIP's text features, in [-1, 1]; a text longer than the context is the mean of its pieces.

    Args:
        backbone: as in the brackets of `clip_score[...]`.
        device: where it runs.
    """

    def __init__(self, backbone: str, device: str = "cpu") -> None:
        self.features = clip_of(backbone).to(device)
        self.name = DEFAULT_BACKBONE if self.features.label == DEFAULT_BACKBONE else self.features.tag
        self._encode = lru_cache(maxsize=64)(lambda text: self.features.chunk_texts([text])[0].double().cpu())

    def identity(self) -> dict[str, object]:
        """Backbone and hash of its weights."""
        return self.features.identity()

    def load(self) -> None:
        """See `Similarity`."""
        self.features.load()

    def score(self, prompt: str, text: str) -> float:
        """See `Similarity`."""
        return float(self._encode(prompt) @ self._encode(text))


class _Transformer:
    """A model of transformers and its tokenizer, by folder or Hub name; no code of the repository is run."""

    def __init__(self, name: str, device: str) -> None:
        folder = Path(name).expanduser()
        self.source, self.device = str(folder if folder.is_dir() else name), device
        self.label = folder.resolve().name if folder.is_dir() else name
        self.weights = sha256(folder) if folder.is_dir() else None

    def load(self, model_class: Any, kind: str) -> None:
        from transformers import AutoTokenizer

        advice = "Give --similarity a folder, or load it once where the Hub can be reached"
        with reading("model of --similarity", f"{kind}:{self.label}", advice):
            self.tokenizer: Any = AutoTokenizer.from_pretrained(self.source)
            # Means over tokens are taken: the pooler is not used.
            self.model: Any = load_pretrained(model_class, self.source, optional=("pooler",)).to(self.device)

    @torch.inference_mode()
    def run(self, *texts: str) -> tuple[Any, Tensor]:
        """Outputs for one text or a pair, and which of its tokens count, (1, T)."""
        inputs = self.tokenizer(*texts, truncation=True, return_tensors="pt").to(self.device)
        return self.model(**inputs), inputs["attention_mask"]


class SentenceSimilarity(Similarity):
    """Cosine of a sentence encoder's mean token features, in [-1, 1].

    Source: Reimers and Gurevych, "Sentence-BERT" (2019), section 3.

    Args:
        name: folder or Hub name, such as sentence-transformers/all-MiniLM-L6-v2.
        device: where it runs.
    """

    def __init__(self, name: str, device: str = "cpu") -> None:
        self._network = _Transformer(name, device)
        self.name = f"sentence:{self._network.label}"
        self._encode = lru_cache(maxsize=64)(self._features)

    def identity(self) -> dict[str, object]:
        """Encoder and hash of its weights."""
        return {"encoder": self._network.label, "weights": self._network.weights}

    def load(self) -> None:
        """See `Similarity`."""
        from transformers import AutoModel

        self._network.load(AutoModel, "sentence")

    def score(self, prompt: str, text: str) -> float:
        """See `Similarity`."""
        return float(self._encode(prompt) @ self._encode(text))

    def _features(self, text: str) -> Tensor:
        output, counts = self._network.run(text)
        states, weights = output.last_hidden_state[0].double().cpu(), counts[0].double().cpu()
        return F.normalize((weights @ states) / weights.sum(), dim=0)


class MutualEntailment(Similarity):
    """The smaller of P(the prompt entails the text) and P(the text entails the prompt), in [0, 1].

    A text that adds something is entailed in one direction only, and so is one that leaves something out.

    Args:
        name: folder or Hub name of a classifier of pairs, one of whose labels is "entailment".
        device: where it runs.
    """

    def __init__(self, name: str, device: str = "cpu") -> None:
        self._network = _Transformer(name, device)
        self.name = f"nli:{self._network.label}"

    def identity(self) -> dict[str, object]:
        """Classifier and hash of its weights."""
        return {"classifier": self._network.label, "weights": self._network.weights}

    def load(self) -> None:
        """See `Similarity`."""
        from transformers import AutoModelForSequenceClassification

        self._network.load(AutoModelForSequenceClassification, "nli")
        labels = {label.lower(): number for number, label in self._network.model.config.id2label.items()}
        if "entailment" not in labels:
            raise WrongWeightsError(f"--similarity {self.name} has no label entailment, only {', '.join(labels)}")
        self._entailment = labels["entailment"]

    def score(self, prompt: str, text: str) -> float:
        """See `Similarity`."""
        return min(self._entails(prompt, text), self._entails(text, prompt))

    def _entails(self, premise: str, hypothesis: str) -> float:
        output, _ = self._network.run(premise, hypothesis)
        return float(output.logits[0].double().softmax(0)[self._entailment])


_KINDS: dict[str, Callable[[str, str], Similarity]] = {"sentence": SentenceSimilarity, "nli": MutualEntailment}


def make_similarity(name: str, device: str = "cpu") -> Similarity:
    """The similarity of a name: a CLIP as in `clip_score[...]`, `sentence:NAME` or `nli:NAME`.

    Raises:
        ValueError: there is no such CLIP.
    """
    kind, _, model = name.partition(":")
    return _KINDS[kind](model, device) if kind in _KINDS and model else ClipSimilarity(name, device)
