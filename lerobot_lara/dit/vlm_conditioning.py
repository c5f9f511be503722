"""Conditioning on a vision-language model (VLM): the action head attends to the hidden states of one of its layers.

Legend: B batch, V cameras, S tokens of the prompt (images and instruction), W width of the VLM, H side of images.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lerobot_lara.backbones.images import resize
from lerobot_lara.backbones.pretrained import first_line
from lerobot_lara.backbones.vision_language import (
    InstructionPrompt,
    image_options,
    load_processor,
    load_vision_language_model,
)
from lerobot_lara.batch.checks import Periodic
from lerobot_lara.dit.context_adapter import ContextAdapter

# Linear layers of a language model's attention, in all supported families.
LORA_LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj"]


class VLMObservationEncoder(nn.Module):
    """Turns camera images and a prompt into context tokens for the action head.

    The VLM is named in the configuration and stays out of checkpoints, except for its trained parts: those are
    registered here, the rest is not.

    Args:
        name: As for `load_vision_language_model`.
        layer: Hidden state to use; None is the preset's, or half of the layers.
        image_size: Images are resized to this square, in pixels.
        num_cameras: V.
        num_trained_layers: Uppermost layers of the part used that are trained; 0 is none.
        lora_rank: Rank of low-rank adapters in the attention of all layers used; 0 is none.
        num_self_attention_layers: Trained self-attention blocks after the VLM (the paper's adapter has 4).
        dropout: Inside those blocks, in [0, 1).
        dtype: Of the VLM's weights if nothing in it is trained; else they are float32.

    Attributes:
        width: W.

    Raises:
        ValueError: If the model cannot be loaded, has no such layers, or does not take images of that size.
    """

    model: Any

    def __init__(
        self,
        name: str,
        *,
        layer: int | None,
        image_size: int,
        num_cameras: int,
        num_trained_layers: int,
        lora_rank: int,
        num_self_attention_layers: int,
        dropout: float,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        model: Any
        model, layer = load_vision_language_model(name, layer=layer)
        if num_trained_layers > layer:
            raise ValueError(
                f"`vlm_trained_layers` is {num_trained_layers}, but only {layer} layers of `vlm={name}` are used; it "
                f"must be at most {layer}. Pass --policy.vlm_trained_layers=..., or a larger --policy.vlm_layer."
            )
        model.eval().requires_grad_(False)
        self.image_size, self.num_cameras = image_size, num_cameras
        self._prompt_check = Periodic()
        language_model = model.get_decoder()
        self.trained = nn.ModuleDict()
        if num_trained_layers:
            first = layer - num_trained_layers
            self.trained.update(
                {str(i): language_model.layers[i].requires_grad_(True) for i in range(first, layer)}
            )
        if lora_rank:
            self.trained.update(_add_lora(language_model, lora_rank))
        # A plain attribute: registering the model would put its frozen weights into every checkpoint.
        object.__setattr__(self, "model", model if self.trained else model.to(dtype))
        self._image_processor = load_processor(name).image_processor
        self._inputs = set(inspect.signature(model.forward).parameters)
        self.num_image_tokens = self._count_image_tokens(name)
        self.width: int = model.config.get_text_config().hidden_size
        self.adapter = ContextAdapter(
            width=self.width,
            num_layers=num_self_attention_layers,
            num_heads=max(1, self.width // 64),
            dropout=dropout,
        )
        self.trained_networks: list[nn.Module] = [self.adapter] if num_self_attention_layers else []
        self.trained_blocks: list[nn.Module] = list(self.adapter.blocks)
        # FSDP must not wrap these one by one: the model calls them itself, without their wrappers.
        self.unwrapped_blocks: list[nn.Module] = list(language_model.layers) if self.trained else []

    def forward(
        self,
        images: list[Tensor],
        input_ids: Tensor,
        attention_mask: Tensor,
        *,
        image_valid: Tensor | None = None,
        **prompt: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Encodes the observation.

        Args:
            images: V tensors (B, 3, H, W), RGB in [0, 1]; sizes may differ between cameras.
            input_ids: (B, S) int64, from `InstructionPrompt`.
            attention_mask: (B, S) bool, False at padding.
            image_valid: (B, V) bool, False where a sample lacks the camera; None is all True.
            **prompt: Further outputs of `InstructionPrompt`, (B, S).

        Returns:
            Context tokens (B, S, W), float32, and their bool mask (B, S).

        Raises:
            ValueError: If the prompt was made for other images.
        """
        if not self.training or self._prompt_check.due():
            self._check_prompt(len(images), input_ids)
        attention_mask = attention_mask.bool()
        if image_valid is not None:
            attention_mask = attention_mask & self._token_valid(input_ids, image_valid)
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask.long(), **prompt}
        inputs |= self._pixels(images)
        with torch.set_grad_enabled(bool(self.trained) and torch.is_grad_enabled()):
            known = {key: value for key, value in inputs.items() if key in self._inputs}
            # Nothing is generated; and a cache would be filled twice by gradient checkpointing.
            output = self.model(**known, use_cache=False)
        return self.adapter(output.last_hidden_state.float(), attention_mask), attention_mask

    def _check_prompt(self, num_images: int, input_ids: Tensor) -> None:
        found = (input_ids == self.model.config.image_token_id).sum(1)  # (B,)
        if num_images != self.num_cameras or (found != self.num_cameras * self.num_image_tokens).any():
            raise ValueError(
                f"The batch has {num_images} cameras and prompts with {sorted(set(found.tolist()))} image tokens, but "
                f"the policy expects {self.num_cameras} cameras of {self.num_image_tokens} tokens. Keep the "
                "checkpoint's `vlm`, `vlm_image_size` and cameras: its preprocessor was made for them."
            )

    @torch.no_grad()
    def _count_image_tokens(self, name: str) -> int:
        """Image tokens per camera; those in the prompt and those that the model computes must agree.

        Given an image size that it does not support, a model may read another sample's image, or crash on the GPU.
        """
        prompt = InstructionPrompt(name, num_cameras=1, image_size=self.image_size, max_length=8)
        error: Exception | None = None
        try:
            ids = prompt(["move"])["input_ids"]
            pixels = self._pixels([torch.zeros(1, 3, self.image_size, self.image_size)])
            names = inspect.signature(self.model.get_image_features).parameters
            inputs = {key: value for key, value in pixels.items() if key in names}
            features = self.model.get_image_features(**inputs).pooler_output
            produced = sum(one.shape[:-1].numel() for one in features)
            placed = int((ids == self.model.config.image_token_id).sum())
            if produced == placed:
                return placed
            reason = f"it turns an image into {produced} tokens, but the prompt has {placed} placeholders."
        except (ValueError, RuntimeError, IndexError) as caught:
            error, reason = caught, first_line(caught)
        raise ValueError(
            f"`vlm_image_size` is {self.image_size}; it must be a size that `vlm={name}` takes: {reason} Leave out "
            "--policy.vlm_image_size for the model's own; Qwen2.5-VL takes multiples of 28, Qwen3-VL of 32."
        ) from error

    def _pixels(self, images: list[Tensor]) -> dict[str, Tensor]:
        """The model's inputs for the images, by its own image processor, in the prompt's order."""
        # The model takes the placeholders of a batch in order: sample by sample, camera by camera.
        square = torch.stack([resize(image.float(), self.image_size) for image in images], dim=1)
        return self._image_processor(
            images=list(square.flatten(0, 1)),  # B * V of (3, H, H)
            do_rescale=False,
            return_tensors="pt",
            device=square.device,
            **image_options(self._image_processor, self.image_size),
        )

    def _token_valid(self, input_ids: Tensor, image_valid: Tensor) -> Tensor:
        """(B, S) bool, False at the placeholders of missing cameras."""
        is_image = input_ids == self.model.config.image_token_id  # (B, S)
        camera = ((is_image.cumsum(1) - 1) // self.num_image_tokens).clamp(min=0)  # (B, S)
        return ~is_image | image_valid.gather(1, camera)

    def _apply(self, fn: Callable, recurse: bool = True) -> "VLMObservationEncoder":
        self.model._apply(fn, recurse)
        return super()._apply(fn, recurse)


def _add_lora(language_model: nn.Module, rank: int) -> dict[str, nn.Module]:
    """Adds low-rank adapters in place and returns them by the name of their layer."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
        from peft.tuners.lora import LoraLayer
    except ImportError as error:
        raise ValueError(
            f"`vlm_lora_rank` is {rank}, which needs the package peft. Run pip install lerobot_policy_lara[vlm]."
        ) from error
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=LORA_LAYERS)
    inject_adapter_in_model(config, language_model)
    adapters: dict[str, nn.Module] = {}
    for name, module in language_model.named_modules():
        if isinstance(module, LoraLayer):
            key = name.replace(".", "_")
            adapters[key] = nn.ModuleList([module.lora_A, module.lora_B])
    return adapters
