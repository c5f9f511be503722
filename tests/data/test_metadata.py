"""Metadata of v3 datasets that are damaged or a stranger's: refused by file and field before LeRobot reads them."""

import json
import logging
import os
import random
import shutil

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.tiny_datasets import make_tiny_dataset

from lerobot_lara.data.metadata import CheckedMetadata, check_data_files
from lerobot_lara.data.mixture.config import EntryConfig
from lerobot_lara.data.mixture.single import single_dataset
from lerobot_lara.data.mixture.sources import open_meta, open_sources

logger = logging.getLogger(__name__)

INFO, STATS, TASKS = "meta/info.json", "meta/stats.json", "meta/tasks.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
COUNT = int(os.environ.get("LARA_FUZZ", "400"))
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("prepared") / "dataset"
    return make_tiny_dataset(root, num_episodes=3, num_frames=5, storage="video", task=["push", "pull"])


@pytest.fixture
def root(prepared, tmp_path):
    return shutil.copytree(prepared, tmp_path / "dataset")


def open_dataset(root):
    return open_meta(EntryConfig(name="tiny", repo_id="local/tiny", root=str(root)))


def edit_json(path, **changes):
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


def edit_feature(root, key, **changes):
    features = json.loads((root / INFO).read_text())["features"]
    edit_json(root / INFO, features=features | {key: features[key] | changes})


def edit_table(path, change):
    table = change(pq.read_table(path, partitioning=None))
    pq.write_table(table, path)


def set_column(name, values):
    return lambda table: table.set_column(table.column_names.index(name), name, pa.array(values))


def assert_refused(root, message):
    with pytest.raises(ValueError, match=message) as error:
        open_dataset(root)
    assert str(root) in str(error.value) and len(str(error.value)) < 1000


def test_a_sound_dataset_is_opened_as_lerobot_opens_it(root):
    meta = open_dataset(root)
    assert isinstance(meta, CheckedMetadata)
    assert (meta.total_episodes, meta.fps, list(meta.tasks.index)) == (3, 10, ["push", "pull"])
    check_data_files(meta, range(3))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(
            ("fps", value)
            for value in ("10", 0, -1, float("nan"), float("inf"), None, [10], True, 10**30, ...)
        ),
        *(("chunks_size", value) for value in (0, "1000", 2.5, None)),
        *(("total_episodes", value) for value in (0, -3, "3", 3.0, None, ...)),
        *(("total_tasks", value) for value in (0, "2", ...)),
        *(("features", value) for value in (["action"], None, "action", 3, ...)),
        *(("data_files_size_in_mb", value) for value in (0, "100", float("nan"))),
        ("robot_type", ["arm"]),
        ("codebase_version", 3),
        ("codebase_version", "new"),
        ("codebase_version", None),
        ("data_path", 3),
        ("data_path", "../{chunk_index}/{file_index}.parquet"),
        ("data_path", "data/../../{file_index}.parquet"),
        ("data_path", "/etc/{file_index}"),
        ("data_path", "data/{file_index:01000000000d}"),
        ("data_path", "data/{file_index.__class__}"),
        ("data_path", "data/{episode_index}"),
        ("data_path", "data/all.parquet"),
        ("video_path", "../../{video_key}/{file_index}.mp4"),
        ("video_path", "{video_key}/{file_index:1000000000}"),
        ("video_path", None),
        ("video_path", "{video_key!r}/{file_index}"),
    ],
)
def test_fields_of_info(root, field, value):
    edit_json(root / INFO, **{field: value})
    assert_refused(root, rf"meta/info\.json: `{field}` is .*; it must be ")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dtype", "object"),
        ("dtype", None),
        ("shape", "4"),
        ("shape", [0]),
        ("shape", [10**10]),
        ("info", "text"),
    ],
)
def test_fields_of_features(root, field, value):
    edit_feature(root, "action", **{field: value})
    assert_refused(root, rf"`features\.action\.{field}` is .*; it must be ")


def test_cameras_that_are_no_images(root):
    edit_feature(root, "observation.image", shape=[32, 32])
    assert_refused(
        root, r"`features\.observation\.image\.shape` is \[32, 32\]; it must be \[height, width, channels\]"
    )


@pytest.mark.parametrize("key", ["../../camera", "/etc/camera", "a\nb", "..", ""])
def test_keys_that_lead_elsewhere(root, key):
    features = json.loads((root / INFO).read_text())["features"]
    edit_json(root / INFO, features=features | {key: features["observation.image"]})
    assert_refused(root, "`features` is .*plain names")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is damaged: it is not a JSON object"),
        (b'{"fps": 10', "is damaged: it is not a JSON object"),
        (b"[]", r"is \[\]; it must be a JSON object"),
        (b"null", "is None; it must be a JSON object"),
        (b"[" * 100_000, "nested more than 32 levels deep"),
        (b"\xff\xfe{", "not text in UTF-8"),
        (LFS_POINTER, "Git LFS pointers"),
    ],
)
@pytest.mark.parametrize("name", [INFO, STATS])
def test_files_that_are_no_json(root, name, content, message):
    (root / name).write_bytes(content)
    assert_refused(root, rf"{name}.*{message}")


@pytest.mark.parametrize(
    "value",
    [3, [1], {"mean": {"x": 1}}, {"mean": [[1], [1, 2]]}, {"mean": None}, {"a/b": 1}],
)
def test_statistics_that_lerobot_cannot_unpack(root, value):
    edit_json(root / STATS, action=value)
    assert_refused(root, r"meta/stats\.json: `action.*` is .*; it must be ")


@pytest.mark.parametrize("name", [TASKS, EPISODES])
@pytest.mark.parametrize("content", [b"", b"PAR1", LFS_POINTER, "half"])
def test_tables_that_are_cut_off(root, name, content):
    whole = (root / name).read_bytes()
    (root / name).write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    assert_refused(root, name)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (pd.DataFrame({"task_index": [0, 1]}), "must have the texts of the tasks as its index"),
        (pd.DataFrame({"number": [0, 1]}, index=["push", "pull"]), "and a column `task_index`"),
        (
            pd.DataFrame({"task_index": [1, 0]}, index=["push", "pull"]),
            "`task_index` is .*; it must be 0 to 1 in order",
        ),
        (pd.DataFrame({"task_index": []}, index=pd.Index([], dtype=str)), "must have the texts"),
    ],
)
def test_tables_of_tasks(root, frame, message):
    frame.to_parquet(root / TASKS)
    assert_refused(root, rf"tasks\.parquet.*{message}")


CAMERA = "videos/observation.image"


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("episode_index", [0, 2, 1], "`episode_index of episode 1` is 2; it must be its number"),
        ("episode_index", ["0", "1", "2"], "`episode_index` is .*; it must be a column of whole numbers"),
        ("length", [5, 4, 5], "`length of episode 1` is 4; it must be the distance"),
        ("length", [5, None, 5], "`length` is None; it must be given for every episode"),
        ("dataset_to_index", [5, 2, 15], "`length of episode 1`|`dataset_to_index of episode 1`"),
        ("data/file_index", ["../../x"] * 3, "`data/file_index` is .*; it must be a column of whole numbers"),
        ("data/chunk_index", [0, -1, 0], "`data/chunk_index of episode 1` is -1; it must be from 0"),
        ("tasks", ["push", "pull", "push"], "`tasks` is .*; it must be a column of a list of texts"),
        (f"{CAMERA}/file_index", ["/etc/x"] * 3, "file_index` is .*; it must be a column of whole numbers"),
        (f"{CAMERA}/from_timestamp", [0.0, float("nan"), 1.0], "from_timestamp of episode 1` is nan"),
        (f"{CAMERA}/from_timestamp", [0.0, float("inf"), 1.0], "from_timestamp of episode 1` is inf"),
        (f"{CAMERA}/from_timestamp", ["0"] * 3, "from_timestamp` is .*; it must be a column of numbers"),
    ],
)
def test_columns_of_episodes(root, name, values, message):
    edit_table(root / EPISODES, set_column(name, values))
    assert_refused(root, rf"{EPISODES}: .*{message}")


def test_columns_and_rows_of_episodes_that_are_missing(root):
    edit_table(root / EPISODES, lambda table: table.slice(0, 2))
    assert_refused(root, r"info\.json: `total_episodes` is 3, but .*meta/episodes describes 2 episodes")
    edit_table(root / EPISODES, lambda table: table.drop_columns(["tasks"]))
    assert_refused(root, f"{EPISODES} lacks the column `tasks`")


@pytest.mark.parametrize("name", [STATS, TASKS, EPISODES, INFO])
def test_metadata_that_are_links_out_of_the_dataset(root, name, tmp_path):
    (root / name).replace(tmp_path / "elsewhere")
    (root / name).symlink_to(tmp_path / "elsewhere")
    assert_refused(root, f"{name} leads to .*elsewhere, which is outside of the dataset")


@pytest.mark.parametrize(
    "name", ["data/chunk-000/file-000.parquet", "videos/observation.image/chunk-000/file-000.mp4"]
)
def test_data_and_videos_that_are_links_out_of_the_dataset(root, name, tmp_path):
    (root / name).replace(tmp_path / "elsewhere")
    (root / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=f"{name} leads to .*elsewhere, which is outside of the dataset"):
        check_data_files(open_dataset(root), [0])


def test_links_inside_of_the_dataset_and_a_link_to_it_are_followed(root, tmp_path):
    (root / TASKS).replace(root / "tasks.real")
    (root / TASKS).symlink_to("../tasks.real")
    (tmp_path / "link").symlink_to(root)
    check_data_files(open_dataset(tmp_path / "link"), [0, 1, 2])


@pytest.mark.parametrize(
    ("content", "message"), [(LFS_POINTER, "Git LFS pointers"), (b"PAR1", "cannot be read as a parquet file")]
)
def test_tables_of_frames_that_are_cut_off(root, content, message):
    path = root / "data/chunk-000/file-000.parquet"
    path.write_bytes(content)
    source = open_sources(single_dataset("local/tiny", root=str(root)), use_actions=True)[0]
    with pytest.raises(ValueError, match=f"file-000.parquet.*{message}"):
        source.open_reader([0], video_backend="pyav", tolerance_s=1e-4)


def test_a_table_of_frames_that_lacks_a_column(root):
    edit_table(root / "data/chunk-000/file-000.parquet", lambda table: table.drop_columns(["action"]))
    with pytest.raises(ValueError, match=r"file-000\.parquet lacks the column `action`"):
        check_data_files(open_dataset(root), [0])


@pytest.mark.parametrize("name", [TASKS, "meta/episodes"])
def test_a_missing_file_of_a_local_dataset_is_named(root, name):
    path = root / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(ValueError, match=f"Entry 'tiny': .*{name} does not exist and cannot be downloaded"):
        open_dataset(root)


def test_statistics_that_are_texts_are_refused_for_cameras_only(root):
    edit_json(root / STATS, action={"mean": "big"})
    open_dataset(root)  # those of the action are computed later
    edit_json(root / STATS, **{"observation.image": {"mean": "big"}})
    assert_refused(root, r"stats\.json: `observation\.image\.mean` is 'big'; it must be a number")


def test_statistics_may_be_missing(root):
    (root / STATS).unlink()
    assert open_dataset(root).stats is None


ODD = (
    *(
        None,
        True,
        0,
        -1,
        1,
        3,
        10**12,
        10**30,
        0.5,
        float("nan"),
        float("inf"),
        "",
        "x",
        "3",
        "../../x",
        "/etc",
        "\n",
    ),
    *(
        [],
        {},
        [[]],
        [1, "x"],
        [-1],
        [10**9, 10**9],
        {"a": 1},
        {"a/b": {}},
        "{file_index:999999999}",
        "{x}",
        "x" * 5000,
    ),
)
COLUMNS = (
    ["x"] * 3,
    [None] * 3,
    [-1, 0, 1],
    [0.5] * 3,
    [float("nan")] * 3,
    [10**15] * 3,
    [["a"]] * 3,
    [[1]] * 3,
)


def mutate_json(path, generator):
    content = json.loads(path.read_text())
    parents, keys = [content], []
    while isinstance(parents[-1], dict | list) and parents[-1]:
        last = parents[-1]
        keys.append(generator.choice(list(last) if isinstance(last, dict) else range(len(last))))
        parents.append(last[keys[-1]])
        if generator.random() < 0.35:
            break
    parent, key = parents[len(keys) - 1], keys[-1]
    if generator.random() < 0.25:
        del parent[key]
    elif generator.random() < 0.15 and isinstance(parent, dict):
        parent[generator.choice(("extra", "../x", "a/b", ""))] = generator.choice(ODD)
    else:
        parent[key] = generator.choice(ODD)
    path.write_text(json.dumps(content))


def mutate_bytes(path, generator):
    data = bytearray(path.read_bytes())
    for _ in range(generator.randint(1, 5)):
        at = generator.randrange(len(data))
        if generator.random() < 0.5:
            data[at] = generator.randrange(256)
        else:
            del data[at : at + generator.randint(1, 50)]
        if not data:
            break
    path.write_bytes(bytes(data))


def mutate_table(path, generator):
    def change(table):
        name = generator.choice([name for name in table.column_names if not name.startswith("stats/")])
        kind = generator.randrange(4)
        if kind == 0:
            return table.drop_columns([name])
        if kind == 1:
            return table.slice(generator.randrange(3), generator.randrange(3))
        if kind == 2:
            return table.take(pa.array([generator.randrange(len(table)) for _ in range(len(table))]))
        return set_column(name, generator.choice(COLUMNS)[: len(table)])(table)

    edit_table(path, change)


def test_metadata_that_are_wrong_in_random_ways_are_opened_or_named(prepared, tmp_path):
    generator, counts = random.Random(0), {"opened": 0, "refused": 0}
    root = tmp_path / "dataset"
    for _ in range(COUNT):
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(prepared / "meta", root / "meta")
        name = generator.choice((INFO, INFO, STATS, TASKS, EPISODES))
        kinds = [mutate_bytes, mutate_json if name.endswith("json") else mutate_table]
        generator.choice(kinds)(root / name, generator)
        try:
            meta = open_dataset(root)
            open_sources(single_dataset("local/tiny", root=str(root)), use_actions=True)
            assert meta.total_episodes == 3
            counts["opened"] += 1
        except ValueError as error:
            message = str(error)
            assert str(root) in message or "'local/tiny'" in message
            assert len(message) < 3000 and "LeRobot cannot read" not in message
            counts["refused"] += 1
    assert min(counts.values()) > COUNT / 10, counts
    logger.info("%d tried: %s", COUNT, counts)
