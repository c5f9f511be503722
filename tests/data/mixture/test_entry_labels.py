"""Latent labels of a mixture's entries: what they add to samples, and labels that do not fit."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from lerobot.datasets.dataset_tools import delete_episodes
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from support.policies import TINY_LAM
from support.tiny_datasets import make_tiny_dataset

from lerobot_lara.batch.keys import LATENT_ACTION, LATENT_ACTION_IS_PAD, LATENT_SHIFT
from lerobot_lara.data.latent_labels.labels import LatentLabels
from lerobot_lara.data.mixture.build import build_mixture
from lerobot_lara.data.mixture.single import single_dataset
from lerobot_lara.labeling.plan import LabelOptions
from lerobot_lara.labeling.run import label
from lerobot_lara.lam.latent_action_model import LatentActionModel

from .conftest import ARM, ROBOT, VIDEO, lara_config

WIDTH = TINY_LAM["num_latent_tokens"] * TINY_LAM["latent_dim"]
LABELED = {"alignment_source": "labels"}


def save_lam(folder, seed=0, **changes):
    torch.manual_seed(seed)
    LatentActionModel.from_config(**TINY_LAM | changes).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def lam(tmp_path_factory):
    return save_lam(tmp_path_factory.mktemp("lam"))


@pytest.fixture
def labels(write_mixture, lam, tmp_path):
    """The three entries, each with its labels, and the folder of these."""
    out = tmp_path / "labels"
    label(lam, str(write_mixture()), out, options=LabelOptions(dtype="float32"))
    return [entry | {"labels": str(out / entry["name"])} for entry in (ROBOT, ARM, VIDEO)], out


def test_samples_hold_the_latent_action_that_the_model_infers_from_their_pair(build, labels, lam):
    entries, _ = labels
    labeled = build(*entries, policy=lara_config(**LABELED))
    live = build(*entries, policy=lara_config(alignment_source="lam"))
    model = LatentActionModel.from_pretrained(lam)
    assert len(labeled) == len(live), "video without a pair is left out alike"
    for draw in range(0, len(live), 5):
        ours, theirs = labeled[draw], live[draw]
        pair, is_pad = theirs["observation.image"], theirs["observation.image_is_pad"]
        assert torch.equal(ours["observation.image"], pair[0]), "the same frame, and no second one"
        assert bool(ours[LATENT_ACTION_IS_PAD]) == bool(is_pad.any())
        if not is_pad.any():
            with torch.no_grad():
                expected = model.encode(pair[None].float() / 255).latent_action.flatten()
            torch.testing.assert_close(ours[LATENT_ACTION], expected, rtol=1e-4, atol=1e-5)
    assert labeled.meta.latent_labels.latent_width == WIDTH


def test_the_record_names_the_labels_and_no_folder(build, labels, tmp_path):
    entries, out = labels
    record = build(*entries, policy=lara_config(**LABELED)).meta.mixture
    assert str(tmp_path) not in str(record)
    found = [entry["labels"] for entry in record["entries"]]
    assert found == [LatentLabels(out / entry["name"]).manifest.identity() for entry in entries]
    assert all("labels" not in entry for entry in build().meta.mixture["entries"]), "old records stay valid"


def test_an_entry_with_actions_may_lack_labels_and_one_without_may_not(build, labels, caplog):
    (robot, arm, video), _ = labels
    unlabeled = build(robot | {"labels": None}, arm, video, policy=lara_config(**LABELED))
    assert "Entry 'robot' has no `labels`" in caplog.text
    sample = unlabeled[0]
    assert sample[LATENT_ACTION_IS_PAD] and sample[LATENT_ACTION].shape == (WIDTH,)
    with pytest.raises(ValueError, match=r"Entry 'video' has neither actions nor `labels`"):
        build(robot, arm, video | {"labels": None}, policy=lara_config(**LABELED))
    with pytest.raises(ValueError, match="no dataset has any"):
        build(ROBOT, policy=lara_config(**LABELED))


def test_labels_of_another_model_are_refused(build, labels, write_mixture, tmp_path):
    (robot, arm, video), _ = labels
    other = save_lam(tmp_path / "other_lam", seed=1)
    label(other, str(write_mixture()), tmp_path / "others")
    with pytest.raises(ValueError, match=r"'robot' and 'video' are of different latent action models"):
        build(robot, arm, video | {"labels": str(tmp_path / "others/video")}, policy=lara_config(**LABELED))


def test_two_labelings_of_one_dataset_are_refused(build, labels, lam, datasets, tmp_path):
    (robot, _, _), _ = labels
    again = label(lam, str(datasets / "robot"), tmp_path / "again", options=LabelOptions(dtype="float16"))[
        0
    ].folder
    twice = robot | {"name": "again", "labels": str(again)}
    with pytest.raises(ValueError, match=r"'robot' and 'again' are of one dataset.*different `labels`"):
        build(robot, twice, policy=lara_config(**LABELED))


@pytest.mark.parametrize(
    ("changes", "fields", "message"),
    [
        ({"frame_gap_s": 0.5}, {"frame_gap": 5}, r"`frame_gap` 4; it must be 5.*Pass --policy.frame_gap"),
        ({"image_size": [20, 20]}, {}, r"`frame_size` \[32, 32\]; it must be \[20, 20\].*the mixture file"),
        ({}, {"alignment_relative": True}, r"`alignment_relative` is true, but.*--no-motion"),
        ({}, {"random_shift": 2}, r"`random_shift` is 2, but.*--augmentations=4 --random-shift=2"),
    ],
)
def test_labels_that_do_not_fit_the_policy_are_refused(build, labels, changes, fields, message):
    (robot, _, _), _ = labels
    with pytest.raises(ValueError, match=message):
        build(robot, policy=lara_config(**LABELED | fields), cameras=["observation.image"], **changes)


def test_labels_of_another_camera_are_refused(build, lam, labels, datasets, tmp_path):
    (_, arm, _), _ = labels
    wrist = label(lam, str(datasets / "arm"), tmp_path / "wrist", camera="observation.images.wrist")[0]
    with pytest.raises(ValueError, match=r"`camera` 'observation.images.wrist'; it must be.*top"):
        build(arm | {"labels": str(wrist.folder)}, policy=lara_config(**LABELED | {"frame_gap": 2}))


def single(root, labels):
    config = single_dataset("local/own", root=str(root), labels=str(labels))
    return build_mixture(config, lara_config(**LABELED), path="local/own", video_backend="pyav")[0]


def test_a_dataset_that_was_edited_after_labeling_is_refused(lam, tmp_path):
    root = make_tiny_dataset(tmp_path / "data", num_episodes=3, num_frames=[12, 10, 12])
    folder = label(lam, str(root), tmp_path / "labels")[0].folder
    single(root, folder)
    shorter = delete_episodes(
        LeRobotDataset("local/own", root=root), [0], output_dir=tmp_path / "shorter", repo_id="local/own"
    )
    with pytest.raises(ValueError, match=r"not of local/own as it is now: it has 2 episodes, and 3 were"):
        single(shorter.root, folder)
    renumbered = make_tiny_dataset(tmp_path / "renumbered", num_episodes=3, num_frames=[10, 12, 12])
    with pytest.raises(ValueError, match=r"its episode 0 has 10 frames, and had 12 when it was labeled"):
        single(renumbered, folder)


def test_labels_of_some_episodes_serve_these_only(build, write_mixture, lam, tmp_path):
    some = ROBOT | {"episodes": [0, 2]}
    label(lam, str(write_mixture(some)), tmp_path / "some")
    labels = str(tmp_path / "some" / "robot")
    assert len(build(some | {"labels": labels}, policy=lara_config(**LABELED))) == 24
    with pytest.raises(
        ValueError, match=r"has no label of row 12 of the dataset \(24 of 48 rows are missing\)"
    ):
        build(ROBOT | {"labels": labels}, policy=lara_config(**LABELED))


def test_shifted_versions_bring_the_shift_that_the_policy_applies(lam, tmp_path):
    root = make_tiny_dataset(tmp_path / "data", num_episodes=2, num_frames=12)
    options = LabelOptions(dtype="float32", augmentations=3, random_shift=2)
    folder = label(lam, str(root), tmp_path / "labels", options=options)[0].folder
    config = single_dataset("local/own", root=str(root), labels=str(folder))
    policy = lara_config(**LABELED | {"random_shift": 2})
    training, held_out = build_mixture(config, policy, path="local/own", video_backend="pyav", eval_split=0.5)
    stored = LatentLabels(folder)
    seen = set()
    for _ in range(20):
        sample = training[0]
        version = next(
            v for v in range(1, 4) if torch.equal(sample[LATENT_SHIFT], torch.from_numpy(stored.shift(0, v)))
        )
        assert torch.equal(sample[LATENT_ACTION], torch.from_numpy(stored.latent_action(0, version)))
        seen.add(version)
    assert len(seen) > 1, "another version is drawn each time"
    sample = held_out[0]
    assert LATENT_SHIFT not in sample, "what is held out is not augmented"


def test_relative_labels_are_those_of_motion_alone(lam, tmp_path):
    root = make_tiny_dataset(tmp_path / "data", num_episodes=2, num_frames=12)
    folder = label(lam, str(root), tmp_path / "labels", options=LabelOptions(no_motion=True))[0].folder
    config = single_dataset("local/own", root=str(root), labels=str(folder))
    policy = lara_config(**LABELED | {"alignment_relative": True})
    sample = build_mixture(config, policy, path="local/own", video_backend="pyav")[0][0]
    stored = LatentLabels(folder)
    expected = stored.latent_action(0) - stored.no_motion(0)
    assert torch.equal(sample[LATENT_ACTION], torch.from_numpy(expected)) and np.abs(expected).max() > 0


def test_half_of_the_draws_may_be_video(build):
    shared = build(policy=lara_config(), action_free_share=0.5)
    video = [entry["draws"] for entry in shared.meta.mixture["entries"] if not entry["labeled"]]
    assert sum(video) / len(shared) == pytest.approx(0.5, abs=0.01)
    with pytest.raises(
        ValueError, match=r"`action_free_share` is 0.5, but all entries in use are with actions"
    ):
        build(ROBOT, action_free_share=0.5)


def test_a_reference_of_weight_0_lends_its_units_and_no_samples(build):
    video_only = build(ROBOT | {"weight": 0}, VIDEO, reference="robot", cameras=["observation.image"])
    assert {video_only.schedule[draw][0] for draw in range(len(video_only))} == {0}
    sample = video_only[0]
    assert sample["action_is_pad"].all() and sample["action"].shape == (8, 4)
    assert [entry["name"] for entry in video_only.meta.mixture["entries"]] == ["video"]


def test_a_replaced_manifest_field_changes_the_identity(labels):
    _, out = labels
    manifest = LatentLabels(out / "robot").manifest
    assert replace(manifest, seed=7).identity() != manifest.identity()
    assert replace(manifest, valid=0, plan="x").identity() == manifest.identity()
