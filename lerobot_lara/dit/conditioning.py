"""What the action head attends to: image tokens of every camera and the instruction.

Legend: B batch, V cameras, P image tokens per camera, S text tokens, D width.
"""

import torch
from torch import Tensor, nn

from lerobot_lara.backbones.encoders import ImageEncoder, TextEncoder
from lerobot_lara.backbones.instruction_memory import InstructionMemory


class InstructionEncoder(nn.Module):
    """Mean-pooled sentence embedding of a frozen text encoder, remembered by instruction.

    Args:
        text_encoder: Frozen.
        width: D.
    """

    def __init__(self, text_encoder: TextEncoder, width: int) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.projection = nn.Sequential(
            nn.LayerNorm(text_encoder.width), nn.Linear(text_encoder.width, width)
        )
        self.memory = InstructionMemory()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Encodes instructions: (B, S) int64 token ids and (B, S) bool mask -> (B, 1, D)."""
        embeddings = torch.stack(self.memory(input_ids, attention_mask, self._embed))  # (B, text width)
        return self.projection(embeddings)[:, None]

    @torch.no_grad()
    def _embed(self, input_ids: Tensor, attention_mask: Tensor) -> list[Tensor]:
        hidden_states = self.text_encoder(input_ids, attention_mask)  # (B, S, text width)
        weights = attention_mask[..., None].to(hidden_states.dtype)
        return list((hidden_states * weights).sum(1) / weights.sum(1).clamp(min=1))


class ObservationEncoder(nn.Module):
    """Turns camera images and an instruction into the context tokens of the action head.

    Args:
        image_encoder: Shared by all cameras.
        num_cameras: V; each camera has a learned embedding.
        width: D.
        text_encoder: Of the instruction; None for a policy without one.

    Attributes:
        width: D.
    """

    def __init__(
        self,
        *,
        image_encoder: ImageEncoder,
        num_cameras: int,
        width: int,
        text_encoder: TextEncoder | None,
    ) -> None:
        super().__init__()
        self.width = width
        self.image_encoder = image_encoder
        self.image_projection = nn.Sequential(
            nn.LayerNorm(image_encoder.width), nn.Linear(image_encoder.width, width)
        )
        self.image_positions = nn.Parameter(0.02 * torch.randn(1, 1, image_encoder.num_tokens, width))
        self.camera_embedding = nn.Parameter(0.02 * torch.randn(1, num_cameras, 1, width))
        self.instruction_encoder = None if text_encoder is None else InstructionEncoder(text_encoder, width)
        # Small convolutions, or frozen: nothing to compile or to compute twice.
        self.trained_networks: list[nn.Module] = []
        self.trained_blocks: list[nn.Module] = []
        self.unwrapped_blocks: list[nn.Module] = []

    def forward(
        self,
        images: list[Tensor],
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        image_valid: Tensor | None = None,
        image_tokens: list[Tensor | None] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Encodes the observation.

        Args:
            images: V tensors (B, 3, H, W), RGB in [0, 1]; sizes may differ between cameras.
            input_ids: (B, S) int64 instruction tokens; needed when there is a text encoder.
            attention_mask: (B, S) bool, False at padding.
            image_valid: (B, V) bool, False where a sample lacks the camera; None is all True.
            image_tokens: For each camera the image encoder's tokens (B, P, encoder width) where they are known already,
                else None.

        Returns:
            Context tokens (B, V * P [+ 1], D) and their bool mask (B, V * P [+ 1]).

        Raises:
            ValueError: If there is a text encoder but no tokenized instruction.
        """
        known = image_tokens or [None] * len(images)
        tokens = torch.stack(
            [
                self.image_encoder(image) if tokens is None else tokens
                for image, tokens in zip(images, known, strict=True)
            ],
            dim=1,
        )  # (B, V, P, encoder width)
        tokens = self.image_projection(tokens) + self.image_positions + self.camera_embedding  # (B, V, P, D)
        context = tokens.flatten(1, 2)  # (B, V * P, D)
        mask = torch.ones(context.shape[:2], dtype=torch.bool, device=context.device)
        if image_valid is not None:
            mask = image_valid.repeat_interleave(tokens.shape[2], dim=1)  # (B, V * P)
        if self.instruction_encoder is None:
            return context, mask
        if input_ids is None or attention_mask is None:
            raise ValueError(
                "The batch has no tokenized instruction, which `text_encoder` needs. Pass it through the policy's "
                "preprocessor, or train with --policy.text_encoder=null."
            )
        instruction = self.instruction_encoder(input_ids, attention_mask)  # (B, 1, D)
        ones = torch.ones_like(mask[:, :1])
        return torch.cat([context, instruction.to(context.dtype)], dim=1), torch.cat([mask, ones], dim=1)
