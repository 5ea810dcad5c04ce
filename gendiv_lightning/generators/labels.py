"""Class labels as prompts."""

from gendiv_lightning.errors import PromptError


def read_label(text: str, num_classes: int) -> int:
    """Parse a prompt as a class number.

    Raises:
        ValueError: the prompt is not a class number.
    """
    if not text.strip().isdecimal() or int(text) >= num_classes:
        classes = f"class numbers from 0 to {num_classes - 1}"
        raise PromptError(f"prompts of a class-to-image model must be {classes}, got {text!r}. Correct the prompt set")
    return int(text)
