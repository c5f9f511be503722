"""Faults in the numbers and videos of a dataset, found before training or named where they occur."""

import json
import logging
import re

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from lerobot.datasets import LeRobotDataset
from support.helpers import run_train
from support.tiny_datasets import REPO_ID, make_tiny_dataset

from lerobot_lara.data.mixture.build import build_mixture
from lerobot_lara.data.mixture.config import EntryConfig, MixtureConfig, VectorMap
from lerobot_lara.data.mixture.number_checks import LARGEST
from lerobot_lara.data.mixture.reader import ColumnReader
from lerobot_lara.data.mixture.unreadable import UnreadableFrameError
from lerobot_lara.evaluation.show_data.page import show_data

from .conftest import lara_config

DIT = {
    "policy__type": "lara_dit",
    "policy__image_size": 32,
    "policy__text_encoder": "null",
    "policy__width": 32,
    "policy__num_layers": 2,
    "policy__num_heads": 2,
    "policy__vision_encoder_width": 16,
    "policy__chunk_size": 8,
}
LAM = {
    "policy__type": "lara_lam",
    "policy__frame_gap": 4,
    "policy__image_size": 32,
    "policy__prediction_size": 16,
    "policy__idm_num_layers": 1,
    "policy__fdm_num_layers": 1,
}


def build(root, *, entry=None, tolerance_s=1e-4, **mixture):
    config = MixtureConfig([EntryConfig("own", REPO_ID, root=str(root), **entry or {})], **mixture)
    return build_mixture(config, lara_config(), path="m.yaml", video_backend="pyav", tolerance_s=tolerance_s)[
        0
    ]


def change(root, key, function):
    """Rewrites a column of a dataset's table."""
    for file in root.glob("data/**/*.parquet"):
        table = pq.read_table(file)
        values = function(np.array(table[key].to_pylist()))
        column = pa.array(values.tolist(), type=table.schema.field(key).type)
        pq.write_table(table.set_column(table.schema.names.index(key), table.schema.field(key), column), file)


def change_stats(root, function):
    file = root / "meta" / "stats.json"
    stats = json.loads(file.read_text())
    function(stats)
    file.write_text(json.dumps(stats))
    return stats


# Values


@pytest.mark.parametrize("key", ["action", "observation.state"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, -1.01 * LARGEST])
def test_a_value_that_nothing_can_learn_from_is_named(tiny_dataset, key, value):
    root = tiny_dataset()

    def spoil(values):
        values[17, 2] = value
        return values

    change(root, key, spoil)
    with pytest.raises(
        ValueError,
        match=rf"'own' cannot be trained on. `{key}` is \S+ in dimension 2 of frame 5 of episode 1",
    ):
        build(root)
    if key == "action":
        build(root, entry={"episodes": [0]})
    with pytest.raises(ValueError, match=rf"`{key}` is \S+ in dimension 2 of frame 5 of episode 1"):
        show_data(str(root), out=root / "p.html", frame_gap=3)


def test_columns_that_are_not_used_are_not_checked(tiny_dataset, tmp_path):
    root = tiny_dataset()
    change(root, "action", lambda values: values * np.nan)
    run_train(**LAM, dataset__root=root, output_dir=tmp_path / "out", steps=1)
    with pytest.raises(ValueError, match=r"Entry 'local/tiny' cannot be trained on. `action` is nan"):
        run_train(**DIT, dataset__root=root, output_dir=tmp_path / "never")
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize("times", [[0.0, 0.2, 0.1], [0.0, 0.1, 0.1], [0.0, np.nan, 0.2]])
def test_timestamps_must_grow(tiny_dataset, times):
    root = tiny_dataset()

    def spoil(values):
        values[12:15] = times
        return values

    change(root, "timestamp", spoil)
    with pytest.raises(ValueError, match=r"`timestamp` is .* in frame [12] of episode 1"):
        build(root)


# Statistics


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda stats: stats.pop("action"), "are missing"),
        (lambda stats: stats.clear(), "are missing"),
        (lambda stats: stats["action"].update(mean=[float("nan")] * 4), "have a `mean` that is not finite"),
        (lambda stats: stats["action"].update(std=[0.1]), "have 1 values of `std` for 4 dimensions"),
        (lambda stats: stats["action"].update(std=[0.0] * 4), r"say that dimensions \[0, 1\] never change"),
    ],
)
def test_statistics_that_cannot_be_used_are_computed(tiny_dataset, caplog, spoil, fault):
    right = build(tiny_dataset()).meta.stats["action"]
    root = tiny_dataset()
    change_stats(root, spoil)
    with caplog.at_level(logging.WARNING):
        stats = build(root).meta.stats["action"]
    assert re.search(f"statistics of `action` .*{fault}", caplog.text)
    for name in ("mean", "std", "min", "max"):
        np.testing.assert_allclose(stats[name], right[name], atol=1e-5)


def test_a_run_without_statistics_trains_as_with_them(tiny_dataset, tmp_path):
    root = tiny_dataset()
    whole = run_train(**DIT, dataset__root=root, output_dir=tmp_path / "whole")
    (root / "meta" / "stats.json").unlink()
    bare = run_train(**DIT, dataset__root=root, output_dir=tmp_path / "bare")
    assert bare.values("loss") == pytest.approx(whole.values("loss"), rel=1e-4)


def test_statistics_that_do_not_cover_the_values_are_reported(tiny_dataset, caplog):
    root = tiny_dataset()
    change(root, "action", lambda values: values * 3)
    build(root)
    assert "the statistics of `action` in meta/stats.json do not cover all values of dimensions [0, 1]" in (
        caplog.text
    )


# Types and shapes


def dataset_of(root, *, action="float32", state="float32", action_shape=(4,), state_shape=(4,)):
    """The same whole numbers, whatever their type."""
    features = {
        "observation.image": {
            "dtype": "image",
            "shape": (32, 32, 3),
            "names": ["height", "width", "channels"],
        },
        "observation.state": {"dtype": state, "shape": state_shape, "names": None},
        "action": {"dtype": action, "shape": action_shape, "names": None},
    }
    dataset = LeRobotDataset.create(REPO_ID, fps=10, features=features, root=root, use_videos=False)
    generator = np.random.default_rng(0)
    for _ in range(12):
        dataset.add_frame(
            {
                "observation.image": generator.integers(0, 255, (32, 32, 3), dtype=np.uint8),
                "observation.state": generator.integers(0, 2, state_shape).astype(state),
                "action": generator.integers(0, 2, action_shape).astype(action),
                "task": "t",
            }
        )
    dataset.save_episode()
    dataset.finalize()
    return root


@pytest.mark.parametrize("dtype", ["int64", "int8", "bool"])
def test_integers_and_booleans_train_as_the_same_floats(tmp_path, dtype):
    losses = []
    for name in ("float32", dtype):
        root = dataset_of(tmp_path / name, action=name, state=name)
        losses.append(
            run_train(**DIT, dataset__root=root, output_dir=tmp_path / f"{name}_out").values("loss")
        )
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


@pytest.mark.parametrize("shapes", [{"action_shape": (1,)}, {"state_shape": (1,)}])
def test_vectors_of_length_1_train(tmp_path, shapes):
    root = dataset_of(tmp_path / "data", **shapes)
    run = run_train(**DIT, dataset__root=root, output_dir=tmp_path / "out", batch_size=8)
    assert np.isfinite(run.values("loss")).all()


@pytest.mark.parametrize("name", ["action", "state"])
def test_columns_of_higher_rank_say_how_to_flatten(tmp_path, name):
    root = dataset_of(tmp_path / "data", **{f"{name}_shape": (2, 3)})
    with pytest.raises(ValueError, match=rf"the {name} of entry 'own', .*\(2, 3\).*vectors of length 6"):
        build(root)
    if name == "state":
        assert build(root, entry={"state": VectorMap(None)})[0].get("observation.state") is None


# Videos


@pytest.fixture
def video_root(tmp_path):
    return make_tiny_dataset(tmp_path / "video", storage="video")


def the_video(root):
    (file,) = root.glob("videos/**/*.mp4")
    return file


def test_times_that_differ_name_the_flag_that_mends_them(video_root, tmp_path):
    change(video_root, "timestamp", lambda times: times * 1.01)
    with pytest.raises(
        ValueError,
        match=r"file-000.mp4: frame 11 of episode 1 of 'own', at \S+ s, camera observation.image.*"
        r"other times than the table; --tolerance_s=0.05 takes",
    ):
        build(video_root)
    run = run_train(**DIT, dataset__root=video_root, tolerance_s=0.05, output_dir=tmp_path / "out", steps=6)
    assert np.isfinite(run.values("loss")).all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            "Git LFS pointer.*git lfs pull",
        ),
        (b"", "is empty"),
        (b"no video" * 100, "Download the file again, or leave the episode out"),
    ],
)
def test_a_file_that_is_no_video_is_found_before_training(video_root, content, message):
    file = the_video(video_root)
    file.write_bytes(content)
    with pytest.raises(ValueError, match=rf"(?s)file-000.mp4: frame 11 of episode 1 of 'own'.*{message}"):
        build(video_root)


def test_a_missing_video_is_named(video_root):
    the_video(video_root).unlink()
    with pytest.raises(ValueError, match=r"file-000.mp4 does not exist \(1 of 2 files of local/tiny"):
        build(video_root)


def test_a_video_shorter_than_its_table_is_found_before_training(video_root):
    """The last frame lies beyond the end of the file."""
    file = video_root / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
    table = pq.read_table(file)
    for name in ("from", "to"):
        key = f"videos/observation.image/{name}_timestamp"
        later = pa.array([time + 0.5 for time in table[key].to_pylist()])
        table = table.set_column(table.schema.names.index(key), key, later)
    pq.write_table(table, file)
    with pytest.raises(ValueError, match="frame 11 of episode 1 of 'own'"):
        build(video_root)


def break_frame(root, number):
    """Overwrites a compressed frame and those that build on it, up to the next key frame."""
    file = the_video(root)
    with av.open(str(file)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    with file.open("r+b") as opened:
        position, size = packets[number]
        opened.seek(position)
        opened.write(b"\xff" * size)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_frame_that_is_broken_in_the_middle_is_named_in_training(video_root, tmp_path, workers):
    break_frame(video_root, 16)
    with pytest.raises(
        ValueError,
        match=r"(?s)file-000.mp4: frames? .*of episode \d of 'local/tiny', at [\d.]+.* s, camera observation.image, "
        r"cannot be read \(.*`on_broken_video: skip`",
    ):
        run_train(
            **DIT,
            dataset__root=video_root,
            dataset__video_backend="pyav",
            output_dir=tmp_path / "out",
            steps=12,
            num_workers=workers,
        )


def test_broken_frames_are_skipped_and_counted(video_root, caplog):
    break_frame(video_root, 16)
    with pytest.raises(UnreadableFrameError):
        list(iter_all(build(video_root)))
    samples = list(iter_all(build(video_root, on_broken_video="skip")))
    again = list(iter_all(build(video_root, on_broken_video="skip")))
    assert len(samples) == 24
    assert all(torch.equal(a["timestamp"], b["timestamp"]) for a, b in zip(samples, again, strict=True))
    assert "Skipped (1 of " in caplog.text
    assert "of episode 1 of 'own'" in caplog.text


def test_too_many_broken_frames_stop_the_run(video_root, monkeypatch):
    def decode(self, file, timestamps, backend):
        raise RuntimeError("Invalid data found when processing input")

    monkeypatch.setattr(ColumnReader, "_decode_nearest", decode)
    with pytest.raises(UnreadableFrameError, match=r"22 of the 22 frames that were read cannot be decoded"):
        list(iter_all(build(video_root, on_broken_video="skip")))


def iter_all(dataset):
    return (dataset[index] for index in range(len(dataset)))
