"""Metadata of the wrong type, size or depth: an error names the field, what was found and what to do."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data.test_upgrade_dataset import IMAGE_KEY, LENGTHS, TASKS, edit_info, make_legacy, write_lines
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata

from lerobot_lara.cli import main
from lerobot_lara.data.upgrade import legacy_dataset
from lerobot_lara.data.upgrade.upgrade_dataset import upgrade_dataset
from lerobot_lara.files import reading


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return make_legacy(tmp_path_factory.mktemp("legacy") / "images", "v2.1", storage="image")


@pytest.fixture
def source(prepared, tmp_path):
    return shutil.copytree(prepared, tmp_path / "source")


def assert_refused(source, message):
    """Refused before anything is built."""
    out = source.with_name("upgraded")
    with pytest.raises(ValueError, match=message) as error:
        upgrade_dataset(source, out)
    assert len(str(error.value)) < 1000 and str(source) in str(error.value)
    assert not out.exists() and not out.with_name("upgraded.partial").exists()


NUMBERS = ("10", None, True, [10], {}, -1, 0, 10**30, float("nan"), float("inf"))


@pytest.mark.parametrize("value", NUMBERS)
@pytest.mark.parametrize("field", ["fps", "chunks_size"])
def test_numbers(field, value, source):
    edit_info(source, **{field: value})
    assert_refused(source, rf"meta/info\.json: `{field}` is .*; it must be a .*number.*\. Correct it")


@pytest.mark.parametrize("value", ["3", None, True, -1, 2.5, 10**30, [3]])
@pytest.mark.parametrize("what", ["episodes", "frames", "tasks", "videos", "chunks"])
def test_totals(what, value, source):
    edit_info(source, **{f"total_{what}": value})
    assert_refused(source, rf"`total_{what}` is .*; it must be a whole number from 0")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("robot_type", ["arm"]),
        ("splits", "train"),
        ("tools", {}),
        ("features", ["action"]),
        ("features", "action"),
        ("features", None),
    ],
)
def test_other_fields(field, value, source):
    edit_info(source, **{field: value})
    assert_refused(source, rf"`{field}` is .*; it must be")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dtype", None),
        ("dtype", "object"),
        ("dtype", ["float32"]),
        ("shape", None),
        ("shape", 2),
        ("shape", []),
        ("shape", [0]),
        ("shape", [-2]),
        ("shape", ["2"]),
        ("shape", [True]),
        ("shape", [2.0]),
        ("shape", [10**30]),
        ("shape", [10**5, 10**5]),
        ("shape", [1] * 6),
        ("info", "text"),
        ("video_info", [1]),
    ],
)
def test_features(field, value, source):
    features = json.loads((source / "meta/info.json").read_text())["features"]
    features["action"][field] = value
    edit_info(source, features=features)
    assert_refused(source, rf"`features\.action\.{field}` is .*; it must be")


@pytest.mark.parametrize("value", [None, 3, "float32", ["float32"]])
def test_features_that_are_no_objects(value, source):
    features = json.loads((source / "meta/info.json").read_text())["features"]
    edit_info(source, features={**features, "action": value})
    assert_refused(source, r"`features\.action` is .*; it must be an object")


def test_features_that_lerobot_needs(source):
    features = json.loads((source / "meta/info.json").read_text())["features"]
    for key in ("timestamp", "frame_index", "episode_index", "index", "task_index"):
        edit_info(source, features={name: feature for name, feature in features.items() if name != key})
        assert_refused(source, rf"`features\.{key}` is None; it must be a numeric feature")


@pytest.mark.parametrize(
    ("key", "shape", "right"),
    [("action", [3], r"\[2\]"), ("action", [2, 1], r"\[2\]"), ("frame_index", [1, 2, 3], r"\[1\]")],
)
def test_shapes_that_are_not_those_of_the_data(key, shape, right, source):
    features = json.loads((source / "meta/info.json").read_text())["features"]
    features[key]["shape"] = shape
    edit_info(source, features=features)
    assert_refused(
        source, rf"`features\.{key}\.shape` is .*; it must be {right}, as in .*episode_000000\.parquet"
    )


def test_extra_fields_of_episodes_with_different_types(source, tmp_path):
    path = source / "meta/episodes.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for value, line in zip(("text", [1], 10**30), lines, strict=True):
        line["extra"] = value
    write_lines(path, lines)
    with pytest.raises(ValueError, match=r"episodes\.jsonl: a field has values of different types"):
        upgrade_dataset(source, tmp_path / "upgraded")


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "must be a JSON object"),
        ("null", "must be a JSON object"),
        ("", "is not a JSON object"),
        (DEEP, "nested more than 32 levels"),
        ('{"fps": ' + "[" * 40 + "]" * 40 + "}", "nested more than 32 levels"),
        ('{"fps": ' + "9" * 5000 + "}", "is not a JSON object"),
        (b"\xff\xfe\x00", "not text in UTF-8"),
    ],
)
def test_info_that_is_no_object(content, message, source):
    path = source / "meta/info.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert_refused(source, rf"info\.json .*{message}")


LINES = {
    "episodes.jsonl": {"episode_index": 0, "tasks": [TASKS[0]], "length": LENGTHS[0]},
    "tasks.jsonl": {"task_index": 0, "task": TASKS[0]},
}


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("episodes.jsonl", {"episode_index": "0"}, "`episode_index of line 1` is '0'; it must be a whole"),
        ("episodes.jsonl", {"episode_index": True}, "`episode_index of line 1` is True"),
        ("episodes.jsonl", {"episode_index": -1}, "`episode_index of line 1` is -1"),
        ("episodes.jsonl", {"length": "5"}, "`length of line 1` is '5'"),
        ("episodes.jsonl", {"length": 0}, "`length of line 1` is 0"),
        ("episodes.jsonl", {"length": 10**30}, "`length of line 1` is 1000"),
        ("episodes.jsonl", {"data/file_index": 7}, "`line 1` is 'data/file_index'; it must be free of"),
        ("episodes.jsonl", {"dataset_to_index": 7}, "`line 1` is 'dataset_to_index'"),
        ("episodes.jsonl", {"tasks": "push"}, "`tasks of line 1` is 'push'; it must be a list of texts"),
        ("episodes.jsonl", {"tasks": [1.5]}, r"`tasks of line 1` is \[1\.5\]; it must be a list of texts"),
        ("tasks.jsonl", {"task": 5}, "`task of line 1` is 5; it must be text"),
        ("tasks.jsonl", {"task": None}, "`task of line 1` is None; it must be text"),
    ],
)
def test_lines(name, changes, message, source):
    path = source / "meta" / name
    rest = path.read_text().split("\n", 1)[1]
    path.write_text(json.dumps(LINES[name] | changes) + "\n" + rest)
    assert_refused(source, message)


@pytest.mark.parametrize("line", ["[]", "5", '"text"', "null"])
@pytest.mark.parametrize("name", ["episodes.jsonl", "tasks.jsonl"])
def test_lines_that_are_no_objects(name, line, source):
    (source / "meta" / name).write_text(f"{line}\n")
    assert_refused(source, rf"{name}: `line 1` is .*; it must be an object")


@pytest.mark.parametrize("name", ["episodes.jsonl", "tasks.jsonl"])
def test_lines_that_are_nested_deeply(name, source):
    (source / "meta" / name).write_text(DEEP)
    assert_refused(source, rf"{name} is damaged: line 1 is nested more than 32 levels")


def test_tasks_with_unusual_characters(source, tmp_path):
    """Characters at which str.splitlines splits, and the byte order mark of some editors."""
    task = "push\u2028the\x85square"
    lines = [{"task_index": 0, "task": task}, {"task_index": 1, "task": TASKS[1]}]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (source / "meta/tasks.jsonl").write_text(f"\ufeff{text}", encoding="utf-8")
    root = upgrade_dataset(source, tmp_path / "upgraded")
    assert LeRobotDatasetMetadata("local/upgraded", root=root).tasks.index[0] == task


def replace_tasks(source, values, kind=None):
    path = source / "data/chunk-000/episode_000001.parquet"
    table = pq.read_table(path, partitioning=None)
    position = table.column_names.index("task_index")
    pq.write_table(table.set_column(position, "task_index", pa.array(values, kind or pa.int64())), path)


@pytest.mark.parametrize("index", [2, -1, 10**12, None])
def test_a_task_that_is_not_in_the_list(index, source):
    replace_tasks(source, [1] * (LENGTHS[1] - 1) + [index])
    assert_refused(
        source, rf"episode_000001\.parquet: `task_index` of episode 1 is {index}; it must be from 0 to 1"
    )


def test_tasks_that_are_no_numbers(source):
    replace_tasks(source, ["1"] * LENGTHS[1], pa.string())
    assert_refused(source, "episode 1 has no integer column `task_index`")


def test_a_data_file_that_is_damaged(source):
    (source / "data/chunk-001/episode_000002.parquet").write_bytes(b"PAR1 and more")
    assert_refused(source, r"episode_000002\.parquet cannot be read as a parquet file")


@pytest.mark.parametrize("names", [{"a": 1}, ["rgb"], "rgb", [], [1, 2, 3]])
def test_names_of_dimensions_that_say_nothing(names, source, tmp_path):
    features = json.loads((source / "meta/info.json").read_text())["features"]
    features[IMAGE_KEY]["names"] = names
    edit_info(source, features=features)
    root = upgrade_dataset(source, tmp_path / "upgraded", verify="none")
    meta = LeRobotDatasetMetadata("local/upgraded", root=root)
    assert list(meta.features[IMAGE_KEY]["names"]) == ["height", "width", "channels"]


def test_totals_are_counted(source, tmp_path):
    edit_info(source, total_frames=10**9, total_tasks=7)
    root = upgrade_dataset(source, tmp_path / "upgraded", verify="none")
    meta = LeRobotDatasetMetadata("local/upgraded", root=root)
    assert (meta.total_frames, meta.info.total_tasks) == (sum(LENGTHS), len(TASKS))


@pytest.mark.parametrize("content", ["", "[]", "{}", "{", DEEP])
def test_records_that_are_damaged(content, source, tmp_path):
    for path in (tmp_path / "a/meta/upgrade.json", tmp_path / "b.partial/upgrade.json"):
        path.parent.mkdir(parents=True)
        path.write_text(content)
    for name in ("a", "b"):
        with pytest.raises(ValueError, match=r"upgrade\.json (is damaged|was not written by)"):
            upgrade_dataset(source, tmp_path / name)


def test_a_file_that_is_not_about_the_dataset_does_not_matter(source, tmp_path):
    (source / "meta/notes.json").write_text(DEEP)
    assert legacy_dataset.open_legacy_dataset(source).num_frames == sum(LENGTHS)


def test_long_values_are_shortened():
    assert len(reading.shown("x" * 10_000)) < 200
    assert reading.shown([10**5000]) == "a list that is too large to show"
    assert reading.shown("a\nb\x1b", str) == "a\\nb\\x1b"


def test_the_command_says_it_in_one_paragraph(source, tmp_path, capsys):
    edit_info(source, fps="10")
    assert main(["upgrade-dataset", str(source), str(tmp_path / "upgraded")]) != 0
    message = capsys.readouterr().err
    assert "`fps` is '10'; it must be a number above 0" in message and "Traceback" not in message


def test_statistics_that_are_no_objects(source):
    lines = (source / "meta/episodes_stats.jsonl").read_text().splitlines()
    write_lines(
        source / "meta/episodes_stats.jsonl",
        [json.loads(lines[0]) | {"stats": ["action"]}, *map(json.loads, lines[1:])],
    )
    with pytest.raises(ValueError, match=r"episodes_stats\.jsonl: `stats of line 1` is .*must be an object"):
        upgrade_dataset(source, source.with_name("upgraded"))
