import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional

from lerobot_lara.evaluation.latent_quality import load_frame_pairs, main, measure_latent_quality
from lerobot_lara.lam.latent_action_model import LatentActionModel


class Oracle:
    """Its latent action is the difference of the two frames' mean colors, which it adds to the first frame."""

    quantizer = SimpleNamespace(codebook_size=5)

    def __init__(self, *, use_latent=True, quantized=False):
        self.use_latent, self.quantized = use_latent, quantized

    def encode(self, frames):
        change = (frames[:, 1] - frames[:, 0]).mean((-2, -1))
        codes = (change[:, :1] > 0.1).long() if self.quantized else None
        latent = change.unsqueeze(1)
        return SimpleNamespace(latent_action=latent, quantized_latent_action=latent, code_indices=codes)

    def decode(self, frame, latent_action):
        frame = functional.avg_pool2d(frame, 2)
        return frame + latent_action.transpose(1, 2).unsqueeze(-1) if self.use_latent else frame


@pytest.fixture
def frames():
    """Pairs of one color each, between which the color brightens by as much as 0.3."""
    generator = torch.Generator().manual_seed(0)
    first = 0.6 * torch.rand(100, 1, 3, 1, 1, generator=generator)
    change = 0.3 * torch.rand(100, 1, 3, 1, 1, generator=generator)
    return torch.cat([first, first + change], 1).expand(-1, -1, -1, 16, 16)


def test_latents_that_carry_the_motion_beat_both_baselines(frames):
    metrics, arrays = measure_latent_quality(Oracle(), frames)
    assert metrics["psnr"] > 60
    assert metrics["copy_psnr"] < metrics["shuffled_psnr"] < 25
    assert metrics["effective_rank"] == pytest.approx(3, abs=0.2)
    assert metrics["latent_dims"] == 3
    assert arrays["prediction"].shape == arrays["current"].shape == (6, 3, 8, 8)
    assert arrays["latents"].shape == (100, 3)
    motion = np.square(arrays["future"] - arrays["current"]).mean((1, 2, 3))
    assert (np.diff(motion) > 0).all()


def test_ignored_latents_gain_nothing_over_shuffled_ones(frames):
    metrics, _ = measure_latent_quality(Oracle(use_latent=False), frames)
    assert metrics["psnr"] == metrics["shuffled_psnr"] == pytest.approx(metrics["copy_psnr"], abs=1e-3)


def test_every_pair_gets_another_pairs_latent(frames):
    # With two pairs, shuffling can only swap them: a shuffle that kept them in place would score the same.
    metrics, _ = measure_latent_quality(Oracle(), frames[:2])
    assert metrics["shuffled_psnr"] < 40 < metrics["psnr"]


def test_code_usage_of_a_quantized_model(frames):
    metrics, arrays = measure_latent_quality(Oracle(quantized=True), frames)
    assert metrics["live_codes"] == 2
    assert 1.5 < metrics["codebook_perplexity"] <= 2
    assert arrays["code_counts"].sum() == 100
    assert arrays["code_counts"].shape == (5,)


def test_lonely_pair_is_refused(frames):
    with pytest.raises(ValueError, match="at least two"):
        measure_latent_quality(Oracle(), frames[:1])


def test_command_measures_a_saved_model(tmp_path, tiny_dataset):
    LatentActionModel.from_config(frame_gap=3).save_pretrained(tmp_path / "lam")
    root, output = tiny_dataset(num_frames=8, action=False), tmp_path / "quality"
    main([f"--lam_path={tmp_path / 'lam'}", f"--root={root}", f"--output={output}", "--max_pairs=6"])
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["pairs"] == 6
    assert (metrics["frame_gap"], metrics["gap_seconds"]) == (3, 0.3)
    assert np.load(output / "arrays.npz")["prediction"].shape == (6, 3, 32, 32)


def test_frame_pairs_stay_within_their_episode(tiny_dataset):
    from lerobot.datasets import LeRobotDataset

    root = tiny_dataset(num_frames=[8, 6], action=False)
    frames, seconds = load_frame_pairs(root, frame_gap=5, max_pairs=100)
    assert frames.shape == (4, 2, 3, 32, 32)
    assert seconds == 0.5
    dataset = LeRobotDataset("local/tiny", root=root)
    stored = torch.stack([dataset[index]["observation.image"] for index in range(14)])
    expected = [(0, 5), (1, 6), (2, 7), (8, 13)]
    assert torch.equal(frames, torch.stack([stored[list(pair)] for pair in expected]))
    assert len(load_frame_pairs(root, frame_gap=5, max_pairs=2)[0]) == 2


@pytest.mark.parametrize(
    ("options", "message"), [({"frame_gap": 8}, "frame_gap is 8"), ({"camera": "wrist"}, "wrist")]
)
def test_impossible_frame_pairs_are_refused(tiny_dataset, options, message):
    with pytest.raises(ValueError, match=message):
        load_frame_pairs(tiny_dataset(num_frames=8), **{"frame_gap": 2, "max_pairs": 9, **options})
