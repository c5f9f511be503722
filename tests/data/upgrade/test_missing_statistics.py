"""Statistics that a v2.1 dataset lacks are computed, so that LeRobot trains on the result with its default flags."""

import json
import logging
import shutil

import numpy as np
import pytest
from data.test_upgrade_dataset import CAMERAS, IMAGE_KEY, LENGTHS, make_legacy, write_lines
from lerobot.configs.default import DatasetConfig
from lerobot.configs.train import TrainPipelineConfig
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.datasets.factory import make_dataset

from lerobot_lara.data.upgrade import legacy_conversion
from lerobot_lara.data.upgrade.upgrade_dataset import upgrade_dataset
from lerobot_lara.dit.configuration_lara_dit import LaraDiTConfig

SOME = "action"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("legacy")
    return {storage: make_legacy(folder / storage, "v2.1", storage=storage) for storage in ("video", "image")}


def edit_statistics(source, change):
    path = source / "meta/episodes_stats.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        change(line["episode_index"], line["stats"])
    write_lines(path, lines)


@pytest.mark.parametrize("storage", ["video", "image"])
@pytest.mark.parametrize("use_imagenet_stats", [True, False])
def test_cameras_without_statistics(storage, use_imagenet_stats, prepared, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    source = shutil.copytree(prepared[storage], tmp_path / "source")
    cameras = CAMERAS if storage == "video" else (IMAGE_KEY,)
    edit_statistics(source, lambda episode, stats: [stats.pop(key) for key in cameras])
    root = upgrade_dataset(source, tmp_path / "upgraded")
    assert all(key in caplog.text.split("no complete statistics of")[1] for key in cameras)
    full = LeRobotDatasetMetadata("a/b", root=upgrade_dataset(prepared[storage], tmp_path / "full"))
    meta = LeRobotDatasetMetadata("a/b", root=root)
    assert set(meta.stats) == set(full.stats)
    for key in cameras:  # those of the fixture are of the frames before they were encoded
        for name in ("mean", "std"):
            np.testing.assert_allclose(meta.stats[key][name], full.stats[key][name], atol=0.03)
    for name, value in full.stats[SOME].items():
        np.testing.assert_array_equal(meta.stats[SOME][name], value)
    config = TrainPipelineConfig(
        dataset=DatasetConfig(
            repo_id="local/upgraded", root=str(root), use_imagenet_stats=use_imagenet_stats
        ),
        policy=LaraDiTConfig(push_to_hub=False),
    )
    dataset = make_dataset(config)
    assert all(np.shape(dataset.meta.stats[key]["mean"]) == (3, 1, 1) for key in cameras)


def drop(name):
    def change(episode, stats):
        del stats[SOME][name]

    return change


def put(name, value):
    def change(episode, stats):
        if episode == 1:
            stats[SOME][name] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        *(drop(name) for name in ("min", "max", "mean", "std", "count")),
        put("mean", [1.0]),
        put("mean", [[1.0, 1.0]]),
        put("mean", [1.0, [1.0]]),
        put("mean", ["1", "1"]),
        put("mean", None),
        put("mean", [1.0, float("nan")]),
        put("count", [0]),
        put("count", 10**400),
        put("q50", [1.0, 1.0]),
        lambda episode, stats: stats.update({SOME: [1]}),
        lambda episode, stats: stats.pop(SOME) if episode == 2 else None,
    ],
)
def test_incomplete_statistics_are_computed(change, prepared, tmp_path):
    source = shutil.copytree(prepared["image"], tmp_path / "source")
    edit_statistics(source, change)
    root = upgrade_dataset(source, tmp_path / "upgraded", verify="none")
    full = LeRobotDatasetMetadata(
        "a/b", root=upgrade_dataset(prepared["image"], tmp_path / "full", verify="none")
    )
    meta = LeRobotDatasetMetadata("a/b", root=root)
    for name in ("min", "max", "mean", "std", "count"):
        np.testing.assert_allclose(meta.stats[SOME][name], full.stats[SOME][name], rtol=1e-5)
    assert meta.stats[SOME]["count"] == sum(LENGTHS)


def test_statistics_of_what_is_no_feature_are_left_out(prepared, tmp_path):
    source = shutil.copytree(prepared["image"], tmp_path / "source")
    edit_statistics(source, lambda episode, stats: stats.update({"a/../b": stats[SOME], "extra": 1}))
    root = upgrade_dataset(source, tmp_path / "upgraded", verify="none")
    assert not {"a", "a/../b", "extra"} & set(LeRobotDatasetMetadata("a/b", root=root).stats)


def test_complete_statistics_are_kept(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(legacy_conversion, "episode_statistics", lambda *args: 1 / 0)
    root = upgrade_dataset(prepared["image"], tmp_path / "upgraded", verify="none")
    assert LeRobotDatasetMetadata("a/b", root=root).stats[SOME]["count"] == sum(LENGTHS)
