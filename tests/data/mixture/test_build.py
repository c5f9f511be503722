"""What a mixture asks of its datasets and of the policy, and what LeRobot reads of it."""

import json

import httpx
import numpy as np
import pytest
from lerobot.policies.act.configuration_act import ACTConfig
from support.tiny_datasets import make_tiny_dataset

from lerobot_lara import LaraDiTConfig, LaraLAMConfig
from lerobot_lara.batch.keys import DATASET_INDEX
from lerobot_lara.data.mixture.build import build_mixture
from lerobot_lara.data.mixture.config import load_mixture

from .conftest import ARM, CAMERAS, ROBOT, VIDEO, lara_config


def test_metadata_is_that_of_the_reference_dataset(build, datasets):
    meta = build().meta
    assert set(meta.features) == {*CAMERAS, "observation.state", "action"}
    assert meta.features["action"]["shape"] == (4,)
    assert meta.features["observation.image"]["shape"] == (32, 32, 3)
    assert (meta.fps, meta.robot_type, meta.total_episodes, meta.total_frames) == (
        10,
        "synthetic",
        10,
        48 + 21 + 90,
    )
    assert meta.camera_keys == CAMERAS
    stats = json.loads((datasets / "robot" / "meta" / "stats.json").read_text())["action"]
    np.testing.assert_allclose(meta.stats["action"]["mean"], stats["mean"])
    assert list(meta.tasks.index) == ["push", "pull", "lift", "a hand", "a cup", "a door"]


def test_lerobots_sampler_sees_exactly_the_draws_of_an_epoch(build):
    """Also for a policy type whose last frames of an episode LeRobot drops."""
    for policy in (lara_config(), LaraLAMConfig(frame_gap=4)):
        mixed = build(policy=policy)
        first, last = mixed.meta.episodes["dataset_from_index"], mixed.meta.episodes["dataset_to_index"]
        assert last[0] - first[0] - getattr(policy, "drop_n_last_frames", 0) == len(mixed) == mixed.num_frames


def test_a_latent_action_model_needs_no_actions(build):
    mixed = build(VIDEO, ROBOT, policy=LaraLAMConfig(frame_gap=4))
    assert set(mixed.meta.features) == set(CAMERAS)
    assert not any(key.startswith(("action", "observation.state")) for key in mixed[0])
    assert not any(entry["labeled"] for entry in mixed.meta.mixture["entries"])


def test_held_out_episodes(write_mixture):
    path = write_mixture(ROBOT, VIDEO)
    config = load_mixture(path)
    train, held_out = build_mixture(config, lara_config(), path=path, video_backend="pyav", eval_split=0.3)
    # One of two episodes of each robot task, and one of three videos, each with a task of its own.
    assert [entry.reader.episodes for entry in train.entries] == [[0, 1], [0, 1]]
    entries = held_out.dataset.entries
    assert [entry.reader.episodes for entry in entries] == [[2, 3], [2]]
    assert sorted(held_out.indices) == list(range(sum(len(entry) for entry in entries)))
    # LeRobot averages over batches, which must therefore be alike.
    halves = [held_out.indices[: len(held_out) // 2], held_out.indices[len(held_out) // 2 :]]
    shares = [np.mean([held_out.dataset[draw][DATASET_INDEX].item() for draw in half]) for half in halves]
    assert abs(shares[0] - shares[1]) < 0.35
    _, few = build_mixture(
        config,
        lara_config(),
        path=path,
        video_backend="pyav",
        eval_split=0.3,
        max_eval_samples=5,
    )
    assert len(few) == 5


def test_the_held_out_set_may_take_no_whole_entry(write_mixture):
    path = write_mixture(ROBOT | {"episodes": [0]})
    with pytest.raises(
        ValueError, match=r"`dataset.eval_split` is 0.5, which leaves no training episode of entry 'robot'"
    ):
        build_mixture(load_mixture(path), lara_config(), path=path, video_backend="pyav", eval_split=0.5)


@pytest.mark.parametrize(
    ("entries", "fields", "policy", "message"),
    [
        (
            [ROBOT | {"episodes": [7]}],
            {},
            {},
            r"`episodes` of entry 'robot' contains 7; it must contain numbers from 0 to 3",
        ),
        (
            [ROBOT | {"cameras": {"front": "observation.image"}}],
            {},
            {},
            r"maps 'front'; it must map cameras of the dataset",
        ),
        (
            [ROBOT | {"cameras": {"observation.image": "front"}}],
            {},
            {},
            r"to 'front'; it must map to the policy's cameras",
        ),
        ([ROBOT, VIDEO | {"cameras": None}], {}, {}, r"Entry 'video' has none of the policy's cameras"),
        (
            [ROBOT | {"action": {"key": "act"}}],
            {},
            {},
            r"`action.key` of entry 'robot' is 'act'; it must be a column of the dataset",
        ),
        (
            [ROBOT | {"action": {"key": "action", "dims": [4]}}],
            {},
            {},
            r"`action.dims` of entry 'robot' is \[4\]",
        ),
        (
            [ROBOT | {"state": {"key": "observation.state", "invert": []}}],
            {},
            {},
            r"`state.invert` of entry 'robot'",
        ),
        (
            [ROBOT, VIDEO | {"action_free": False}],
            {},
            {},
            r"Entry 'video' has no `action` column.*action_free: true",
        ),
        ([VIDEO], {}, {}, r"`entries` are all action-free.*lara_lam"),
        ([ROBOT, VIDEO], {"reference": "video"}, {}, r"`reference` is 'video', which is action-free"),
        (
            [ROBOT, ARM | {"embodiment": None}],
            {},
            {},
            r"'robot' and 'arm' have the same embodiment 'default'.*4 and 7",
        ),
        (
            [ROBOT, ARM],
            {},
            {"embodiments": ["default"]},
            r"`embodiments` is \['default'\]; it must contain \['arm'\]",
        ),
        (
            [ROBOT, ARM],
            {},
            {"max_action_dim": None},
            r"`max_action_dim` is None; .* 7 action dim.*--policy.max_action_dim=7",
        ),
        (
            [ROBOT, ARM],
            {},
            {"max_state_dim": 4},
            r"`max_state_dim` is 4; it must be at least 5, .* 5 state dimensions",
        ),
        (
            [ROBOT],
            {"frame_gap_s": 1.2},
            {"frame_gap": 12},
            r"Entry 'robot' at 10 fps: `frame_gap` is 12, which leaves no pair",
        ),
        (
            [ROBOT],
            {"frame_gap_s": 0.5},
            {},
            r"`frame_gap` is 4; it must be 5, .*dataset 'robot' in frames at 10 fps.*Pass --policy.frame_gap=5",
        ),
        (
            [ROBOT, VIDEO | {"frame_gap_s": 2.0}],
            {},
            {},
            r"Entry 'video' at 20 fps: `frame_gap` is 40, which leaves no pair",
        ),
        (
            [ROBOT | {"language_key": "caption"}],
            {},
            {},
            r"`language_key` of entry 'robot' is 'caption', which is absent",
        ),
        ([ROBOT | {"language_key": "action"}], {}, {}, r"'action', which is float32"),
        (
            [ROBOT | {"action": {"key": "observation.image"}}],
            {},
            {},
            r"of type image and shape \(32, 32, 3\)",
        ),
        (
            [{"name": "far", "repo_id": "org/far"}],
            {},
            {},
            r"Entry 'far': the dataset org/far is not on this machine",
        ),
    ],
)
def test_bad_mixtures_are_refused(build, entries, fields, policy, message):
    with pytest.raises(ValueError, match=message):
        build(*entries, policy=lara_config(**policy), **fields)


@pytest.mark.parametrize(("channels", "kind"), [(1, r"1 channel"), (4, r"4 channel")])
def test_another_color_format_is_refused(tmp_path, build, channels, kind):
    root = make_tiny_dataset(tmp_path / "odd")
    info = json.loads((root / "meta" / "info.json").read_text())
    info["features"]["observation.image"]["shape"] = [32, 32, channels]
    (root / "meta" / "info.json").write_text(json.dumps(info))
    with pytest.raises(
        ValueError, match=rf"Entry 'odd' has no camera that records color, only 'observation.image' \({kind}"
    ):
        build({"name": "odd", "repo_id": "local/odd", "root": str(root)}, cameras=None)


def test_an_older_format_names_the_converter(tmp_path, build):
    root = make_tiny_dataset(tmp_path / "old")
    info = json.loads((root / "meta" / "info.json").read_text()) | {"codebase_version": "v2.1"}
    (root / "meta" / "info.json").write_text(json.dumps(info))
    with pytest.raises(ValueError, match=r"Entry 'old' .*older dataset format.*lara upgrade-dataset"):
        build({"name": "old", "repo_id": "local/old", "root": str(root)}, cameras=None)


def test_policies_that_need_actions_refuse_action_free_entries(build):
    policy = ACTConfig(device="cpu", push_to_hub=False)
    message = r"`policy.type` is act, which cannot learn from samples without actions.*\['video'\]"
    with pytest.raises(ValueError, match=message):
        build(ROBOT, VIDEO, policy=policy, cameras=["observation.image"])
    assert len(build(ROBOT, policy=policy, cameras=None)) == 48


def test_a_policy_that_learns_nothing_from_video_is_warned_about(build, caplog):
    build(ROBOT, VIDEO, policy=LaraDiTConfig())
    assert "lara_dit learns nothing from the action-free entries ['video']" in caplog.text


def test_policies_that_know_no_masks_take_entries_of_one_form_only(build):
    policy = ACTConfig(device="cpu", push_to_hub=False)
    with pytest.raises(
        ValueError, match=r"`policy.type` is act, which has one set of projections.*\['arm', 'default'\]"
    ):
        build(ROBOT, ARM, policy=policy)
    narrow = {"action": {"key": "action", "dims": [0, 1]}, "embodiment": "arm"}
    with pytest.raises(ValueError, match=r"have the same embodiment 'arm'"):
        build(ROBOT | narrow, ARM, policy=policy)
    robot, four = ROBOT | {"embodiment": "arm"}, {"key": "action", "dims": [0, 1, 2, 3]}
    with pytest.raises(ValueError, match=r"would take a missing camera for a black image"):
        build(robot, ARM | {"state": {"key": None}, "action": four}, policy=policy)
    one = {"cameras": {"observation.images.top": "observation.image"}, "state": {"key": None}, "action": four}
    with pytest.raises(ValueError, match=r"would take a missing state for a real one"):
        build(robot, ARM | one, policy=policy, cameras=None)


def test_video_without_the_latent_action_models_camera_is_refused(build, caplog):
    wrist = VIDEO | {"cameras": {"observation.images.cam": "observation.images.wrist"}}
    for policy in (lara_config(), LaraLAMConfig(frame_gap=4)):
        with pytest.raises(ValueError, match=r"Entry 'video' lacks the camera 'observation.image'"):
            build(ROBOT, ARM, wrist, policy=policy)
    build(ROBOT, ARM, wrist, policy=lara_config(lam_camera="observation.images.wrist"))
    assert "Entry 'robot' lacks the camera 'observation.images.wrist'" in caplog.text


def test_a_camera_of_no_entry_is_named(build, caplog):
    build(ROBOT, cameras=["observation.image", "wrsit"])
    assert "No entry maps a camera to ['wrsit']" in caplog.text


def test_a_reference_dataset_without_state_leaves_out_the_states_of_others(build, caplog):
    mixed = build(ROBOT | {"state": {"key": None}}, ARM)
    assert "observation.state" not in mixed.meta.features
    assert not any("state" in key for key in mixed[0])
    assert "The reference dataset 'robot' has no state" in caplog.text


def test_a_labeled_entry_without_state_is_masked(build):
    policy = LaraDiTConfig(max_action_dim=7, embodiments=["default", "arm"])
    robot, arm = (entry[0] for entry in build(ROBOT, ARM | {"state": {"key": None}}, policy=policy).entries)
    assert robot["observation.state_is_pad"].tolist() == [False]
    assert arm["observation.state_is_pad"].tolist() == [True]


def test_dimensions_that_the_reference_dataset_never_moves_are_named(build, caplog):
    build(ROBOT, ARM)
    assert "never move" not in caplog.text  # the further dimensions of both robots are constant
    build(ROBOT | {"action": {"key": "action", "dims": [2, 3, 0, 1]}}, ARM)
    assert "`action` of entry 'arm': dimensions [0, 1] never move in the reference dataset" in caplog.text


def test_without_a_network_the_entry_is_named(build, monkeypatch):
    def refuse(*args, **kwargs):
        raise httpx.ConnectError("[Errno 111] Connection refused")

    monkeypatch.setattr("lerobot_lara.data.mixture.sources.CheckedMetadata", refuse)
    with pytest.raises(ValueError, match=r"Entry 'far': .*cannot be downloaded \(ConnectError"):
        build({"name": "far", "repo_id": "org/far"})


def test_held_out_episodes_may_be_too_short_for_a_pair(write_mixture):
    """The last of the arm's episodes has 3 frames, at a gap of 4."""
    path = write_mixture(ROBOT, ARM | {"frame_gap_s": 0.8})
    config = load_mixture(path)
    _, held_out = build_mixture(config, lara_config(), path=path, video_backend="pyav", eval_split=0.3)
    assert len(held_out) > 0


def test_what_the_datasets_lack_is_said_at_once_before_any_data_is_read(build, monkeypatch):
    def read(*args, **kwargs):
        pytest.fail("data was read")

    monkeypatch.setattr("lerobot_lara.data.mixture.sources.LeRobotDataset", read)
    first = ROBOT | {"cameras": {"front": "observation.image"}, "action": {"key": "joints"}, "episodes": [99]}
    second = ARM | {"language_key": "words", "state": {"key": "pose"}}
    with pytest.raises(ValueError) as error:
        build(first, second)
    for part in ("maps 'front'", "'joints'", "contains 99", "'words'", "'pose'"):
        assert part in str(error.value)
    with pytest.raises(ValueError) as error:
        build(ROBOT | {"root": None}, ARM | {"root": None})
    assert "Entry 'robot': " in str(error.value) and "Entry 'arm': " in str(error.value)
    with pytest.raises(ValueError, match="`frame_gap` is 4; it must be 8"):
        build(ROBOT, ARM, frame_gap_s=0.8)
