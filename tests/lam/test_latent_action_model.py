"""The latent action model as a whole: shapes, input contract, masks, learning, diagnostics of a constant."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lerobot_lara.lam.inverse_dynamics import InverseDynamicsModel
from lerobot_lara.lam.latent_action_model import LatentActionModel

MakeLAM = Callable[..., LatentActionModel]
FEATURES = {"frame_encoder": "random:torchvision:resnet18", "feature_loss_weight": 1.0}
VARIANTS: dict[str, dict[str, Any]] = {
    "continuous": {},
    "ema": {"quantizer": "vq"},
    "gradient": {"quantizer": "vq", "codebook_update": "gradient"},
    "fsq": {"quantizer": "fsq"},
    "reference": {
        "latent_fusion": "add",
        "residual_prediction": False,
        "latent_projection": "tanh_mlp",
        "normalize_latent": False,
        "shared_frame_type": True,
    },
    "features": FEATURES,
    "features_only": {**FEATURES, "reconstruction_loss_weight": 0.0},
}


@pytest.mark.parametrize("fields", VARIANTS.values(), ids=VARIANTS.keys())
def test_shapes_losses_and_gradients(make_lam: MakeLAM, frames: Tensor, fields: dict[str, Any]) -> None:
    lam = make_lam(**fields)
    output = lam(frames)
    assert output.latent_action.shape == output.quantized_latent_action.shape == (12, 2, 4)
    assert output.latent_action.dtype == torch.float32
    if fields.get("quantizer") is None:
        assert output.code_indices is None and "quantizer_loss" not in output.losses
    else:
        assert output.code_indices is not None and output.code_indices.shape == (12, 2)
        assert output.metrics.keys() >= {"codebook_perplexity", "live_codes"}
        assert ("quantizer_loss" in output.losses) is (fields["quantizer"] == "vq")
    assert ("feature_loss" in output.losses) is ("feature_loss_weight" in fields)
    if fields.get("reconstruction_loss_weight") == 0:
        assert output.prediction is None and output.losses.keys() == {"feature_loss"}
        with pytest.raises(ValueError, match="predicts features, no frames"):
            lam.decode(frames[:, 0], output.quantized_latent_action)
    else:
        assert output.prediction is not None and output.prediction.shape == (12, 3, 16, 16)
        decoded = lam.decode(frames[:, 0], output.quantized_latent_action)
        torch.testing.assert_close(decoded, output.prediction)
    weights = {name: getattr(lam.settings, f"{name}_weight") for name in output.losses}
    total = sum(weights[name] * value for name, value in output.losses.items())
    torch.testing.assert_close(output.loss, total)

    # Every parameter learns; where the heads start at zero, from the second step on.
    for _ in range(2):
        lam.zero_grad()
        lam(frames).loss.backward()
        with torch.no_grad():
            for parameter in lam.parameters():
                parameter -= 0.1 * parameter.grad
    without = [name for name, p in lam.named_parameters() if p.grad.abs().max() == 0]
    assert not without


@pytest.mark.parametrize("fields", VARIANTS.values(), ids=VARIANTS.keys())
def test_encoding_is_deterministic_and_the_same_as_forwards(
    make_lam: MakeLAM, frames: Tensor, fields: dict[str, Any]
) -> None:
    lam = make_lam(**fields).eval()
    first, again, forward = lam.encode(frames), lam.encode(frames), lam(frames)
    for other in (again, forward):
        assert torch.equal(first.latent_action, other.latent_action)
        assert torch.equal(first.quantized_latent_action, other.quantized_latent_action)
    # One pair's latent does not depend on the others in the batch.
    torch.testing.assert_close(lam.encode(frames[3:4]).latent_action, first.latent_action[3:4])


def test_latent_depends_on_both_frames_and_on_their_order(make_lam: MakeLAM, frames: Tensor) -> None:
    lam = make_lam().eval()
    latent = lam.encode(frames).latent_action
    assert (lam.encode(frames.flip(1)).latent_action - latent).abs().max() > 1e-2
    for k in range(2):
        changed = frames.clone()
        changed[:, k] = frames[:, k].roll(1, 0)
        assert (lam.encode(changed).latent_action - latent).abs().max() > 1e-3


def test_prediction_starts_as_a_copy_and_reference_style_does_not(make_lam: MakeLAM, frames: Tensor) -> None:
    metrics = make_lam()(frames).metrics
    torch.testing.assert_close(metrics["psnr"], metrics["copy_psnr"])
    metrics = make_lam(residual_prediction=False)(frames).metrics
    assert metrics["psnr"] < metrics["copy_psnr"] - 1


@pytest.mark.parametrize("fields", VARIANTS.values(), ids=VARIANTS.keys())
def test_invalid_pairs_change_nothing(make_lam: MakeLAM, frames: Tensor, fields: dict[str, Any]) -> None:
    valid = torch.tensor([True] * 9 + [False] * 3)
    lam = make_lam(latent_noise=0.0, **fields)
    masked, kept = copy.deepcopy(lam)(frames, valid), copy.deepcopy(lam)(frames[:9])
    torch.testing.assert_close(masked.loss, kept.loss)
    for name, value in kept.metrics.items():
        torch.testing.assert_close(masked.metrics[name], value, rtol=1e-3, atol=1e-4, msg=name)
    other = frames.clone()
    other[9:] = torch.rand_like(other[9:])
    torch.testing.assert_close(copy.deepcopy(lam)(other, valid).loss, masked.loss)
    # Without the mask they would.
    assert (copy.deepcopy(lam)(other).loss - copy.deepcopy(lam)(frames).loss).abs() > 1e-4


@pytest.mark.parametrize("fields", VARIANTS.values(), ids=VARIANTS.keys())
def test_no_valid_pair_is_a_zero_loss_with_a_gradient(
    make_lam: MakeLAM, frames: Tensor, fields: dict[str, Any]
) -> None:
    lam = make_lam(**fields)
    output = lam(frames, torch.zeros(12, dtype=torch.bool))
    assert output.loss.item() == 0 and all(value.item() == 0 for value in output.losses.values())
    output.loss.backward()
    assert all(p.grad is None or p.grad.abs().max() == 0 for p in lam.parameters())
    assert output.metrics.keys() == lam(frames).metrics.keys()
    assert all(value == value for value in output.metrics.values())  # no NaN in logs


def train(lam: LatentActionModel, frames: Tensor, steps: int) -> None:
    optimizer = torch.optim.AdamW(lam.parameters(), lr=3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        lam(frames).loss.backward()
        optimizer.step()


def test_training_beats_copying_and_uses_the_latent(make_lam: MakeLAM, frames: Tensor) -> None:
    lam = make_lam()
    train(lam, frames, 120)
    metrics = lam.eval()(frames).metrics
    assert metrics["psnr"] > metrics["copy_psnr"] + 2
    assert metrics["psnr"] > lam.shuffled_psnr(frames) + 2
    assert metrics["effective_rank"] > 1.5


class ConstantInverseDynamics(InverseDynamicsModel):
    """An inverse dynamics model that ignores the frames."""

    def forward(self, current: Tensor, future: Tensor) -> Tensor:
        return torch.zeros_like(super().forward(current, future)) + self.queries[..., :4]


@pytest.mark.parametrize("quantizer", ["none", "vq", "fsq"])
def test_every_diagnostic_fails_on_a_constant_latent(
    make_lam: MakeLAM, frames: Tensor, quantizer: str
) -> None:
    lam = make_lam(quantizer=quantizer, latent_noise=0.0)
    lam.inverse_dynamics.__class__ = ConstantInverseDynamics
    train(lam, frames, 30)
    metrics = lam.eval()(frames).metrics
    assert metrics["psnr"] == pytest.approx(lam.shuffled_psnr(frames), abs=1e-4)
    assert metrics["effective_rank"] <= 1 and metrics["latent_std"] < 1e-6
    if quantizer != "none":
        # One code per latent token at most.
        assert metrics["live_codes"] <= 2 and metrics["codebook_perplexity"] <= 2.001


def test_shuffling_needs_two_pairs(make_lam: MakeLAM, frames: Tensor) -> None:
    with pytest.raises(ValueError, match="1 valid pair"):
        make_lam().shuffled_psnr(frames, torch.tensor([True] + [False] * 11))


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (torch.rand(2, 3, 32, 32), r"shape \(2, 3, 32, 32\); it must be pairs of frames"),
        (torch.rand(2, 3, 3, 32, 32), r"shape \(2, 3, 3, 32, 32\); it must be pairs of frames"),
        (torch.rand(2, 2, 1, 32, 32), "not RGB"),
        (torch.rand(2, 2, 32, 32, 3), "not RGB"),
        (torch.randint(0, 255, (2, 2, 3, 32, 32), dtype=torch.uint8), "uint8"),
        (torch.rand(2, 2, 3, 32, 32) * 255, r"spans \[.*RGB in \[0, 1\]"),
        (torch.rand(2, 2, 3, 32, 32) - 0.5, r"spans \[-0\.5"),
        (torch.full((2, 2, 3, 32, 32), float("nan")), "spans"),
    ],
    ids=["no time", "three frames", "gray", "channels last", "uint8", "0-255", "normalized", "nan"],
)
def test_input_contract(make_lam: MakeLAM, frames: Tensor, message: str) -> None:
    lam = make_lam()
    for call in (lam, lam.encode):
        with pytest.raises(ValueError, match=message):
            call(frames)


def test_frames_of_any_size_are_resized(make_lam: MakeLAM) -> None:
    lam = make_lam().eval()
    frames = torch.rand(2, 2, 3, 8, 8).repeat_interleave(8, -1).repeat_interleave(8, -2)  # 64 px
    small = frames[..., ::2, ::2]
    output = lam(frames)
    assert output.prediction.shape == (2, 3, 16, 16)
    torch.testing.assert_close(output.latent_action, lam(small).latent_action, atol=0.2, rtol=0.1)


def test_features_of_a_trained_encoder_are_no_target(make_lam: MakeLAM) -> None:
    with pytest.raises(ValueError, match=r"`frame_encoder` 'cnn' is trained.*collapse"):
        make_lam(feature_loss_weight=1.0)
    with pytest.raises(ValueError, match="collapse"):
        make_lam(**FEATURES, freeze_frame_encoder=False)


def test_frozen_encoder_is_not_saved_and_copies_share_it(make_lam: MakeLAM) -> None:
    lam = make_lam(**FEATURES)
    assert not any(key.startswith("frame_encoder") for key in lam.state_dict())
    assert copy.deepcopy(lam).frame_encoder.backbone.module is lam.frame_encoder.backbone.module
    trained = make_lam(frame_encoder="random:torchvision:resnet18", freeze_frame_encoder=False)
    assert any(key.startswith("frame_encoder") for key in trained.state_dict())


def test_bfloat16_autocast_keeps_latents_and_losses_in_float32(make_lam: MakeLAM, frames: Tensor) -> None:
    for fields in VARIANTS.values():
        with torch.autocast("cpu", torch.bfloat16):
            output = make_lam(**fields)(frames)
        assert output.latent_action.dtype == output.loss.dtype == torch.float32
        output.loss.backward()
