"""`lara probe` on labels: the same latents as the model's, and nothing that needs it."""

import json
from pathlib import Path

import numpy as np
import pytest
from evaluation.probe.test_command import save_lam
from support.tiny_datasets import make_tiny_dataset

from lerobot_lara import cli
from lerobot_lara.data.latent_labels.manifest import LabelManifest
from lerobot_lara.evaluation.probe.action_probe import NO_MOTION
from lerobot_lara.evaluation.probe.checkpoint import open_checkpoints
from lerobot_lara.evaluation.probe.data import read_pairs
from lerobot_lara.evaluation.probe.encoding import encode_pairs
from lerobot_lara.evaluation.probe.labeled import LabeledLatents
from lerobot_lara.evaluation.probe.model import CheckpointModel
from lerobot_lara.evaluation.probe.verdicts import NOT_MEASURED
from lerobot_lara.lam.latent_action_model import LatentActionModel


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset, a latent action model, and labels with and without latents of no motion."""
    folder = tmp_path_factory.mktemp("probe_labels")
    demos = make_tiny_dataset(folder / "demos", num_episodes=5, num_frames=12)
    lam = save_lam(folder / "lam", quantizer="vq")
    for name, flags in (("labels", ()), ("no_motion", ("--no-motion", "--dtype=float32"))):
        command = ["label", str(lam), str(demos), f"--out={folder / name}", "--device=cpu", *flags]
        assert cli.main(command) == 0
    return folder


def pairs_of(folder: Path, size: int = 32):
    return read_pairs(str(folder / "demos"), camera=None, frame_gap=3, image_size=size, max_pairs=30, seed=0)


def test_labels_of_pairs_are_the_latents_of_their_model(folder: Path) -> None:
    pairs = pairs_of(folder)
    model = CheckpointModel(LatentActionModel.from_pretrained(folder / "lam"), device="cpu")
    live, labeled = encode_pairs(model, pairs), LabeledLatents(str(folder / "no_motion")).encoded(pairs)
    np.testing.assert_allclose(labeled.latents.continuous, live.latents.continuous, atol=1e-5)
    np.testing.assert_array_equal(labeled.latents.codes, live.latents.codes)
    np.testing.assert_allclose(labeled.no_motion, live.no_motion, atol=1e-5)
    thumbnails = live.observation.shape[1] - live.features.shape[2]
    np.testing.assert_allclose(labeled.observation, live.observation[:, -thumbnails:], atol=1e-6)
    assert LabeledLatents(str(folder / "labels")).encoded(pairs).no_motion is None


def test_report_measures_what_labels_tell(folder: Path, tmp_path: Path) -> None:
    paths = [str(folder / name) for name in ("labels", "no_motion")]
    command = ["probe", *paths, f"--dataset={folder / 'demos'}", f"--out={tmp_path}", "--device=cpu"]
    assert cli.main([*command, "--max-pairs=30"]) == 0
    plain, with_no_motion = json.loads((tmp_path / "metrics.json").read_text())["models"]
    assert plain["type"] == "labels" and plain["label"] == "labels"
    assert plain["latents"]["dimensions"] == 8 and plain["latents"]["codebook_size"] is not None
    assert plain["prediction"] is None and plain["transfer"] is None and plain["robustness"] == {}
    outcomes = {verdict["name"]: verdict["outcome"] for verdict in plain["verdicts"]}
    assert [outcome == NOT_MEASURED for outcome in outcomes.values()] == [True, False, False, True, True]
    assert NO_MOTION not in plain["action"]["r2"]["ridge"]
    assert "no motion" not in plain["verdicts"][1]["finding"]
    assert NO_MOTION in with_no_motion["action"]["r2"]["ridge"]
    assert "no motion" in with_no_motion["verdicts"][1]["finding"]
    assert not (tmp_path / "figures" / "distractors.png").exists()
    page = (tmp_path / "report.html").read_text()
    assert page.count("Not measured: labels hold no pictures") == 2
    assert "Not measured: labels are of the frames as they are" in page and "features, not frames" not in page


def test_pairs_without_a_label_are_left_out(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    labels, pairs = LabeledLatents(str(folder / "labels")), pairs_of(folder)
    labels.labels.valid = labels.labels.valid.copy()
    labels.labels.valid[:12] = False  # the first episode
    kept = labels.labeled(pairs)
    assert set(kept.episodes.tolist()) == {1, 2, 3, 4}
    np.testing.assert_array_equal(kept.frames, pairs.frames[pairs.episodes > 0])
    np.testing.assert_array_equal(kept.actions, pairs.actions[pairs.episodes > 0])
    assert "6 of 30 pairs have no label" in caplog.text


@pytest.mark.parametrize("with_others", [False, True])
def test_too_few_labeled_episodes(folder: Path, with_others: bool) -> None:
    labels = LabeledLatents(str(folder / "labels"))
    labels.labels.valid = labels.labels.valid.copy()
    labels.labels.valid[: 12 if with_others else 24] = False
    if with_others:
        assert len(labels.labeled(pairs_of(folder))) == 24
    else:
        with pytest.raises(
            ValueError, match="has labels in 3 of the episodes; it must have them in at least 4"
        ):
            labels.labeled(pairs_of(folder))


def test_another_dataset_is_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = make_tiny_dataset(tmp_path / "other", num_episodes=4, num_frames=12)
    command = [
        "probe",
        str(folder / "labels"),
        f"--dataset={other}",
        f"--out={tmp_path / 'out'}",
        "--device=cpu",
    ]
    assert cli.main(command) == 2
    assert "it has 4 episodes, and 5 were labeled" in capsys.readouterr().err
    assert not (tmp_path / "out" / "report.html").exists()


def test_another_camera_is_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["probe", str(folder / "labels"), f"--dataset={folder / 'demos'}", f"--out={tmp_path / 'out'}"]
    assert cli.main([*command, "--camera=observation.wrist", "--device=cpu"]) == 2
    assert "it must be 'observation.image', of which the labels" in capsys.readouterr().err


def test_models_and_labels_are_not_compared(folder: Path) -> None:
    with pytest.raises(ValueError, match="both models and labels"):
        open_checkpoints([str(folder / "lam"), str(folder / "labels")], device="cpu")


def test_camera_of_the_labels(folder: Path) -> None:
    (opened,) = open_checkpoints([str(folder / "labels")], device="cpu")
    assert opened.camera == LabelManifest.read(folder / "labels").camera
