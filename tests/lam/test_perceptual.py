"""LPIPS: sane distances, gradients to images only, weights outside checkpoints, errors instead of downloads."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lerobot_lara.lam import perceptual
from lerobot_lara.lam.latent_action_model import LatentActionModel
from lerobot_lara.lam.perceptual import PerceptualLoss


@pytest.fixture(scope="module")
def lpips() -> PerceptualLoss:
    try:
        return PerceptualLoss("stlpips")
    except ValueError as error:
        pytest.skip(str(error))


@pytest.fixture
def photo() -> Tensor:
    datasets = pytest.importorskip("sklearn.datasets")
    image = torch.tensor(datasets.load_sample_image("china.jpg")).permute(2, 0, 1)[None] / 255
    return torch.nn.functional.interpolate(image[..., :427, :427], size=(64, 64), mode="area")


def test_distances_are_perceptual(lpips: PerceptualLoss, photo: Tensor) -> None:
    """Blur looks worse than a darker image of about the same squared error; a shifted pixel hardly shows."""
    blurred = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(photo, (2,) * 4, mode="reflect"), 5, 1)
    dark = photo * 0.8
    assert (blurred - photo).square().mean() < 2 * (dark - photo).square().mean()
    same, shifted, darker, blur = (lpips(x, photo).item() for x in (photo, photo.roll(1, -1), dark, blurred))
    assert same == 0
    assert 0 < shifted < blur / 3
    assert darker < blur / 3 and blur > 0.2


def test_range_is_zero_to_one(lpips: PerceptualLoss, photo: Tensor) -> None:
    """[0, 1] goes to the [-1, 1] that the network expects."""
    other = photo.flip(-1)
    direct = lpips.distance.module(2 * photo - 1, 2 * other - 1).flatten()
    torch.testing.assert_close(lpips(photo, other), direct)


def test_only_images_get_gradients_and_dropout_stays_off(lpips: PerceptualLoss) -> None:
    lpips.train()
    image = torch.rand(2, 3, 32, 32, requires_grad=True)
    target = torch.rand(2, 3, 32, 32)
    first, second = lpips(image, target), lpips(image, target)
    assert torch.equal(first, second)
    first.sum().backward()
    assert image.grad.abs().sum() > 0
    assert not list(lpips.parameters()) and not lpips.state_dict()
    assert all(p.grad is None for p in lpips.distance.module.parameters())


def test_loss_of_the_model(
    lpips: PerceptualLoss, make_lam: Callable[..., LatentActionModel], frames: Tensor
) -> None:
    lam = make_lam(perceptual_loss_weight=0.5, prediction_size=32)
    output = lam(frames[:2])
    expected = lpips(output.prediction, frames[:2, 1]).mean()
    torch.testing.assert_close(output.losses["perceptual_loss"], expected)
    torch.testing.assert_close(output.loss, output.losses["reconstruction_loss"] + 0.5 * expected)
    assert not any(key.startswith("perceptual") for key in lam.state_dict())


def test_missing_weights_are_an_error_not_a_download(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(perceptual.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install stlpips-pytorch"):
        PerceptualLoss("stlpips")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ValueError, match=rf"{tmp_path}.*vgg16-397923af.pth does not exist"):
        PerceptualLoss("torchvision")


def test_torchvision_weights_come_from_the_local_cache(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    from torchvision.models import vgg16

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    # Without its fully connected layers, which LPIPS does not need: 0.5 GB.
    weights = {
        key: value for key, value in vgg16(weights=None).state_dict().items() if key.startswith("features")
    }
    torch.save(weights, folder / "vgg16-397923af.pth")
    trunk = PerceptualLoss("torchvision").distance.module.net
    assert torch.equal(trunk.slice1[0].weight, weights["features.0.weight"])
    assert torch.equal(trunk.slice5[-2].weight, weights["features.28.weight"])
