from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from support.tiny_datasets import REPO_ID, make_tiny_dataset

from lerobot_lara.evaluation.probe.data import Pairs, choose_starts, partners, read_pairs


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_dataset(
        tmp_path_factory.mktemp("data") / "tiny",
        num_episodes=5,
        num_frames=[9, 7, 3, 8, 7],
        cameras=("observation.image", "observation.images.wrist"),
    )


def read(dataset: Path | str, **options: Any) -> Pairs:
    defaults = {"camera": None, "frame_gap": 3, "image_size": 32, "max_pairs": 100, "seed": 0}
    return read_pairs(str(dataset), **(defaults | options))


def test_pairs_and_chunks_are_those_of_the_dataset(root: Path) -> None:
    pairs = read(root, camera="observation.images.wrist")
    dataset = LeRobotDataset(REPO_ID, root=root)
    assert len(pairs) == 6 + 4 + 0 + 5 + 4  # none in the episode of three frames
    for number in range(len(pairs)):
        episode, start = pairs.episodes[number], pairs.starts[number]
        first = int(dataset.meta.episodes["dataset_from_index"][int(episode)]) + int(start)
        items = [dataset[first + step] for step in range(4)]
        assert {int(item["episode_index"]) for item in items} == {episode}
        for time, step in ((0, 0), (1, 3)):
            wanted = items[step]["observation.images.wrist"]
            assert np.allclose(pairs.images(slice(number, number + 1))[0, time], wanted, atol=1e-6)
        assert pairs.actions is not None
        wanted = np.stack([item["action"].numpy() for item in items[:3]])
        assert np.allclose(pairs.actions[number], wanted[:, :2])


def test_constant_action_dimensions_are_left_out_and_named(root: Path) -> None:
    pairs = read(root)
    assert pairs.action_names == ["dimension 0", "dimension 1"]
    assert pairs.constant_actions == ["dimension 2", "dimension 3"]


def test_video_without_actions(tmp_path: Path) -> None:
    video = make_tiny_dataset(tmp_path / "video", num_episodes=4, action=False, state=False, storage="video")
    pairs = read(video, image_size=16)
    assert pairs.actions is None
    assert pairs.frames.shape == (4 * 9, 2, 3, 16, 16)


def test_pairs_are_spread_evenly_over_episodes() -> None:
    lengths = np.array([100, 50, 4, 6, 200])
    positions, starts = choose_starts(lengths, frame_gap=4, max_pairs=60, seed=0)
    assert len(positions) == 60
    counts = np.bincount(positions, minlength=5)
    assert counts[2] == 0 and counts[3] == 2  # all that there is
    assert counts[[0, 1, 4]].tolist() == sorted(counts[[0, 1, 4]]) and np.ptp(counts[[0, 1, 4]]) <= 1
    assert (starts + 4 < lengths[positions]).all()
    assert len(set(zip(positions, starts, strict=True))) == 60
    # Within an episode they cover all of it.
    own = starts[positions == 4]
    assert own.min() < 20 and own.max() > 175 and np.ptp(np.diff(own)) <= 1


def test_choice_follows_the_seed() -> None:
    lengths = np.full(6, 100)
    first, second, other = (
        choose_starts(lengths, frame_gap=4, max_pairs=30, seed=seed)[1] for seed in (0, 0, 1)
    )
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_more_episodes_than_pairs() -> None:
    positions, _ = choose_starts(np.full(50, 10), frame_gap=4, max_pairs=8, seed=0)
    assert len(set(positions)) == 8


def test_partners_are_of_other_episodes_and_varied() -> None:
    episodes = np.array([3] * 40 + [1] * 2 + [7] * 5 + [2])
    found = partners(episodes, seed=0)
    assert (episodes[found] != episodes).all()
    assert set(episodes[found[:40]]) == {1, 7, 2}
    assert len(set(found[:40])) == 8  # all pairs of the other episodes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frame_gap": 8}, "`frame_gap` is 8, and 1 of 5 episodes are longer than that"),
        ({"frame_gap": 20}, "0 of 5 episodes"),
        ({"camera": "observation.images.top"}, "observation.images.top"),
        ({"max_pairs": 3}, "`max_pairs` is 3; it must be at least 4. Pass --max-pairs=4"),
    ],
)
def test_bad_requests_are_explained(options: dict[str, Any], message: str, root: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read(root, **options)


def test_folder_that_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a LeRobotDataset"):
        read(tmp_path)
    with pytest.raises(ValueError, match="mixture file"):
        read(tmp_path / "mixture.yaml")
