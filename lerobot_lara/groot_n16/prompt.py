"""Prompts of GR00T N1.6: the instruction, then the images, as tokens."""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

# Tokens that the release adds to Qwen3's own, in the order of their ids.
IMAGE_TOKEN, IMAGE_START, IMAGE_END = "<IMG_CONTEXT>", "<img>", "</img>"
PROMPT = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n{instruction}{images}<|im_end|>\n"
)


def formalize(instruction: str) -> str:
    """Lower case, without punctuation."""
    return re.sub(r"[^\w\s]", "", instruction.lower())


class PromptTokenizer:
    """Writes prompts as token ids, padded on the left.

    Args:
        name: Hub id or folder of Qwen3's tokenizer; the tokens of images are added if it lacks them.
        image_token_id: Id that the model knows the image token by.
        formalize_language: Lower the case of instructions and leave out punctuation, as in the release's training.

    Raises:
        ValueError: The tokenizer cannot be loaded, or gives the image token another id.
    """

    def __init__(self, name: str, *, image_token_id: int, formalize_language: bool) -> None:
        from transformers import AutoTokenizer

        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"`tokenizer` is {name!r}, which cannot be loaded ({' '.join(str(error).split())}). Pass "
                "--policy.tokenizer=<folder or Hub id of the tokenizer of Qwen3>."
            ) from error
        self._tokenizer.add_tokens([IMAGE_TOKEN, IMAGE_START, IMAGE_END], special_tokens=True)
        found = self._tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        if found != image_token_id:
            raise ValueError(
                f"`image_token_id` is {image_token_id}; it must be {found}, which the tokenizer {name!r} gives to "
                f"{IMAGE_TOKEN}. Pass the tokenizer that the weights were trained with as --policy.tokenizer=..."
            )
        self._formalize = formalize_language

    def __call__(self, instructions: Sequence[str], tokens_per_image: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Writes one prompt per instruction, all with the same images.

        Args:
            instructions: B texts.
            tokens_per_image: Image tokens of each camera, in order.

        Returns:
            Token ids (B, L) int64, and (B, L) bool, True at real tokens.
        """
        images = "".join(
            f"<image {number}>{IMAGE_START}{IMAGE_TOKEN * count}{IMAGE_END}"
            for number, count in enumerate(tokens_per_image, start=1)
        )
        texts = [
            PROMPT.format(instruction=formalize(text) if self._formalize else text, images=images)
            for text in instructions
        ]
        encoded = self._tokenizer(texts, padding=True, padding_side="left", return_tensors="pt")
        return encoded["input_ids"], encoded["attention_mask"].to(torch.bool)
