"""Vision-language models (VLMs) of transformers: which there are, how they are loaded, and their prompts.

A VLM sees the camera images and the instruction as one sequence of tokens; the policy attends to the hidden states of
one of its layers (paper §3; GR00T N1.5 uses layer 12 of 28). Layers above that one are not built.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from lerobot_lara.backbones.pretrained import first_line, load_transformers


@dataclass(frozen=True)
class Preset:
    """A model known by a short name.

    Args:
        repo_id: Where its weights are on the Hub.
        layer: Hidden state that policies use unless they choose one.
        image_size: Side of the square to which camera images are resized, in pixels.
    """

    repo_id: str
    layer: int
    image_size: int


# Half of the language model, as in SmolVLA, where no reference says otherwise; layer 12 is GR00T N1.5's of the same
# language model. Licenses: SmolVLM2 and Qwen3-VL Apache-2.0; Qwen2.5-VL-3B's forbids commercial use; PaliGemma's terms
# have to be accepted on the Hub.
PRESETS = {
    "smolvlm2-256m": Preset("HuggingFaceTB/SmolVLM2-256M-Video-Instruct", layer=15, image_size=512),
    "smolvlm2-500m": Preset("HuggingFaceTB/SmolVLM2-500M-Video-Instruct", layer=16, image_size=512),
    "qwen3-vl-2b": Preset("Qwen/Qwen3-VL-2B-Instruct", layer=12, image_size=224),
    "qwen2.5-vl-3b": Preset("Qwen/Qwen2.5-VL-3B-Instruct", layer=18, image_size=224),
    "paligemma-3b": Preset("google/paligemma-3b-pt-224", layer=9, image_size=224),
}
RANDOM = "random:"
DEFAULT_IMAGE_SIZE = 224


def preset_of(name: str) -> Preset | None:
    """Returns the preset of a short name or of a Hub id; None if there is none."""
    source = name.removeprefix(RANDOM)
    return PRESETS.get(source) or next((one for one in PRESETS.values() if one.repo_id == source), None)


def repo_id_of(name: str) -> str:
    """Returns the Hub id or folder by which transformers knows a model."""
    source = name.removeprefix(RANDOM)
    return PRESETS[source].repo_id if source in PRESETS else source


def image_size_of(name: str, *, chosen: int | None = None) -> int:
    """Returns the side in pixels of the square to which a model's images are resized.

    Args:
        name: As for `load_vision_language_model`.
        chosen: The user's choice; None takes the preset's, else the model's own.

    Raises:
        ValueError: If the model's configuration is needed and cannot be loaded.
    """
    if chosen is not None:
        return chosen
    preset = preset_of(name)
    if preset is not None:
        return preset.image_size
    # Models with a fixed grid of image tokens state its size; the others take any.
    vision = getattr(_load_config(name), "vision_config", None)
    return getattr(vision, "image_size", None) or DEFAULT_IMAGE_SIZE


def load_vision_language_model(name: str, *, layer: int | None) -> tuple[nn.Module, int]:
    """Loads a VLM up to one hidden state of its language model, in float32, without its output head.

    Args:
        name: A name of `PRESETS`, a Hub id or a folder. The prefix `random:` builds the same architecture with seeded
            random weights.
        layer: Hidden state to end with: 0 is the embedded sequence, i the output of layer i. None is the preset's,
            or half of the layers.

    Returns:
        The model, whose `last_hidden_state` is that hidden state, and the layer.

    Raises:
        ValueError: If the model cannot be loaded, takes no images, has no such layer, or has an unknown structure.
    """
    import transformers

    random, source = name.startswith(RANDOM), repo_id_of(name)
    config = _load_config(name)
    if type(config) not in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise ValueError(
            f"`vlm` is {name!r}, a {config.model_type!r} model, which takes no images; it must be an image-text-to-"
            f"text model. Pass --policy.vlm=... with one of {', '.join(PRESETS)} or another; for text alone there is "
            "`text_encoder`."
        )
    text = config.get_text_config()
    depth = text.num_hidden_layers
    if layer is None:
        preset = preset_of(name)
        layer = depth // 2 if preset is None else preset.layer
    if not 0 <= layer <= depth:
        raise ValueError(
            f"`vlm_layer` is {layer}, but the language model of `vlm={name}` has the hidden states 0 (its input) to "
            f"{depth}. Pass --policy.vlm_layer=... with one of these."
        )
    text.num_hidden_layers = layer
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:layer]
    model_class = transformers.AutoModelForImageTextToText
    with torch.random.fork_rng(devices=[], enabled=random):
        if random:
            torch.default_generator.manual_seed(0)  # frozen weights are not stored, so the name decides them
        try:
            with _quiet():
                model = load_transformers(model_class, source, config, random=random).model
        except Exception as error:
            raise _unavailable(name, error) from error
    decoder: Any = model.get_decoder() if hasattr(model, "get_decoder") else None
    if (
        not hasattr(decoder, "norm")
        or not hasattr(decoder, "layers")
        or not hasattr(config, "image_token_id")
    ):
        raise ValueError(
            f"`vlm` is {name!r}, a {config.model_type!r} model; it must be built like SmolVLM, Qwen-VL or PaliGemma. "
            "Pass --policy.vlm=... with a model of one of these families."
        )
    if layer < depth:
        # The norm after the last layer was trained for that layer's output only.
        decoder.norm = nn.Identity()
    return model, layer


def check_instructions(instructions: Sequence[str]) -> None:
    """Refuses empty instructions.

    Args:
        instructions: Any number of them.

    Raises:
        ValueError: If one is empty.
    """
    if not all(instruction.strip() for instruction in instructions):
        raise ValueError(
            "`task` is empty; it must be an instruction, since `conditioning` is 'vlm'. Give the dataset's episodes "
            "(or the environment) one, or train with --policy.conditioning=encoders --policy.text_encoder=null."
        )


def load_processor(name: str) -> Any:
    """Loads the model's own processor (tokenizer, chat template and image processor).

    Args:
        name: As for `load_vision_language_model`.

    Raises:
        ValueError: If it cannot be loaded, or has no image processor.
    """
    import transformers

    try:
        processor = transformers.AutoProcessor.from_pretrained(repo_id_of(name))
    except Exception as error:
        raise _unavailable(name, error) from error
    if getattr(processor, "image_processor", None) is None:
        raise ValueError(
            f"`vlm` is {name!r}, whose processor takes no images; it must be a vision-language model. Pass "
            "--policy.vlm=..."
        )
    return processor


class InstructionPrompt:
    """Turns instructions into the token ids that a VLM expects, with placeholders for the camera images.

    The ids depend only on the instruction, the number of cameras and the image size, so each instruction is prepared
    once.

    Args:
        name: As for `load_vision_language_model`.
        num_cameras: Images per sample, in the order of the policy's cameras.
        image_size: Side of the (square) images in pixels.
        max_length: Longest instruction in tokens; the rest is cut off.

    Raises:
        ValueError: If the processor cannot be loaded.
    """

    max_remembered = 4096

    def __init__(self, name: str, *, num_cameras: int, image_size: int, max_length: int) -> None:
        self.num_cameras, self.image_size, self.max_length = num_cameras, image_size, max_length
        self._processor = load_processor(name)
        self._remembered: dict[str, dict[str, Tensor]] = {}

    def __call__(self, instructions: Sequence[str]) -> dict[str, Tensor]:
        """Prepares a batch.

        Args:
            instructions: One per sample.

        Returns:
            `input_ids` and `attention_mask` (1 = real token), (B, S) int64, padded on the right with 0, and further
            inputs of that shape which the model needs, such as `token_type_ids`.

        Raises:
            ValueError: If an instruction is empty.
        """
        rows = [self._prepare(instruction) for instruction in instructions]
        return {key: pad_sequence([row[key] for row in rows], batch_first=True) for key in rows[0]}

    def _prepare(self, instruction: str) -> dict[str, Tensor]:
        if instruction not in self._remembered:
            if len(self._remembered) >= self.max_remembered:
                self._remembered.clear()
            self._remembered[instruction] = self._tokenize(instruction)
        return self._remembered[instruction]

    def _tokenize(self, instruction: str) -> dict[str, Tensor]:
        check_instructions([instruction])
        images = [torch.zeros(3, self.image_size, self.image_size, dtype=torch.uint8)] * self.num_cameras
        encoded = self._processor(
            text=[self._text(self._shorten(instruction))],
            images=[images],
            return_tensors="pt",
            **image_options(self._processor.image_processor, self.image_size),
        )
        shape = encoded["input_ids"].shape
        return {
            key: value[0]
            for key, value in encoded.items()
            if key != "labels" and getattr(value, "shape", None) == shape
        }

    def _text(self, instruction: str) -> str:
        if getattr(self._processor, "chat_template", None) is None:
            return self._processor.image_token * self.num_cameras + instruction
        content: list[dict[str, str]] = [{"type": "image"}] * self.num_cameras
        content = [*content, {"type": "text", "text": instruction}]
        message = {"role": "user", "content": content}
        with _quiet():  # SmolVLM's processor warns about arguments of its own
            return self._processor.apply_chat_template([message], add_generation_prompt=True, tokenize=False)

    def _shorten(self, instruction: str) -> str:
        tokenizer = self._processor.tokenizer
        ids = tokenizer(instruction, add_special_tokens=False)["input_ids"]
        return instruction if len(ids) <= self.max_length else tokenizer.decode(ids[: self.max_length])


def image_options(image_processor: Any, image_size: int) -> dict[str, Any]:
    """Returns arguments with which an image processor takes images as they are, each as one.

    Args:
        image_processor: Of transformers.
        image_size: Side of the (square) images in pixels.
    """
    options: dict[str, Any] = {"do_resize": False}
    if hasattr(image_processor, "do_image_splitting"):  # Idefics and SmolVLM would tile large images
        options |= {"do_image_splitting": False, "max_image_size": {"longest_edge": image_size}}
    return options


def _load_config(name: str) -> Any:
    import transformers

    try:
        return transformers.AutoConfig.from_pretrained(repo_id_of(name))
    except Exception as error:
        raise _unavailable(name, error) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers except for errors: it would list the weights of the layers that are left out."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _unavailable(name: str, error: Exception) -> ValueError:
    return ValueError(
        f"`vlm` is {name!r}, which cannot be loaded: {first_line(error)} Pass a local directory or a model that is "
        f"cached, go online once to download it, or choose one of {', '.join(PRESETS)}. SmolVLM needs the extra `vlm` "
        "(pip install lerobot_policy_lara[vlm])."
    )
