"""`VQAScore`: how well images fit their prompt, by asking a model."""

from __future__ import annotations

from collections.abc import Sequence

from typing_extensions import override

from gendiv_lightning.errors import MetricInputError, PromptError
from gendiv_lightning.metrics.base import PromptMetric, metric_name
from gendiv_lightning.records import PromptSamples
from gendiv_lightning.scorers.base import ImageScorer


class VQAScore(PromptMetric):
    """`quality/vqa_score[TAG]`: probability of "yes" to whether an image shows its prompt, mean over samples.

    It is in [0, 1]. TAG is that of the scorer, whose `affirm` defines the question and the probability. The text is the
    original prompt, also for images of a paraphrase, because a paraphrase should keep the meaning.
    Source: Lin et al., "Evaluating Text-to-Visual Generation with Image-to-Text Generation" (2024), equation 1.

    Args:
        scorer: a model that reads text.

    Raises:
        MetricInputError: the scorer answers multiple-choice questions only, as CLIP does.
    """

    title = "probability that the images show their prompt"
    short = "VQA score"
    needs = ("images", "prompt")
    higher_is_better = True

    def __init__(self, scorer: ImageScorer) -> None:
        super().__init__()
        if not scorer.affirms:
            raise MetricInputError(
                f"the scorer {scorer.tag!r} cannot answer yes or no. Choose a model that reads text, such as "
                "vqa_score[endpoint,model=NAME], or use clip_score"
            )
        self.scorer, self.features = scorer, scorer.features

    @property
    @override
    def names(self) -> tuple[str, ...]:
        return (metric_name("quality/vqa_score", self.scorer.tag),)

    @property
    @override
    def method(self) -> str:
        return (
            f'probability of "yes" to whether the image shows the base prompt ({self.scorer.tag}), mean over samples; '
            "BCa bootstrap over prompts"
        )

    @override
    def identity(self) -> dict[str, object]:
        return {**super().identity(), "scorer": self.scorer.identity()}

    @override
    def load(self) -> None:
        self.scorer.load()

    @override
    def check_prompts(self, texts: Sequence[str]) -> None:
        """Raise ValueError for an empty prompt, or one that the scorer cannot read."""
        for text in texts:
            if not text.strip():
                raise PromptError(
                    "vqa_score requires the text of every prompt, but one is empty. Remove the prompt or the metric"
                )
            self.scorer.check_text(text)

    @override
    def measure(self, samples: PromptSamples) -> list[float]:
        self.check_prompts([samples.prompt])
        return [self.scorer.affirm(samples.images.to(self.device), samples.prompt).mean().item()]
