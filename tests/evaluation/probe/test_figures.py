"""Charts and pictures of the report: they are drawn, and their captions state the right numbers."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lerobot_lara.evaluation.probe import figures, pictures
from lerobot_lara.evaluation.probe.data import Pairs
from lerobot_lara.evaluation.probe.latent_statistics import measure_latents
from lerobot_lara.evaluation.probe.model import Latents

IsDrawn = Callable[[Path], None]


def test_prediction_grid_reports_psnr_of_prediction_and_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, assert_is_drawn: IsDrawn
) -> None:
    labels = []
    set_xlabel = pictures.plt.Axes.set_xlabel
    monkeypatch.setattr(
        pictures.plt.Axes, "set_xlabel", lambda panel, text: labels.append(text) or set_xlabel(panel, text)
    )
    future = torch.full((1, 3, 16, 16), 0.5)
    path = pictures.prediction_grid(future - 0.1, future, future + 0.01, tmp_path / "grid.png")
    assert labels == ["40.0 dB", "20.0 dB"]
    assert_is_drawn(path)


@pytest.mark.parametrize("codes", [None, torch.tensor([[0], [2], [2], [0], [2]]).repeat(10, 1)])
def test_latent_usage_states_rank_and_codes(
    codes: torch.Tensor | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, assert_is_drawn: IsDrawn
) -> None:
    titles = {}
    set_all = figures.plt.Axes.set
    monkeypatch.setattr(
        figures.plt.Axes,
        "set",
        lambda panel, **options: (
            titles.update({options["xlabel"]: options["title"]}) or set_all(panel, **options)
        ),
    )
    values = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    latents = Latents(values, values, codes)
    statistics = measure_latents(latents, None if codes is None else 4)
    assert_is_drawn(figures.latent_usage(latents, statistics, tmp_path / "latents.png"))
    assert titles["principal component"] == f"effective rank {statistics.effective_rank:.1f} of 8"
    assert titles.get("code, by rank") == (None if codes is None else "2 of 4 codes, perplexity 2.0")


def test_examples_range_from_little_to_much_motion(pairs: Pairs) -> None:
    chosen = pictures.spread_over_motion(pairs, 6)
    frames = pairs.images(chosen)
    motion = (frames[:, 1] - frames[:, 0]).abs().mean((1, 2, 3))
    assert len(set(chosen.tolist())) == 6
    assert motion[-1] > 2 * motion[0]
    assert (motion.diff() > -0.01).all()  # motion is measured on smaller frames
