import numpy as np
import pytest

from lerobot_lara.evaluation import figures


def test_success_bars(tmp_path, results, assert_is_drawn):
    assert_is_drawn(
        figures.success_bars(results(dit=(0, 20), lara=(20, 3))["arms"], tmp_path / "sub" / "bars.png")
    )


def test_training_curves(tmp_path, assert_is_drawn):
    dit = {"loss": [(1, 0.5), (2, 0.4)], "lr": [(1, 1e-4)]}
    lara = {**dit, "alignment_loss": [(1, 0.9), (2, 0.7)], "psnr": [(2, 20.0)], "copy_psnr": [(2, 18.0)]}
    assert_is_drawn(figures.training_curves({"lara_dit": dit, "lara": lara}, tmp_path / "curves.png"))


def test_training_curves_without_any_metric_say_so(tmp_path):
    with pytest.raises(ValueError, match="without any logged metric"):
        figures.training_curves({"lara": {}}, tmp_path / "curves.png")


def test_film_strips(tmp_path, assert_is_drawn):
    frames = np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3), np.uint8)
    strips = [
        figures.FilmStrip("solved", frames, "lara"),
        figures.FilmStrip("not solved", frames[:2], "lara_dit"),
    ]
    assert_is_drawn(figures.film_strips(strips, tmp_path / "films.png"))
