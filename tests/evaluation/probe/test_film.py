"""The film of predictions along an episode."""

from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import torch
from lerobot.datasets.video_utils import decode_video_frames

from lerobot_lara.evaluation.probe.film import longest_episode, prediction_film


def test_the_film_shows_the_future_its_prediction_and_what_the_mean_latent_gives(
    pairs, models, measured, tmp_path: Path
) -> None:
    path = prediction_film(models["Oracle"](), pairs, measured("Oracle"), tmp_path / "figures" / "film.mp4")
    chosen = longest_episode(pairs)
    times = [number / 10 for number in range(len(chosen))]  # the pairs are one frame apart, at 10 per second
    film = decode_video_frames(path, times, tolerance_s=1e-4)
    height, width = film.shape[-2:]
    assert height >= 160 and width == 3 * height
    future, predicted, neutral = film.split(height, dim=-1)
    wanted = torch.nn.functional.interpolate(pairs.images(chosen)[:, 1], height)
    errors = [float((panel - wanted).abs().mean()) for panel in (future, predicted, neutral)]
    # What encoding costs; the oracle knows what happens, and the mean latent does not.
    assert errors[0] < 0.01 and errors[1] < 0.01
    assert errors[2] > 2 * errors[1]


def test_the_film_has_the_speed_of_the_episode(pairs, models, measured, tmp_path: Path) -> None:
    every_second = np.arange(0, len(pairs), 2)
    frames = pairs.subset(every_second)
    measurement = measured("Oracle")
    latents = replace(measurement.latents, quantized=measurement.latents.quantized[every_second])
    path = prediction_film(
        models["Oracle"](), frames, replace(measurement, latents=latents), tmp_path / "film.mp4"
    )
    assert av.open(path).streams.video[0].average_rate == 5


def test_the_episode_with_the_most_pairs_is_shown_in_order(pairs) -> None:
    mixed = replace(pairs.subset(np.array([3, 17, 16, 19, 40])), starts=np.array([0, 9, 2, 5, 0]))
    assert longest_episode(mixed).tolist() == [2, 3, 1]
