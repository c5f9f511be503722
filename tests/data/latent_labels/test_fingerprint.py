"""Whether a dataset still is the one that was labeled: edits that change it, and edits that do not."""

import shutil

import numpy as np
import pytest
from lerobot.datasets.dataset_tools import add_features, delete_episodes, remove_feature, split_dataset
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from support.tiny_datasets import REPO_ID, make_tiny_dataset

from lerobot_lara.data.latent_labels.fingerprint import episode_lengths, find_difference, frame_files

CAMERA = "observation.image"
LENGTHS = [8, 6, 8, 6]


@pytest.fixture(scope="module", params=["image", "video"])
def dataset(request, tmp_path_factory):
    root = tmp_path_factory.mktemp(request.param) / "data"
    make_tiny_dataset(root, num_episodes=4, num_frames=LENGTHS, storage=request.param)
    return LeRobotDataset(REPO_ID, root=root)


def record(dataset):
    """What a manifest says of a dataset."""
    episodes = range(dataset.meta.total_episodes)
    return {
        "fps": float(dataset.meta.fps),
        "episode_lengths": episode_lengths(dataset.meta),
        "files": frame_files(dataset.meta, CAMERA, episodes),
    }


def difference(dataset, labeled, episodes=None):
    chosen = range(dataset.meta.total_episodes) if episodes is None else episodes
    return find_difference(dataset.meta, labeled, CAMERA, chosen)


def reopened(root):
    return LeRobotDataset(REPO_ID, root=root)


def test_a_dataset_is_itself(dataset, tmp_path):
    assert difference(dataset, record(dataset)) is None
    moved = shutil.copytree(dataset.root, tmp_path / "moved")
    assert difference(reopened(moved), record(dataset)) is None
    assert record(dataset)["episode_lengths"] == LENGTHS and len(record(dataset)["files"]) == 1


def test_added_and_removed_columns_do_not_matter(dataset, tmp_path):
    labeled = record(dataset)
    values = np.arange(sum(LENGTHS), dtype=np.float32)[:, None]
    feature = {"dtype": "float32", "shape": (1,), "names": None}
    wider = add_features(
        dataset, {"latent": (values, feature)}, output_dir=tmp_path / "wider", repo_id=REPO_ID
    )
    assert difference(wider, labeled) is None
    narrower = remove_feature(wider, "observation.state", output_dir=tmp_path / "narrower", repo_id=REPO_ID)
    assert difference(narrower, labeled) is None


def test_deleted_episodes_are_found(dataset, tmp_path):
    last = delete_episodes(dataset, [3], output_dir=tmp_path / "last", repo_id=REPO_ID)
    assert difference(last, record(dataset)) == "it has 3 episodes, and 4 were labeled"


def test_renumbered_episodes_are_found_even_if_as_many_are_left(dataset, tmp_path):
    """Episodes 0 and 1 are deleted; what is left has the lengths of the two that were labeled."""
    first = split_dataset(dataset, {"kept": [0, 1]}, output_dir=tmp_path / "split")["kept"]
    labeled = record(first)
    rest = delete_episodes(dataset, [0, 1], output_dir=tmp_path / "rest", repo_id=REPO_ID)
    assert episode_lengths(rest.meta) == labeled["episode_lengths"] == [8, 6]
    assert "holds other frames than when it was labeled" in difference(rest, labeled)


def test_other_lengths_and_rates_are_found(dataset):
    labeled = record(dataset)
    swapped = labeled | {"episode_lengths": [6, 8, 8, 6]}
    assert difference(dataset, swapped) == "its episode 0 has 8 frames, and had 6 when it was labeled"
    assert "10 frames per second, and had 20" in difference(dataset, labeled | {"fps": 20.0})


def test_other_frames_are_found(dataset, tmp_path):
    """A re-recorded dataset of the same lengths."""
    other = tmp_path / "other"
    storage = "video" if dataset.meta.video_keys else "image"
    make_tiny_dataset(other, num_episodes=4, num_frames=LENGTHS, storage=storage, seed=5)
    assert "holds other frames than when it was labeled" in difference(reopened(other), record(dataset))


def test_a_file_that_was_not_labeled_is_found(dataset):
    assert "was not there when it was labeled" in difference(dataset, record(dataset) | {"files": {}})


def test_only_the_files_in_use_count(dataset, tmp_path):
    """Of a dataset on the Hub, only these are on this machine."""
    labeled = record(dataset)
    partial = shutil.copytree(dataset.root, tmp_path / "partial")
    meta = reopened(partial).meta
    for file in labeled["files"]:
        (partial / file).unlink()
    assert frame_files(meta, CAMERA, range(4)) == {}
    assert find_difference(meta, labeled, CAMERA, range(4)) is None
    assert frame_files(dataset.meta, CAMERA, []) == {}
