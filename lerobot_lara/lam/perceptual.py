"""LPIPS, the perceptual distance of deep features (https://arxiv.org/abs/1801.03924), without any download.

The package lpips computes the distance; the network's weights are a local file, or there is a clear error.
"""

import importlib.util
from pathlib import Path

import torch
from torch import Tensor, nn

from lerobot_lara.backbones.encoders import Frozen

STLPIPS_WEIGHTS = "weights/vST0.0/vgg_shift_tolerant.pth"
TORCHVISION_WEIGHTS = "vgg16-397923af.pth"


class PerceptualLoss(nn.Module):
    """LPIPS with a VGG16 trunk: always in eval mode, fixed, and absent from checkpoints.

    Args:
        weights: "stlpips": trunk and heads of ST-LPIPS (https://arxiv.org/abs/2207.13686), a file of the
            package stlpips-pytorch. "torchvision": ImageNet VGG16 from torch's local cache with lpips' own
            heads.

    Raises:
        ValueError: If the weights are not on this machine.
    """

    def __init__(self, weights: str) -> None:
        super().__init__()
        self.distance = Frozen(
            _load_stlpips() if weights == "stlpips" else _load_torchvision(), input_grad=True
        )

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Computes the distance between images.

        Args:
            first: (B, 3, h, w) in [0, 1], h and w at least 32.
            second: Likewise.

        Returns:
            (B,), 0 for equal images.
        """
        return self.distance(first, second, normalize=True).flatten()


class _ShiftTolerantVGG16(nn.Module):
    """VGG16's five stages, each pooling split into a dense maximum and a blur with stride 2.

    Layer numbers are those of the weight file; anti-aliased pooling is https://arxiv.org/abs/1904.11486.
    """

    def __init__(self) -> None:
        super().__init__()
        index, c_in = 0, 3
        for stage, (c_out, num_convs) in enumerate(
            [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)], start=1
        ):
            layers = nn.Sequential()
            if stage > 1:
                layers.add_module(str(index), nn.MaxPool2d(2, stride=1))
                layers.add_module(str(index + 1), _BlurPool(c_in))
                index += 2
            for _ in range(num_convs):
                layers.add_module(str(index), nn.Conv2d(c_in, c_out, 3, padding=1))
                layers.add_module(str(index + 1), nn.ReLU())
                index, c_in = index + 2, c_out
            self.add_module(f"slice{stage}", layers)

    def forward(self, images: Tensor) -> list[Tensor]:
        outputs = []
        for stage in self.children():
            images = stage(images)
            outputs.append(images)
        return outputs


class _BlurPool(nn.Module):
    filt: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("filt", torch.zeros(channels, 1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        padded = nn.functional.pad(x, (1, 1, 1, 1), mode="reflect")
        return nn.functional.conv2d(padded, self.filt, stride=2, groups=x.shape[1])


def _load_stlpips() -> nn.Module:
    import lpips

    # Only the weight file is used; the package's own code is not imported.
    spec = importlib.util.find_spec("stlpips_pytorch")
    path = Path(spec.origin).parent / STLPIPS_WEIGHTS if spec is not None and spec.origin else None
    if path is None or not path.is_file():
        raise ValueError(
            '`perceptual_weights` is "stlpips", but the package stlpips-pytorch is not installed. Run pip install '
            "stlpips-pytorch, or pass --policy.perceptual_loss_weight=0."
        )
    model = lpips.LPIPS(net="vgg", pretrained=False, pnet_rand=True, verbose=False)
    model.net = _ShiftTolerantVGG16()
    return _load(model, torch.load(path, map_location="cpu", weights_only=True), shared_prefix="lins.")


def _load_torchvision() -> nn.Module:
    import lpips

    path = Path(torch.hub.get_dir()) / "checkpoints" / TORCHVISION_WEIGHTS
    if not path.is_file():
        raise ValueError(
            f'`perceptual_weights` is "torchvision", but {path} does not exist. Download torchvision\'s VGG16 '
            '(`torchvision.models.vgg16(weights="IMAGENET1K_V1")` does), or pass '
            "--policy.perceptual_weights=stlpips or --policy.perceptual_loss_weight=0."
        )
    model = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    features = {
        key.removeprefix("features."): value
        for key, value in torch.load(path, map_location="cpu", weights_only=True).items()
        if key.startswith("features.")
    }
    trunk = {key: features[key.split(".", 1)[1]] for key in model.net.state_dict()}
    model.net.load_state_dict(trunk)
    return model


def _load(model: nn.Module, weights: dict[str, Tensor], *, shared_prefix: str) -> nn.Module:
    """Loads strictly, except for the second name under which lpips lists its heads."""
    missing, unexpected = model.load_state_dict(weights, strict=False)
    wrong = [key for key in missing if not key.startswith(shared_prefix)] + unexpected
    if wrong:
        raise ValueError(
            f"The LPIPS weights do not fit the installed package lpips: {', '.join(wrong[:5])}. Install another "
            "version."
        )
    return model
