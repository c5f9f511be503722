"""The measurements themselves, on models whose numbers are known."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from lerobot_lara.evaluation.probe import prediction
from lerobot_lara.evaluation.probe.data import Pairs
from lerobot_lara.evaluation.probe.gallery import choose_groups
from lerobot_lara.evaluation.probe.latent_statistics import measure_latents
from lerobot_lara.evaluation.probe.measure import Measurement, measure
from lerobot_lara.evaluation.probe.model import Latents
from lerobot_lara.evaluation.probe.prediction import COPY, MEAN, OWN, SHUFFLED
from lerobot_lara.evaluation.probe.transfer import centered_cosine
from lerobot_lara.lam.metrics import psnr

Measured = Callable[..., Measurement]


def test_oracle_reaches_the_bounds(measured: Measured) -> None:
    found = measured("Oracle")
    assert found.action is not None and found.prediction is not None and found.transfer is not None
    assert found.action.r2["ridge"]["latent"].value > 0.99
    assert found.action.r2["ridge"]["random latent"].value < 0.05
    assert found.action.r2["ridge"]["shuffled latent"].value < 0.05
    assert found.prediction.psnr[OWN].value > 40
    # Frames have a border, where the square of another pair's latent stops.
    assert found.transfer.cosine.value > 0.9
    assert found.transfer.same_frame_cosine.value > max(0.99, found.transfer.cosine.value)
    assert found.transfer.relative_error.value < 0.3 < found.transfer.shuffled_relative_error.value
    assert found.statistics.effective_rank == pytest.approx(2, abs=0.1)


def test_copy_is_that_of_the_frames(measured: Measured, pairs: Pairs) -> None:
    found = measured("Oracle").prediction
    frames = pairs.images(slice(None))
    assert found is not None
    assert found.psnr[COPY].value == pytest.approx(psnr(frames[:, 0], frames[:, 1]).item(), abs=1e-3)
    assert found.ssim[OWN].value > 0.99 > found.ssim[COPY].value > found.ssim[SHUFFLED].value


def test_ignored_latents_gain_nothing_over_shuffled_ones(pairs: Pairs, models: dict[str, type]) -> None:
    class Ignoring(models["Oracle"]):  # type: ignore[misc]
        def decode(self, images: torch.Tensor, quantized: torch.Tensor) -> torch.Tensor:
            return images

    found = measure(Ignoring(), Pairs(**{**vars(pairs), "actions": None})).prediction
    assert found is not None
    assert found.psnr[OWN].value == found.psnr[SHUFFLED].value
    assert found.psnr[OWN].value == pytest.approx(found.psnr[COPY].value, abs=1e-3)


def test_mean_latent_is_the_one_of_a_constant_model(measured: Measured) -> None:
    found = measured("Constant").prediction
    assert found is not None
    assert found.psnr[OWN].value == found.psnr[MEAN].value == found.psnr[SHUFFLED].value


def test_constant_latents_divide_by_nothing(measured: Measured) -> None:
    found = measured("Constant")
    assert found.transfer is not None
    assert found.statistics.effective_rank == 0
    assert (found.transfer.cosine.value, found.transfer.relative_error.value) == (0, 1)
    assert found.transfer.retrieval.value == pytest.approx(1 / 32)


def test_rounding_noise_about_a_constant_has_no_direction() -> None:
    noise = 1e-6 * torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    constant = torch.full((50, 4), 0.3)
    assert (centered_cosine(constant + noise, constant + noise, constant[0]) == 0).all()
    latents = torch.tensor([[1.3, 0.3], [0.3, -0.7]])
    found = centered_cosine(latents, latents.flip(0), torch.full((2,), 0.3))
    assert found == pytest.approx([0, 0], abs=1e-6)  # at right angles, once centered


def test_distractors_leave_the_oracle_where_it_is(measured: Measured) -> None:
    for result in measured("Oracle").robustness.values():
        assert result.displacement.value < 0.2
        assert result.r2 is not None and result.r2.value > 0.9


def test_what_distracts_a_model_costs_prediction_and_transfer(measured: Measured) -> None:
    found = measured("Dazzled", actions=False)
    assert found.gain_over_copy is not None and found.transfer is not None
    drift = found.robustness["brightness drift"]
    assert drift.psnr_gain is not None and drift.cycle_cosine is not None
    assert drift.displacement.value > 0.5
    assert drift.psnr_gain.high < found.gain_over_copy.low - 3
    assert drift.cycle_cosine.high < found.transfer.cosine.low


def test_description_of_the_first_frame_adds_exactly_nothing(measured: Measured) -> None:
    action = measured("Describer").action
    assert action is not None
    assert action.increment.value <= 0


def test_lpips_is_measured_where_pictures_are_large_enough(
    measured: Measured, pairs: Pairs, models: dict[str, type], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = measured("Oracle").prediction
    assert small is not None and small.lpips is None and "24" in small.lpips_missing

    class Distance(torch.nn.Module):
        def __init__(self, weights: str) -> None:
            super().__init__()

        def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            return (prediction - target).abs().mean((1, 2, 3))

    monkeypatch.setattr(prediction, "LPIPS_MIN_SIZE", 16)
    monkeypatch.setattr(prediction, "LPIPS_PAIRS", 20)
    monkeypatch.setattr(prediction, "PerceptualLoss", Distance)
    found = measure(models["Oracle"](), Pairs(**{**vars(pairs), "actions": None})).prediction
    assert found is not None and found.lpips is not None
    chosen = np.linspace(0, len(pairs) - 1, 20).round().astype(int)
    frames = pairs.images(chosen)
    expected = (frames[:, 1] - frames[:, 0]).abs().mean().item()
    assert found.lpips[COPY].value == pytest.approx(expected, rel=1e-4)
    assert found.lpips[OWN].value < expected


def test_codes_are_counted_and_shown() -> None:
    codes = torch.tensor([[0, 1], [1, 1], [3, 1], [0, 3]])
    latents = Latents(torch.randn(4, 2), torch.randn(4, 2), codes)
    found = measure_latents(latents, codebook_size=5)
    assert (found.live_codes, found.dead_codes) == (3, 2)
    shares = np.array([2, 4, 2]) / 8
    assert found.codebook_perplexity == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
    groups = choose_groups(latents, np.array([0, 1, 2, 3]), 5)
    assert [group.title.split("\n")[0] for group in groups] == ["code 1", "code 0", "code 3"]
    assert groups[0].members.tolist()[0] == 1  # both of its tokens
    assert sorted(groups[1].members) == [0, 3]


def test_perplexity_counts_the_codes_in_use() -> None:
    one_each, one, by_token = [[0], [1], [2], [3]], [[2]] * 4, [[0, 1]] * 4
    for codes, expected in ((one_each, 4), (one, 1), (by_token, 2)):
        values = torch.randn(4, 2)
        latents = Latents(values, values, torch.tensor(codes))
        assert measure_latents(latents, codebook_size=4).codebook_perplexity == pytest.approx(expected)


def test_galleries_of_continuous_latents_are_ends_and_middle() -> None:
    scores = torch.linspace(-1, 1, 41)
    latents = torch.stack([scores, 0.1 * scores.square()], dim=1)
    groups = choose_groups(Latents(latents, latents), np.arange(41) // 4, None)
    low, middle, high = (group.examples for group in groups[:3])
    assert {int(low[0]), int(high[0])} == {0, 40}
    assert abs(int(middle[0]) - 20) <= 1
    assert len(set(low // 4)) == len(low) == 5  # of different episodes
    constant = torch.full((41, 2), 0.3)
    assert choose_groups(Latents(constant, constant), np.arange(41), None) == []


def test_latents_that_are_not_finite_are_refused(pairs: Pairs, models: dict[str, type]) -> None:
    class Broken(models["Oracle"]):  # type: ignore[misc]
        def latent(self, frames: torch.Tensor) -> torch.Tensor:
            return super().latent(frames) * float("nan")

    with pytest.raises(ValueError, match="not finite"):
        measure(Broken(), pairs)
