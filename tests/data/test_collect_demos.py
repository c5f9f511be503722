"""Scripted demonstrations as LeRobot datasets."""

import errno
import itertools
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from PIL import Image
from support.rendering import skip_without_rendering

from lerobot_lara.cli import main
from lerobot_lara.data import collect_demos as collector
from lerobot_lara.data.collect_demos import collect_demos
from lerobot_lara.envs import demonstration_sources
from lerobot_lara.envs.demonstration_sources import SOURCES

SIZE = 32
DEFAULTS: dict[str, Any] = {"repo_id": "local/demos", "tasks": "door-close-v3,reach-v3", "episodes": 2}
DEFAULTS |= {"image_size": SIZE}


@pytest.fixture(scope="module")
def scripted_expert() -> Any:
    """Skips where nothing can be rendered; closes the environments afterwards."""
    skip_without_rendering()
    from lerobot_lara.envs import metaworld_expert

    yield metaworld_expert
    collector._close_environments()


@pytest.fixture
def collect(scripted_expert, tmp_path) -> Any:
    def run(name: str = "demos", **kwargs: Any) -> Path:
        return collect_demos(root=tmp_path / name, **{**DEFAULTS, **kwargs})

    return run


@pytest.fixture(scope="module")
def demos(scripted_expert, tmp_path_factory) -> Path:
    """What `collect` gives without options; not to be changed."""
    return collect_demos(root=tmp_path_factory.mktemp("collected") / "demos", **DEFAULTS)


def read_frames(root: Path) -> pd.DataFrame:
    return pd.concat(pd.read_parquet(path) for path in sorted(root.glob("data/*/*.parquet")))


def assert_same_dataset(root: Path, expected: Path) -> None:
    files = sorted(path.relative_to(expected) for path in expected.rglob("*") if path.is_file())
    assert sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file()) == files
    pd.testing.assert_frame_equal(read_frames(root), read_frames(expected))
    for name in ("collection.json", "stats.json", "info.json"):
        assert (root / "meta" / name).read_text() == (expected / "meta" / name).read_text(), name


def test_demonstrations_are_a_lerobot_dataset_in_turns(demos):
    root = demos
    assert not root.with_name("demos.partial").exists()
    dataset = LeRobotDataset("local/demos", root=root)
    assert dataset.fps == 80
    assert dataset.num_episodes == 4
    assert [episode["tasks"][0] for episode in dataset.meta.episodes] == [
        "Close a door with a revolving joint",
        "Reach a goal position",
    ] * 2
    item = dataset[0]
    assert item["observation.image"].shape == (3, SIZE, SIZE)
    assert 0 <= item["observation.image"].min() < item["observation.image"].max() <= 1
    assert item["observation.state"].shape == (4,)
    assert item["action"].abs().max() <= 1
    assert item["task"] == "Close a door with a revolving joint"
    records = json.loads((root / "meta" / "collection.json").read_text())["episodes"]
    assert [record["noise_std"] for record in records] == [0.09, 0.09, 0.3, 0.3]
    assert min(record["simulator_seed"] for record in records) >= 2**20, "lerobot-eval's seeds are below"
    assert len({record["simulator_seed"] for record in records}) == 4


def test_label_is_the_clean_action_and_noise_is_executed(scripted_expert):
    env = collector._environment("metaworld", "door-close-v3", (SIZE, SIZE))
    executed = []
    step = env.step
    env.step = lambda action: executed.append(action) or step(action)
    try:
        recorded = SOURCES["metaworld"].record(
            env, task="door-close-v3", seed=0, episode=1, steps_after_success=10
        )
    finally:
        del env.step
    assert recorded.failed_attempts == 0 and recorded.noise_std == 0.3
    difference = np.stack(executed) - recorded.actions
    assert not difference[:, 3].any(), "the gripper is not disturbed"
    free = (np.abs(np.stack(executed)[:, :3]) < 1).all(axis=1)
    assert 0.1 < difference[free, :3].std() < 0.5
    noise = difference[:, 1]
    assert np.corrcoef(noise[:-1], noise[1:])[0, 1] > 0.5, "noise is correlated over steps"
    np.testing.assert_allclose(
        recorded.states[0, :3], env.reset(seed=recorded.simulator_seed)[0]["agent_pos"][:3], atol=1e-6
    )


def test_failed_attempts_are_drawn_again_and_counted(collect, scripted_expert, monkeypatch, caplog):
    attempt = scripted_expert.attempt
    seeds = []

    def fail_first(env, steps_after_success, generator, simulator_seed, noise_std):
        seeds.append(simulator_seed)
        frames = attempt(env, steps_after_success, generator, simulator_seed, noise_std)
        return None if len(seeds) == 1 else frames

    monkeypatch.setattr(scripted_expert, "attempt", fail_first)
    with caplog.at_level("INFO"):
        root = collect(tasks="door-close-v3", episodes=1)
    (record,) = json.loads((root / "meta" / "collection.json").read_text())["episodes"]
    assert record["failed_attempts"] == 1
    assert record["simulator_seed"] == seeds[1] != seeds[0]
    assert "kept 1 episodes of 2 attempts" in caplog.text


def test_a_task_that_is_never_solved_is_an_error(scripted_expert, monkeypatch):
    monkeypatch.setattr(scripted_expert, "attempt", lambda *args: None)
    with pytest.raises(RuntimeError, match="door-close-v3: the expert failed 20 times"):
        SOURCES["metaworld"].record(None, task="door-close-v3", seed=0, episode=0, steps_after_success=10)


def test_resume_after_an_interruption_gives_the_same_dataset(collect, demos, tmp_path, monkeypatch):
    save = LeRobotDataset.save_episode

    def save_then_die(dataset, *args, **kwargs):
        save(dataset, *args, **kwargs)
        if dataset.meta.total_episodes == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(LeRobotDataset, "save_episode", save_then_die)
    with pytest.raises(KeyboardInterrupt):
        collect("resumed")
    monkeypatch.undo()
    assert not (tmp_path / "resumed").exists()
    staged = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("resumed.partial/episodes/*.npz")}
    assert len(staged) == 2

    with pytest.raises(ValueError, match="--resume"):
        collect("resumed")
    with pytest.raises(ValueError, match="`episodes` was 2 and is now 3"):
        collect("resumed", episodes=3, resume=True)
    recorded = []
    stage = collector._stage_episode
    monkeypatch.setattr(
        collector,
        "_stage_episode",
        lambda settings, order, path: recorded.append(path.exists()) or stage(settings, order, path),
    )
    root = collect("resumed", resume=True)
    assert recorded == [True, True, False, False], "episodes on disk are not recorded again"
    assert_same_dataset(root, demos)
    recorded.clear()
    assert collect("resumed", resume=True) == root
    assert not recorded, "nothing is left to do"


def test_number_of_workers_does_not_matter(collect, demos):
    assert_same_dataset(collect("parallel", workers=2), demos)


def test_existing_data_is_not_overwritten_unasked(collect, tmp_path):
    root = collect(tasks="door-close-v3", episodes=1)
    before = read_frames(root)
    with pytest.raises(ValueError, match="already exists"):
        collect(tasks="door-close-v3", episodes=1, seed=1)
    pd.testing.assert_frame_equal(read_frames(root), before)
    with pytest.raises(ValueError, match="exclude each other"):
        collect(resume=True, overwrite=True)
    collect(tasks="door-close-v3", episodes=1, seed=1, overwrite=True)
    assert len(read_frames(root)) != len(before) or not read_frames(root).equals(before)

    other = tmp_path / "holiday"
    other.mkdir()
    (other / "photo.jpg").touch()
    with pytest.raises(ValueError, match="not a dataset"):
        collect("holiday", overwrite=True)
    with pytest.raises(ValueError, match="not written by collect-demos"):
        collect("holiday", resume=True)
    assert (other / "photo.jpg").exists()


@pytest.mark.parametrize("storage", ["image", "video"])
def test_action_free_dataset_has_frames_and_task_only(scripted_expert, tmp_path, storage):
    root = tmp_path / "demos"
    arguments = f"collect-demos --tasks door-close-v3 --episodes 1 --image-size {SIZE} --repo-id local/demos"
    arguments += f" --root {root} --action-free --storage {storage} --seed 7 --steps-after-success 0"
    assert main(arguments.split()) == 0
    dataset = LeRobotDataset("local/demos", root=root)
    assert "action" not in dataset.features and "observation.state" not in dataset.features
    assert dataset.features["observation.image"]["dtype"] == storage
    assert "action" not in dataset[0] and "observation.state" not in dataset[0]
    assert dataset[0]["task"] == "Close a door with a revolving joint"
    assert dataset[len(dataset) - 1]["observation.image"].shape == (3, SIZE, SIZE)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"tasks": "door-clos-v3"}, "door-close-v3"),
        ({"episodes": 0}, "`episodes` is 0; it must be at least 1"),
        ({"workers": 0}, "`workers` is 0; it must be at least 1"),
        ({"seed": -1}, "`seed` is -1; it must be at least 0"),
        ({"image_size": 0}, "`image_size` is 0x0; both must be at least 1"),
        ({"image_size": (16, 32)}, "`image_size` is 16x32; images of Meta-World are square"),
        ({"env": "maniskill"}, "`env` is 'maniskill'; it must be one of metaworld"),
        ({"storage": "gif"}, "`storage` is 'gif'; it must be 'image' or 'video'"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(tmp_path, kwargs, message):
    with pytest.raises(ValueError, match=message):
        collect_demos(
            **{"tasks": "reach-v3", "episodes": 1, "repo_id": "a/b", "root": tmp_path / "demos", **kwargs}
        )
    assert not any(tmp_path.iterdir())


@pytest.fixture
def synthetic(monkeypatch, tmp_path):
    """Returns `collect(name="demos", **options)`, which needs no simulator."""

    def attempt(env, steps_after_success, generator, simulator_seed, noise_std):
        images = generator.integers(256, size=(3, 16, 16, 3), dtype=np.uint8)
        vector = np.zeros(4, np.float32)
        return [({"observation.image": image}, vector, vector) for image in images]

    expert = types.SimpleNamespace(attempt=attempt, NOISE_STDS=(0.0,))
    monkeypatch.setitem(sys.modules, "lerobot_lara.envs.metaworld_expert", expert)
    monkeypatch.setattr(collector, "_environment", lambda env, task, size: task)
    monkeypatch.setattr(demonstration_sources, "require_package", lambda *args, **kwargs: None)

    def collect(name="demos", **options):
        fields = {"repo_id": "local/demos", "tasks": "reach-v3", "episodes": 2, "image_size": 16, **options}
        return collect_demos(root=tmp_path / name, **fields)

    return collect


def test_environments_that_are_no_longer_kept_are_closed(monkeypatch):
    closed = []
    source = types.SimpleNamespace(
        make_env=lambda task, size: types.SimpleNamespace(close=lambda: closed.append(task))
    )
    monkeypatch.setitem(SOURCES, "toy", source)
    monkeypatch.setattr(collector, "MAX_ENVIRONMENTS", 2)
    first = collector._environment("toy", "a", (8, 8))
    collector._environment("toy", "b", (8, 8))
    assert collector._environment("toy", "a", (8, 8)) is first
    collector._environment("toy", "c", (8, 8))
    assert closed == ["b"], "the one that was used the longest time ago"
    collector._close_environments()
    assert sorted(closed) == ["a", "b", "c"]


def test_a_frame_that_is_not_stored_is_an_error_and_episodes_are_kept(synthetic, tmp_path, monkeypatch):
    save, number = Image.Image.save, itertools.count()

    def fail_once(image, *args, **kwargs):
        if next(number) == 4:
            raise OSError(errno.EIO, "Input/output error")
        save(image, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "save", fail_once)
    with pytest.raises(ValueError, match=r"reach-v3, episode 1: frame 1 could not be written.*--resume"):
        synthetic()
    assert not (tmp_path / "demos").exists()
    assert len(list((tmp_path / "demos.partial" / "episodes").glob("*.npz"))) == 2
    assert len(read_frames(synthetic(resume=True))) == 6
    assert not (tmp_path / "demos.partial").exists()


def test_rows_are_counted(synthetic, monkeypatch):
    monkeypatch.setattr(
        collector, "find_lost_rows", lambda root, length: f"only 5 rows of {length} were stored"
    )
    with pytest.raises(ValueError, match=r"only 5 rows of 6 were stored.*--resume"):
        synthetic()


def test_an_interrupted_overwrite_is_continued_and_leaves_the_old_dataset_until_then(
    synthetic, tmp_path, monkeypatch
):
    root = synthetic()
    old = read_frames(root)

    def die(*args):
        raise KeyboardInterrupt

    move = collector.move_into_place
    monkeypatch.setattr(collector, "move_into_place", die)
    with pytest.raises(KeyboardInterrupt):
        synthetic(seed=1, overwrite=True)
    pd.testing.assert_frame_equal(read_frames(root), old)
    monkeypatch.setattr(collector, "move_into_place", move)
    assert not read_frames(synthetic(seed=1, resume=True)).equals(old)


def test_what_others_have_put_in_the_place_of_a_run_is_left_alone(synthetic, tmp_path):
    foreign = tmp_path / "demos.partial" / "dataset" / "thesis.tex"
    foreign.parent.mkdir(parents=True)
    foreign.touch()
    for options in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(ValueError, match="is not an interrupted run, so it will not be touched"):
            synthetic(**options)
    assert foreign.exists()


def test_two_runs_do_not_write_one_dataset(synthetic, tmp_path):
    with FileLock(tmp_path / "demos.lock"), pytest.raises(ValueError, match="another run is writing now"):
        synthetic()


@pytest.mark.parametrize("content", ["", "{", "[1]"])
def test_a_torn_record_is_named(synthetic, tmp_path, content):
    (tmp_path / "demos.partial").mkdir()
    (tmp_path / "demos.partial" / "settings.json").write_text(content)
    with pytest.raises(ValueError, match=r"demos\.partial.*--overwrite"):
        synthetic(resume=True)
    assert len(read_frames(synthetic(overwrite=True))) == 6


def test_a_torn_episode_is_named(synthetic, tmp_path, monkeypatch):
    monkeypatch.setattr(collector, "move_into_place", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        synthetic()
    episode = tmp_path / "demos.partial" / "episodes" / "reach-v3_000001.npz"
    episode.write_bytes(episode.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"reach-v3_000001\.npz is not a whole episode.*Delete it"):
        synthetic(resume=True)
