"""The vision-language backbone of GR00T N1.6, from parts of transformers, with the release's parameter names.

SigLIP2 sees each image at its own aspect ratio; 2 x 2 neighboring patches become one token (pixel unshuffle) that a
small network brings to the language model's width; the first layers of Qwen3 read text and image tokens together, and
their normed output is what the action head attends to.

Legend: B batch, L tokens of a prompt, N images, n tokens of an image, V width of the image encoder, D width of Qwen3.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MERGE = 2  # patches per side that become one token


class EagleBackbone(nn.Module):
    """SigLIP2, projector and truncated Qwen3, with random weights.

    Args:
        vision: Arguments of transformers' `Siglip2VisionConfig`.
        text: Arguments of transformers' `Qwen3Config`; the number of layers is `num_layers`.
        num_layers: Layers of Qwen3 that are kept.
        image_token_id: Token that stands for one image token in a prompt.
    """

    def __init__(
        self, *, vision: dict[str, Any], text: dict[str, Any], num_layers: int, image_token_id: int
    ) -> None:
        from transformers import Qwen3Config, Qwen3ForCausalLM, Siglip2VisionConfig, Siglip2VisionModel

        super().__init__()
        self.image_token_id = image_token_id
        self.patch_size: int = vision["patch_size"]
        self.vision_model = Siglip2VisionModel(Siglip2VisionConfig(**vision))
        width, merged = text["hidden_size"], vision["hidden_size"] * MERGE**2
        self.mlp1 = nn.Sequential(
            nn.LayerNorm(merged), nn.Linear(merged, width), nn.GELU(), nn.Linear(width, width)
        )
        # The language head is not used, but stored in the release; it shares its weights with the embedding.
        layers = {"num_hidden_layers": num_layers, "tie_word_embeddings": True, "use_cache": False}
        self.language_model = Qwen3ForCausalLM(Qwen3Config(**{**text, **layers}))

    def encode_images(self, images: Tensor) -> Tensor:
        """Turns images of one size into tokens.

        Args:
            images: (N, 3, H, W) in [-1, 1]; H and W are multiples of twice the patch size.

        Returns:
            (N, n, D), row by row; n is (H / (2 patch)) * (W / (2 patch)).
        """
        transformer = self.vision_model.vision_model
        patch = self.patch_size
        count, height, width = len(images), images.shape[2] // patch, images.shape[3] // patch
        # (N, height * width, patch * patch * 3): a patch is flattened by row, column, channel.
        patches = images.unflatten(3, (width, patch)).unflatten(2, (height, patch))
        patches = patches.permute(0, 2, 4, 3, 5, 1).reshape(count, height * width, -1)
        shapes = torch.tensor([[height, width]]).expand(count, 2)
        # The parts one by one, as the attention pooling that follows them is of no use here.
        hidden_states = transformer.embeddings(patches, shapes)
        hidden_states = transformer.encoder(
            inputs_embeds=hidden_states, attention_mask=None
        ).last_hidden_state
        hidden_states = transformer.post_layernorm(hidden_states)  # (N, height * width, V)
        grid = hidden_states.transpose(1, 2).unflatten(2, (height, width))  # (N, V, height, width)
        merged = F.pixel_unshuffle(grid, MERGE)  # (N, 4 V, height / 2, width / 2)
        return self.mlp1(merged.flatten(2).transpose(1, 2))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, image_tokens: Tensor) -> Tensor:
        """Reads prompts.

        Args:
            input_ids: (B, L) int64.
            attention_mask: (B, L) bool, True at real tokens.
            image_tokens: (all image tokens of the batch, D), in the order of the prompts.

        Returns:
            (B, L, D) after the final norm.

        Raises:
            ValueError: The prompts have room for another number of image tokens.
        """
        decoder = self.language_model.model
        embeddings = decoder.embed_tokens(input_ids)
        is_image = self.image_mask(input_ids)
        if (room := int(is_image.sum())) != len(image_tokens):
            raise ValueError(
                f"The prompts have {room} image tokens; they must have {len(image_tokens)}, as the images do. Prepare "
                "both with the policy's own preprocessor, in one call."
            )
        embeddings = embeddings.masked_scatter(is_image[..., None], image_tokens.to(embeddings.dtype))
        return decoder(inputs_embeds=embeddings, attention_mask=attention_mask.long()).last_hidden_state

    def image_mask(self, input_ids: Tensor) -> Tensor:
        """(B, L) bool, True at image tokens."""
        return input_ids == self.image_token_id

    def set_trained(self, *, top_layers: int, language: bool, vision: bool) -> None:
        """Freezes everything except for the parts named.

        Args:
            top_layers: The last layers of the language model that are trained.
            language: Train the language model as a whole.
            vision: Train the image encoder and the projector.
        """
        self.language_model.requires_grad_(language)
        layers = self.language_model.model.layers
        for layer in layers[len(layers) - top_layers :]:
            layer.requires_grad_(True)
        self.vision_model.requires_grad_(vision)
        self.vision_model.vision_model.head.requires_grad_(False)  # never called
        self.mlp1.requires_grad_(vision)
