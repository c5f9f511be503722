import numpy as np
import pytest
from PIL import Image

from lerobot_lara.evaluation import figures


def assert_is_drawn(path):
    image = np.asarray(Image.open(path).convert("RGB"))
    assert min(image.shape[:2]) > 150
    assert image.std() > 5, "the figure is (nearly) blank"


def test_success_bars(tmp_path, results):
    assert_is_drawn(
        figures.success_bars(results(dit=(0, 20), lara=(20, 3))["arms"], tmp_path / "sub" / "bars.png")
    )


def test_training_curves(tmp_path):
    dit = {"loss": [(1, 0.5), (2, 0.4)], "lr": [(1, 1e-4)]}
    lara = {**dit, "alignment_loss": [(1, 0.9), (2, 0.7)], "psnr": [(2, 20.0)], "copy_psnr": [(2, 18.0)]}
    assert_is_drawn(figures.training_curves({"lara_dit": dit, "lara": lara}, tmp_path / "curves.png"))


def test_training_curves_without_any_metric_say_so(tmp_path):
    with pytest.raises(ValueError, match="no training curves"):
        figures.training_curves({"lara": {}}, tmp_path / "curves.png")


def test_prediction_grid_reports_psnr_of_prediction_and_copy(tmp_path, monkeypatch):
    labels = []
    set_xlabel = figures.plt.Axes.set_xlabel
    monkeypatch.setattr(
        figures.plt.Axes, "set_xlabel", lambda panel, text: labels.append(text) or set_xlabel(panel, text)
    )
    future = np.full((1, 3, 16, 16), 0.5)
    path = figures.prediction_grid(future - 0.1, future, future + 0.01, tmp_path / "grid.png")
    assert labels == ["40.0 dB", "20.0 dB"]
    assert_is_drawn(path)


@pytest.mark.parametrize("code_counts", [None, np.array([5, 0, 9, 0])])
def test_latent_usage(tmp_path, code_counts):
    latents = np.random.default_rng(0).standard_normal((50, 8))
    assert_is_drawn(figures.latent_usage(latents, tmp_path / "latents.png", code_counts=code_counts))


def test_film_strips(tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3), np.uint8)
    strips = [
        figures.FilmStrip("solved", frames, "lara"),
        figures.FilmStrip("not solved", frames[:2], "lara_dit"),
    ]
    assert_is_drawn(figures.film_strips(strips, tmp_path / "films.png"))


def test_code_perplexity_counts_the_codes_in_use():
    assert figures.code_perplexity(np.array([7, 7, 7, 7])) == pytest.approx(4)
    assert figures.code_perplexity(np.array([28, 0, 0, 0])) == pytest.approx(1)
