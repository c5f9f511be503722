"""Datasets laid out by hand as LeRobot's formats v2.0 and v2.1 had them, upgraded and opened by stock LeRobot."""

import hashlib
import io
import json
import logging
import shutil
from fractions import Fraction

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.utils.feature_utils import dataset_to_policy_features
from PIL import Image

from lerobot_lara.cli import main
from lerobot_lara.data.upgrade import legacy_conversion, legacy_dataset, legacy_statistics, verify
from lerobot_lara.data.upgrade import upgrade_dataset as module
from lerobot_lara.data.upgrade.upgrade_dataset import upgrade_dataset
from lerobot_lara.data.upgrade.verify import UpgradeMismatchError

HEIGHT, WIDTH, FPS = 32, 48, 10
LENGTHS = (5, 8, 6)
TASKS = ("push the square", "leave the square")
CAMERAS = ("observation.images.front", "observation.images.wrist")
IMAGE_KEY = "observation.image"


def draw(episode, frame, camera):
    picture = np.full((HEIGHT, WIDTH, 3), 20 + 40 * camera, np.uint8)
    picture[4 * episode : 4 * episode + 8, 4 * frame : 4 * frame + 8] = (230, 90 * camera, 60)
    return picture


def write_video(path, pictures, fps, codec="libx264"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(fps), options={"g": "2"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())


def to_png(picture):
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "png")
    return {"bytes": buffer.getvalue(), "path": None}


def plain_statistics(values):
    values = np.asarray(values, np.float64)
    values = values.reshape(len(values), -1)
    statistics = {name: getattr(values, name)(axis=0).tolist() for name in ("min", "max", "mean", "std")}
    return statistics | {"count": [len(values)]}


def write_lines(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def make_legacy(root, version="v2.0", *, storage="video", fps=FPS, names=("height", "width", "rgb")):
    """Three episodes in two chunks, two tasks; two cameras as videos, or one as images in the data files."""
    (root / "meta").mkdir(parents=True)
    cameras = CAMERAS if storage == "video" else (IMAGE_KEY,)
    scalars = {"timestamp": "float32"} | dict.fromkeys(
        ("frame_index", "episode_index", "index", "task_index"), "int64"
    )
    video_info = {"video.fps": float(fps), "video.codec": "h264", "video.pix_fmt": "yuv420p"}
    video_info |= {"video.is_depth_map": False, "has_audio": False}
    features = {
        "observation.state": {"dtype": "float32", "shape": [3], "names": {"motors": ["x", "y", "gripper"]}},
        "action": {"dtype": "float32", "shape": [2], "names": None},
        "next.done": {"dtype": "bool", "shape": [1], "names": None},
        **{
            key: {"dtype": storage, "shape": [HEIGHT, WIDTH, 3], "names": names and list(names)}
            | ({"video_info": video_info} if storage == "video" else {})
            for key in cameras
        },
        **{key: {"dtype": dtype, "shape": [1], "names": None} for key, dtype in scalars.items()},
    }
    generator, start, all_statistics = np.random.default_rng(0), 0, []
    for episode, length in enumerate(LENGTHS):
        chunk = f"chunk-{episode // 2:03d}"
        state = generator.normal(size=(length, 3)).astype(np.float32)
        state[0] = (np.nan, -0.0, 0.0)
        columns = {
            "observation.state": pa.FixedSizeListArray.from_arrays(pa.array(state.ravel()), 3),
            "action": pa.array(
                generator.normal(size=(length, 2)).astype(np.float32).tolist(), pa.list_(pa.float32())
            ),
            "next.done": pa.array([frame == length - 1 for frame in range(length)]),
            "timestamp": pa.array((np.arange(length) / fps).astype(np.float32)),
            "frame_index": pa.array(range(length)),
            "episode_index": pa.array([episode] * length),
            "index": pa.array(range(start, start + length)),
            "task_index": pa.array([episode % 2] * length),
        }
        statistics = {
            key: plain_statistics(column.to_pylist())
            for key, column in columns.items()
            if key != "observation.state"
        } | {"observation.state": plain_statistics(np.nan_to_num(state))}
        for number, key in enumerate(cameras):
            pictures = [draw(episode, frame, number) for frame in range(length)]
            per_channel = plain_statistics(np.stack(pictures).reshape(-1, 3) / 255)
            statistics[key] = {
                name: np.reshape(value, (3, 1, 1)).tolist()
                for name, value in per_channel.items()
                if name != "count"
            } | {"count": [length]}
            if storage == "video":
                write_video(root / "videos" / chunk / key / f"episode_{episode:06d}.mp4", pictures, fps)
            else:
                columns[key] = pa.array([to_png(picture) for picture in pictures])
        path = root / "data" / chunk / f"episode_{episode:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), path)
        all_statistics.append({"episode_index": episode, "stats": statistics})
        start += length
    info = {
        "codebase_version": version,
        "robot_type": "synthetic",
        "total_episodes": len(LENGTHS),
        "total_frames": start,
        "total_tasks": len(TASKS),
        "total_videos": len(LENGTHS) * len(CAMERAS) if storage == "video" else 0,
        "total_chunks": 2,
        "chunks_size": 2,
        "fps": fps,
        "splits": {"train": f"0:{len(LENGTHS)}"},
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
        if storage == "video"
        else None,
        "features": features,
    }
    (root / "meta" / "info.json").write_text(json.dumps(info, indent=4))
    write_lines(
        root / "meta" / "tasks.jsonl", [{"task_index": i, "task": task} for i, task in enumerate(TASKS)]
    )
    write_lines(
        root / "meta" / "episodes.jsonl",
        [
            {"episode_index": episode, "tasks": [TASKS[episode % 2]], "length": length}
            for episode, length in enumerate(LENGTHS)
        ],
    )
    if version == "v2.1":
        write_lines(root / "meta" / "episodes_stats.jsonl", all_statistics)
    else:
        (root / "meta" / "stats.json").write_text(json.dumps({"action": {"max": [1.0, 1.0]}}))
    return root


def digest(root):
    return {
        str(path.relative_to(root)): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def edit_info(root, **changes):
    path = root / "meta" / "info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Makes each kind of dataset once; tests that change one get a copy."""
    folder = tmp_path_factory.mktemp("legacy")
    kinds = {"v2.0": ("v2.0", "video"), "v2.1": ("v2.1", "video"), "images": ("v2.0", "image")}
    return {
        name: make_legacy(folder / name, version, storage=storage)
        for name, (version, storage) in kinds.items()
    }


@pytest.fixture(scope="module")
def upgraded(prepared, tmp_path_factory):
    """Upgrades each kind of dataset once, for tests that only read the result; all originals stay as they were."""
    folder = tmp_path_factory.mktemp("upgraded")
    before = {kind: digest(source) for kind, source in prepared.items()}
    roots = {kind: upgrade_dataset(source, folder / kind) for kind, source in prepared.items()}
    assert {kind: digest(source) for kind, source in prepared.items()} == before
    assert sorted(path.name for path in folder.iterdir()) == sorted(prepared)
    return roots


@pytest.fixture
def legacy(prepared, tmp_path):
    def copy(kind="v2.0"):
        return shutil.copytree(prepared[kind], tmp_path / "source")

    return copy


@pytest.mark.parametrize("kind", ["v2.0", "v2.1", "images"])
def test_stock_lerobot_reads_what_was_there(kind, prepared, upgraded):
    source, root = prepared[kind], upgraded[kind]
    dataset = LeRobotDataset("local/upgraded", root=root)
    assert dataset.meta.info.codebase_version == "v3.0" and dataset.fps == FPS
    assert (dataset.num_episodes, dataset.num_frames) == (len(LENGTHS), sum(LENGTHS))
    assert dataset.meta.episodes["length"][:] == list(LENGTHS)
    assert dataset.meta.robot_type == "synthetic"
    cameras = (IMAGE_KEY,) if kind == "images" else CAMERAS
    index = 0
    for episode, length in enumerate(LENGTHS):
        table = pq.read_table(
            source / f"data/chunk-{episode // 2:03d}/episode_{episode:06d}.parquet", partitioning=None
        )
        for frame in range(length):
            item = dataset[index]
            assert item["task"] == TASKS[episode % 2]
            assert (item["episode_index"], item["frame_index"], item["index"]) == (episode, frame, index)
            for key in ("observation.state", "action", "timestamp", "next.done"):
                expected = np.array(table[key][frame].as_py(), item[key].numpy().dtype)
                assert item[key].numpy().tobytes() == expected.tobytes(), key
            for number, key in enumerate(cameras):
                image = item[key].permute(1, 2, 0).numpy() * 255
                drawn = draw(episode, frame, number).astype(float)
                assert np.abs(image - drawn).mean() < (0.01 if kind == "images" else 8)  # compression
            index += 1


def test_statistics_are_those_of_the_frames(prepared, upgraded):
    for kind in ("v2.0", "v2.1"):
        meta = LeRobotDatasetMetadata("local/upgraded", root=upgraded[kind])
        actions = np.concatenate(
            [
                pq.read_table(path, partitioning=None)["action"].to_pylist()
                for path in sorted((prepared[kind] / "data").glob("*/*.parquet"))
            ]
        )
        for name in ("min", "max", "mean", "std"):
            np.testing.assert_allclose(meta.stats["action"][name], getattr(actions, name)(axis=0), rtol=1e-4)
        assert meta.stats["action"]["count"] == sum(LENGTHS)
        pictures = np.stack(
            [draw(episode, frame, 1) for episode, length in enumerate(LENGTHS) for frame in range(length)]
        )
        found = meta.stats[CAMERAS[1]]
        assert found["mean"].shape == (3, 1, 1)
        np.testing.assert_allclose(found["mean"].ravel(), pictures.mean(axis=(0, 1, 2)) / 255, atol=0.02)
        np.testing.assert_allclose(found["std"].ravel(), pictures.std(axis=(0, 1, 2)) / 255, atol=0.03)


def test_statistics_agree_with_a_recording(tiny_dataset):
    """The same frames recorded by LeRobot have the same statistics."""
    recorded = LeRobotDatasetMetadata("local/tiny", root=tiny_dataset(num_frames=[7], num_episodes=1))
    table = pq.read_table(recorded.root / recorded.get_data_file_path(0), partitioning=None)

    class Recorded(legacy_dataset.LegacyDataset):
        def read_table(self, episode):
            return table

    info = {"features": recorded.features, "fps": recorded.fps}
    computed = legacy_statistics.episode_statistics(Recorded(recorded.root, info, [], []), 0)
    assert set(computed) == set(recorded.stats)
    for key, statistics in recorded.stats.items():
        for name, value in statistics.items():
            np.testing.assert_allclose(computed[key][name], value, rtol=1e-6, err_msg=f"{key} {name}")


def test_small_files_and_many_metadata_files(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(legacy_conversion, "_EPISODES_PER_FILE", 2)
    monkeypatch.setattr(legacy_conversion, "DEFAULT_DATA_FILE_SIZE_IN_MB", 1e-6)
    root = upgrade_dataset(prepared["v2.1"], tmp_path / "upgraded")
    assert len(list((root / "data").rglob("*.parquet"))) == len(LENGTHS)
    assert len(list((root / "meta/episodes").rglob("*.parquet"))) == 2
    dataset = LeRobotDataset("local/upgraded", root=root)
    assert dataset[len(dataset) - 1]["episode_index"] == 2
    assert dataset.meta.stats["action"]["count"] == sum(LENGTHS)
    assert [row["meta/episodes/file_index"] for row in dataset.meta.episodes] == [0, 0, 1]


def test_channel_names_let_policies_find_the_channels(upgraded):
    """The Hub's Open X-Embodiment datasets name the last dimension "rgb", which LeRobot does not know."""
    meta = LeRobotDatasetMetadata("local/upgraded", root=upgraded["v2.0"])
    features = dataset_to_policy_features(meta.features)
    assert features[CAMERAS[0]].shape == (3, HEIGHT, WIDTH)
    assert legacy_conversion._with_channel_names("c", {"dtype": "video", "shape": [3, 4, 5], "names": None})[
        "names"
    ] == [
        "channels",
        "height",
        "width",
    ]


def test_unusual_but_valid_metadata(tmp_path):
    source = make_legacy(tmp_path / "source", "v2.1", fps=3.75, names=None)
    info = json.loads((source / "meta/info.json").read_text())
    for key in ("total_chunks", "total_videos"):
        del info[key]
    info["data_path"] = info["data_path"].replace("episode_chunk", "chunk_index")
    for key in CAMERAS:  # as in the Hub's Open X-Embodiment datasets of format v2.0
        del info["features"][key]["video_info"]
    (source / "meta/info.json").write_text(json.dumps(info))
    (source / "meta/modality.json").write_text('{"state": {}}')
    (source / "data/chunk-000/notes.parquet").write_text("a stray file")
    root = upgrade_dataset(source, tmp_path / "upgraded")
    dataset = LeRobotDataset(
        "local/upgraded", root=root, delta_timestamps={CAMERAS[0]: [0, 2 / 3.75], "action": [0, 1 / 3.75]}
    )
    assert dataset.fps == 3.75 and dataset.meta.features["action"]["fps"] == 3.75
    assert dataset[1][CAMERAS[0]].shape == (2, 3, HEIGHT, WIDTH)
    assert (root / "meta/modality.json").read_text() == '{"state": {}}'


# Interruptions and what is in the way


@pytest.mark.parametrize(
    ("owner", "function", "calls"),
    [
        (legacy_conversion, "episode_statistics", 2),
        (legacy_conversion, "_join_data", 1),
        (legacy_conversion, "convert_videos_of_camera", 2),
        (legacy_conversion, "_write_episodes", 1),
        (module, "verify_upgrade", 1),
    ],
)
def test_an_interrupted_run_goes_on(owner, function, calls, prepared, tmp_path, monkeypatch):
    """Interrupted in the last of `calls` calls; what was finished before is not done again."""
    original, seen, interrupt = getattr(owner, function), [], True

    def interrupted(*args, **kwargs):
        seen.append(args)
        if interrupt and len(seen) == calls:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, function, interrupted)
    with pytest.raises(KeyboardInterrupt):
        upgrade_dataset(prepared["v2.0"], tmp_path / "upgraded")
    assert not (tmp_path / "upgraded").exists()
    if function == "episode_statistics":  # killed while it wrote a line
        with (tmp_path / "upgraded.partial/links/meta/episodes_stats.jsonl").open("a") as file:
            file.write('{"episode_index": 1, "st')
    interrupt = False
    root = upgrade_dataset(prepared["v2.0"], tmp_path / "upgraded")
    assert len(LeRobotDatasetMetadata("local/upgraded", root=root).episodes) == len(LENGTHS)
    assert not (tmp_path / "upgraded.partial").exists()
    once = {"episode_statistics": len(LENGTHS), "convert_videos_of_camera": len(CAMERAS)}.get(function, 1)
    assert len(seen) == once + 1


def test_a_finished_upgrade_is_left_alone(legacy, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    source = legacy("images")
    root = upgrade_dataset(source, tmp_path / "upgraded")
    before = digest(root)
    leftover = tmp_path / "upgraded.partial"
    leftover.mkdir()
    (leftover / "notes.txt").write_text("not of an upgrade")
    assert upgrade_dataset(source, root) == root
    assert digest(root) == before and "already complete" in caplog.text and (leftover / "notes.txt").exists()
    shutil.copy(root / "meta/upgrade.json", leftover)
    assert upgrade_dataset(source, root) == root and not leftover.exists()
    edit_info(source, robot_type="another")
    with pytest.raises(ValueError, match="has changed since"):
        upgrade_dataset(source, root)
    with pytest.raises(ValueError, match="belongs to another upgrade"):
        upgrade_dataset(shutil.copytree(source, tmp_path / "other"), root)
    assert digest(root) == before


def test_nothing_of_the_users_is_overwritten(prepared, tmp_path):
    source = prepared["images"]
    mine = tmp_path / "mine"
    mine.mkdir()
    assert upgrade_dataset(source, mine) == mine  # an empty directory is fine
    shutil.rmtree(mine)
    (mine / "thesis").mkdir(parents=True)
    with pytest.raises(ValueError, match="was not written by upgrade-dataset"):
        upgrade_dataset(source, mine)
    staging = tmp_path / "new.partial"
    staging.mkdir()
    (staging / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="not an interrupted upgrade"):
        upgrade_dataset(source, tmp_path / "new")
    assert (staging / "notes.txt").read_text() == "mine" and (mine / "thesis").is_dir()
    for inside in (source, source / "upgraded", source.parent):
        with pytest.raises(ValueError, match=r"must not contain the source .* or be inside it"):
            upgrade_dataset(source, inside)


def test_an_interrupted_run_belongs_to_its_source(legacy, tmp_path, monkeypatch):
    source = legacy("images")
    with monkeypatch.context() as patch:
        patch.setattr(legacy_conversion, "_join_data", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            upgrade_dataset(source, tmp_path / "upgraded")
    with pytest.raises(ValueError, match="`video_file_size_in_mb` was 200 and is now 5"):
        upgrade_dataset(source, tmp_path / "upgraded", video_file_size_in_mb=5)
    edit_info(source, robot_type="another")
    with pytest.raises(ValueError, match="info_sha256"):
        upgrade_dataset(source, tmp_path / "upgraded")


# Verification


def replace_column(path, key, change):
    table = pq.read_table(path, partitioning=None)
    values = table[key].to_pylist()
    change(values)
    position = table.column_names.index(key)
    pq.write_table(table.set_column(position, key, pa.array(values, table.schema.field(key).type)), path)


def set_value(frame, value):
    def change(values):
        values[frame] = value

    return change


FIRST_OF_EPISODE_1 = LENGTHS[0]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("action", [0.5, 0.25], "episode 1, frame 2, action"),
        ("timestamp", 0.2000001, "episode 1, frame 2, timestamp"),
        ("next.done", True, "episode 1, frame 2, next.done"),
        ("task_index", 0, "episode 1, frame 2, task_index"),
        ("index", 3, "episode 1, frame 2, index"),
    ],
)
def test_a_changed_number_is_found(key, value, message, prepared, tmp_path, monkeypatch):
    def damaged(dataset, root):
        result = join_data(dataset, root)
        (path,) = (root / "data").rglob("*.parquet")
        replace_column(path, key, set_value(FIRST_OF_EPISODE_1 + 2, value))
        return result

    join_data = legacy_conversion._join_data
    monkeypatch.setattr(legacy_conversion, "_join_data", damaged)
    with pytest.raises(UpgradeMismatchError, match=message):
        upgrade_dataset(prepared["images"], tmp_path / "upgraded", verify="sample")
    assert not (tmp_path / "upgraded").exists()


def test_a_sign_of_zero_is_found(prepared, tmp_path, monkeypatch):
    def damaged(dataset, root):
        result = join_data(dataset, root)
        (path,) = (root / "data").rglob("*.parquet")
        replace_column(path, "observation.state", set_value(FIRST_OF_EPISODE_1, [np.nan, 0.0, 0.0]))
        return result

    join_data = legacy_conversion._join_data
    monkeypatch.setattr(legacy_conversion, "_join_data", damaged)
    with pytest.raises(UpgradeMismatchError, match=r"episode 1, frame 0, observation\.state"):
        upgrade_dataset(prepared["images"], tmp_path / "upgraded")


def test_a_changed_task_is_found(prepared, tmp_path, monkeypatch):
    def swapped(links, root):
        lines = (links / "meta/tasks.jsonl").read_text()
        swap = lines.replace("push", "?").replace("leave", "push").replace("?", "leave")
        (links / "meta/tasks.jsonl").write_text(swap)
        convert_tasks(links, root)

    convert_tasks = legacy_conversion.convert_tasks
    monkeypatch.setattr(legacy_conversion, "convert_tasks", swapped)
    with pytest.raises(
        UpgradeMismatchError, match="episode 0, frame 0, task: 'push the square' became 'leave"
    ):
        upgrade_dataset(prepared["images"], tmp_path / "upgraded")


def test_frames_that_are_misnumbered_are_found(legacy, tmp_path):
    """LeRobot v3.0 goes by the number of a frame; equal to the original is not enough then."""
    source = legacy("images")
    path = source / "data/chunk-000/episode_000001.parquet"
    replace_column(path, "index", set_value(3, 99))
    with pytest.raises(UpgradeMismatchError, match="episode 1, frame 3, index: 99 instead of 8"):
        upgrade_dataset(source, tmp_path / "upgraded")


def test_a_changed_image_is_found(prepared, tmp_path, monkeypatch):
    def damaged(dataset, root):
        result = join_data(dataset, root)
        (path,) = (root / "data").rglob("*.parquet")
        replace_column(path, IMAGE_KEY, set_value(FIRST_OF_EPISODE_1 + 1, to_png(draw(0, 0, 1))))
        return result

    join_data = legacy_conversion._join_data
    monkeypatch.setattr(legacy_conversion, "_join_data", damaged)
    with pytest.raises(UpgradeMismatchError, match=f"episode 1, frame 1, {IMAGE_KEY}"):
        upgrade_dataset(prepared["images"], tmp_path / "upgraded")
    # Frame 1 is none of the first, middle and last.
    assert upgrade_dataset(prepared["images"], tmp_path / "upgraded", verify="sample")


@pytest.mark.parametrize("mode", ["all", "sample"])
def test_swapped_videos_are_found(mode, legacy, tmp_path, monkeypatch):
    def swapped(links, root, key, size):
        other = {CAMERAS[0]: CAMERAS[1], CAMERAS[1]: CAMERAS[0]}[key]
        for path in links.glob(f"videos/*/{key}/*.mp4"):
            target = path.parents[1] / other / path.name
            path.unlink()
            path.symlink_to(target.resolve() if target.is_symlink() else target)
        return convert_videos(links, root, key, size)

    convert_videos = legacy_conversion.convert_videos_of_camera
    monkeypatch.setattr(legacy_conversion, "convert_videos_of_camera", swapped)
    with pytest.raises(UpgradeMismatchError, match=r"episode 0, frame 0, observation\.images\.front"):
        upgrade_dataset(legacy(), tmp_path / "upgraded", verify=mode)


def test_shifted_videos_are_found(legacy, tmp_path, monkeypatch):
    def shifted(*args):
        entries = convert_videos(*args)
        entries[1][f"videos/{args[2]}/from_timestamp"] += 1 / FPS
        return entries

    convert_videos = legacy_conversion.convert_videos_of_camera
    monkeypatch.setattr(legacy_conversion, "convert_videos_of_camera", shifted)
    with pytest.raises(UpgradeMismatchError, match=r"episode 1, frame 0, observation\.images\.front"):
        upgrade_dataset(legacy(), tmp_path / "upgraded")


def test_a_video_that_is_too_short_is_found(legacy, tmp_path, monkeypatch):
    """Even if its header claims to have all frames."""
    monkeypatch.setattr(legacy_conversion, "clip_length", lambda path, fps: None)
    source = legacy("v2.1")
    write_video(
        source / f"videos/chunk-000/{CAMERAS[1]}/episode_000001.mp4",
        [draw(1, frame, 1) for frame in range(4)],
        FPS,
    )
    with pytest.raises(
        UpgradeMismatchError, match=r"episode 1, observation\.images\.wrist: cannot be decoded"
    ):
        upgrade_dataset(source, tmp_path / "upgraded")


def test_how_much_is_verified(prepared, tmp_path, monkeypatch, caplog):
    source = legacy_dataset.open_legacy_dataset(prepared["v2.0"])
    assert verify.resolve_mode(None, source) == "all"
    assert verify.resolve_mode("none", source) == "none"
    monkeypatch.setattr(verify, "SMALL_DATASET", sum(LENGTHS) - 1)
    assert verify.resolve_mode(None, source) == "sample"
    root = upgrade_dataset(prepared["images"], tmp_path / "upgraded", verify="none")
    assert "was not compared" in caplog.text
    assert json.loads((root / "meta/upgrade.json").read_text())["verified"] == "none"


# Sources that cannot be upgraded


def test_other_formats(legacy, tmp_path, tiny_dataset):
    source = legacy()
    for version, message in (
        ("v3.0", "already"),
        ("v1.6", "v1.6; it must be v2.0 or v2.1"),
        (None, "format None"),
    ):
        edit_info(source, codebase_version=version)
        with pytest.raises(ValueError, match=message):
            upgrade_dataset(source, tmp_path / "upgraded")
    with pytest.raises(ValueError, match="already"):
        upgrade_dataset(tiny_dataset(num_episodes=1, num_frames=3), tmp_path / "upgraded")
    assert not (tmp_path / "upgraded.partial").exists()


def test_no_dataset(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no meta/info\.json"):
        upgrade_dataset(tmp_path / "empty", tmp_path / "upgraded")
    for source in (tmp_path / "nowhere", str(tmp_path / "nowhere"), "nowhere"):
        with pytest.raises(ValueError, match="it must be a folder or a Hub id"):
            upgrade_dataset(source, tmp_path / "upgraded")


def test_hub_id_while_offline(tmp_path):
    with pytest.raises(ValueError, match="could not be downloaded") as error:
        upgrade_dataset("nobody/nothing", tmp_path / "upgraded", revision="v2.0")
    assert "HF_HUB_OFFLINE" in str(error.value) and "revision v2.0" in str(error.value)


def test_hub_id(prepared, tmp_path, monkeypatch):
    """The format is looked at before anything large is fetched."""
    calls = []

    def fetch(name):
        def function(**kwargs):
            calls.append((name, kwargs["repo_id"], kwargs["revision"]))
            return str(prepared["v2.0"] / "meta/info.json" if name == "file" else prepared["v2.0"])

        return function

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch("file"))
    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch("snapshot"))
    root = upgrade_dataset("somebody/something", tmp_path / "upgraded", revision="v2.0")
    assert calls == [(name, "somebody/something", "v2.0") for name in ("file", "snapshot")]
    assert json.loads((root / "meta/upgrade.json").read_text())["source"] == "somebody/something"
    upgrade_dataset("somebody/something", root, revision="v2.0")
    assert len(calls) == 2


@pytest.mark.parametrize(
    "name",
    ["data/chunk-001/episode_000002.parquet", f"videos/chunk-000/{CAMERAS[1]}/episode_000001.mp4"],
)
def test_missing_files_are_named(name, legacy, tmp_path):
    source = legacy()
    (source / name).unlink()
    with pytest.raises(ValueError, match=name):
        upgrade_dataset(source, tmp_path / "upgraded")


def test_damaged_metadata(legacy, tmp_path):
    source = legacy("v2.1")
    meta = source / "meta"

    def assert_refused(message):
        with pytest.raises(ValueError, match=message):
            upgrade_dataset(source, tmp_path / "upgraded")
        shutil.rmtree(tmp_path / "upgraded.partial", ignore_errors=True)

    for name, message in (
        ("episodes.jsonl", "counts 3 episodes"),
        ("tasks.jsonl", None),
        ("episodes_stats.jsonl", "one line for each of the 3"),
    ):
        content = (meta / name).read_text()
        if message:
            (meta / name).write_text("".join(content.splitlines(keepends=True)[:-1]))
            assert_refused(message)
        (meta / name).write_text(content.replace('_index": 1', '_index": 5', 1))
        assert_refused("one line for each" if "stats" in name else "index 1 is missing")
        (meta / name).write_text(content + '{"half')
        if "stats" not in name:
            assert_refused("is damaged")
            (meta / name).unlink()
            assert_refused("is missing")
        (meta / name).write_text(content)
    lengths = (meta / "episodes.jsonl").read_text()
    (meta / "episodes.jsonl").write_text(lengths.replace('"length": 8', '"length": 9'))
    assert_refused("episode 1 has 8 frames in its data file, but 9 in")
    (meta / "episodes.jsonl").write_text(lengths)
    info = json.loads((meta / "info.json").read_text())
    edit_info(source, features={k: v for k, v in info["features"].items() if k != "action"})
    assert_refused("describes")
    edit_info(source, features=info["features"], data_path="data/{number}.parquet")
    assert_refused("it must be a template")
    (meta / "info.json").write_text("{")
    assert_refused("not a JSON object")


def test_images_that_are_not_embedded(legacy, tmp_path):
    source = legacy("images")
    path = source / "data/chunk-000/episode_000001.parquet"
    table = pq.read_table(path, partitioning=None).drop_columns(IMAGE_KEY)
    cells = [{"bytes": None, "path": f"images/frame_{frame}.png"} for frame in range(len(table))]
    pq.write_table(table.append_column(IMAGE_KEY, pa.array(cells)), path)
    with pytest.raises(ValueError, match=rf"episode 1, {IMAGE_KEY}: .*not embedded"):
        upgrade_dataset(source, tmp_path / "upgraded")


def test_episodes_with_other_columns(legacy, tmp_path):
    source = legacy("images")
    path = source / "data/chunk-001/episode_000002.parquet"
    table = pq.read_table(path, partitioning=None)
    for other in (table.drop_columns("next.done"), table.append_column("reward", table["timestamp"])):
        pq.write_table(other, path)
        with pytest.raises(ValueError, match="episode 2 has other columns"):
            legacy_conversion._join_data(legacy_dataset.open_legacy_dataset(source), tmp_path / "out")


def test_command(prepared, tmp_path, capsys):
    out = tmp_path / "upgraded"
    assert main(["upgrade-dataset", str(prepared["images"]), str(out), "--verify=sample"]) == 0
    assert json.loads((out / "meta/upgrade.json").read_text())["verified"] == "sample"
    assert main(["upgrade-dataset", str(tmp_path / "nowhere"), str(out)]) == 2
    assert "lara upgrade-dataset: `source` is" in capsys.readouterr().err
    assert main(["upgrade-dataset", str(prepared["images"]), str(out / "x"), "--video-file-size=0"]) == 2
