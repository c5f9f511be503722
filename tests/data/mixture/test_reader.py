"""Frame pairs and windows of single columns, which mixtures, probes and data pages read."""

import pytest
import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from support.tiny_datasets import make_tiny_dataset

from lerobot_lara.data.mixture.reader import ColumnReader

CAMERA = "observation.image"


@pytest.fixture(scope="module", params=["image", "video"])
def dataset(request, tmp_path_factory):
    root = make_tiny_dataset(
        tmp_path_factory.mktemp("reader") / "own",
        num_episodes=4,
        num_frames=[5, 9, 3, 6],
        storage=request.param,
    )
    return LeRobotDataset("local/own", root=root, episodes=[1, 2, 3], return_uint8=True, video_backend="pyav")


@pytest.fixture
def reader(dataset):
    return ColumnReader(dataset, name="own", video_backend="pyav", tolerance_s=1e-4)


def test_a_pair_is_two_frames_of_its_episode(dataset, reader):
    assert (reader.episodes, reader.starts.tolist(), reader.lengths.tolist()) == (
        [1, 2, 3],
        [0, 9, 12],
        [9, 3, 6],
    )
    for position, start, gap in ((0, 2, 4), (2, 0, 5), (1, 1, 1)):
        pair = reader.pair(CAMERA, position, start, gap)
        row = reader.starts[position] + start
        frames = torch.stack([dataset[int(each)][CAMERA] for each in (row, row + gap)])
        if frames.is_floating_point():  # as LeRobot hands out images
            frames = (frames * 255).round().to(torch.uint8)
        assert pair.dtype == torch.uint8 and torch.equal(pair, frames)


def test_pairs_lie_within_their_episodes(reader):
    assert reader.num_pairs(0).tolist() == [9, 3, 6]
    assert reader.num_pairs(4).tolist() == [5, 0, 2]


def test_a_window_is_clamped_to_its_episode(reader):
    rows, clamped = reader.window(1, 10, [-2, -1, 0, 1, 2])
    assert rows == [9, 9, 10, 11, 11]
    assert clamped.tolist() == [True, False, False, False, True]
