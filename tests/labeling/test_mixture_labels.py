"""Labels of the datasets of a mixture file: each in its folder, of the frames and pairs that its policy will see."""

import numpy as np
import pytest
import torch
import yaml
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from support.tiny_datasets import REPO_ID, make_tiny_dataset

from lerobot_lara.cli import main
from lerobot_lara.data.latent_labels.labels import LatentLabels
from lerobot_lara.data.mixture.samples import fit_image
from lerobot_lara.labeling import run as module
from lerobot_lara.labeling.plan import LabelOptions
from lerobot_lara.labeling.run import label
from lerobot_lara.lam.latent_action_model import LatentActionModel

from .test_label import save_lam

FLOAT = LabelOptions(dtype="float32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A robot at 10 frames per second, and a wider video at 20 with another name for its camera."""
    folder = tmp_path_factory.mktemp("mixture")
    save_lam(folder / "lam")
    make_tiny_dataset(folder / "robot", num_frames=12)
    make_tiny_dataset(
        folder / "video",
        num_episodes=3,
        num_frames=[16, 5, 9],
        size=(24, 40),
        cameras=("observation.images.front", "observation.images.side"),
        action=False,
        state=False,
        fps=20,
        seed=1,
    )
    return folder


ROBOT = {"name": "robot", "repo_id": "local/robot", "root": "robot"}
VIDEO = {
    "name": "video",
    "repo_id": "local/video",
    "root": "video",
    "action_free": True,
    "cameras": {"observation.images.side": "observation.image"},
}


def write(folder, *entries, name="mixture", **fields):
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"entries": list(entries)} | fields))
    return str(path)


def expected(folder, root, camera, gap, size, index):
    dataset = LeRobotDataset(REPO_ID, root=folder / root)
    frames = torch.stack([dataset[index][camera], dataset[index + gap][camera]])
    frames = (frames * 255).round().to(torch.uint8)
    with torch.no_grad():
        output = LatentActionModel.from_pretrained(folder / "lam").encode(fit_image(frames, size)[None] / 255)
    return output.latent_action.flatten().numpy()


def test_each_dataset_has_its_gap_camera_and_crop(folder, tmp_path):
    mixture = write(folder, ROBOT | {"frame_gap_s": 0.2}, VIDEO, frame_gap_s=0.3)
    results = label(str(folder / "lam"), mixture, tmp_path / "labels", options=FLOAT)
    assert [result.folder.name for result in results] == ["robot", "video"]
    for name, camera, gap, starts in (
        ("robot", "observation.image", 2, [0, 9, 12, 21]),
        ("video", "observation.images.side", 6, [0, 9, 21, 23]),
    ):
        labels = LatentLabels(tmp_path / "labels" / name)
        assert (labels.manifest.frame_gap, labels.manifest.camera) == (gap, camera)
        assert labels.manifest.frame_size == [32, 32], "the policy's, that is, the robot's"
        assert labels.manifest.frame_gap_s == pytest.approx({"robot": 0.2, "video": 0.3}[name])
        for index in starts:
            assert labels.valid[index]
            wanted = expected(folder, name, camera, gap, (32, 32), index)
            np.testing.assert_allclose(labels.latent_action(index), wanted, atol=1e-5)
    assert labels.valid.sum() == 16 - 6 + 9 - 6, "an episode that is shorter than the gap has none"


def test_without_seconds_the_gap_is_the_models_frames(folder, tmp_path):
    mixture = write(folder, ROBOT, VIDEO, image_size=[20, 24])
    for result in label(str(folder / "lam"), mixture, tmp_path / "labels", options=FLOAT):
        assert result.manifest.frame_gap == 4 and result.manifest.frame_size == [20, 24]


def test_a_reference_that_is_not_trained_on_is_labeled_too(folder, tmp_path):
    """Pre-training on video alone: the robot's dataset has weight 0."""
    mixture = write(folder, ROBOT | {"weight": 0}, VIDEO, reference="robot")
    assert main(["label", str(folder / "lam"), mixture, f"--out={tmp_path}/labels"]) == 0
    assert len(LatentLabels(tmp_path / "labels/robot")) == 24
    assert len(LatentLabels(tmp_path / "labels/video")) == 30


def test_the_policys_camera_may_be_named(folder, tmp_path):
    both = {"observation.images.front": "front", "observation.images.side": "observation.image"}
    mixture = write(folder, ROBOT, VIDEO | {"cameras": both}, cameras=["front", "observation.image"])
    lam = str(folder / "lam")
    [first] = label(lam, mixture, tmp_path / "first")
    assert first.folder.name == "video", "the robot lacks the policy's first camera"
    assert first.manifest.camera == "observation.images.front"
    named = label(lam, mixture, tmp_path / "named", camera="observation.image")
    assert [each.manifest.camera for each in named] == ["observation.image", "observation.images.side"]
    with pytest.raises(ValueError, match=r"`camera` is 'side'; with the mixture file .* one of \['front'"):
        label(lam, mixture, tmp_path / "other", camera="side")


def test_what_is_wrong_with_the_last_dataset_is_said_before_the_first_is_labeled(
    folder, tmp_path, monkeypatch
):
    labeled = []
    monkeypatch.setattr(module, "label_here", lambda *args, **kwargs: labeled.append(args))
    short = write(folder, ROBOT, VIDEO | {"frame_gap_s": 2}, name="short")
    with pytest.raises(ValueError, match=r"`frame_gap` is 40, which leaves no pair"):
        label(str(folder / "lam"), short, tmp_path / "labels")
    for entry, message in (
        (VIDEO | {"name": "../video"}, r"`name` of an entry is '\.\./video'"),
        (VIDEO | {"name": "/video"}, r"`name` of an entry is '/video'"),
        (VIDEO | {"episodes": [7]}, r"`episodes` of entry 'video' contains 7"),
        (VIDEO | {"root": "nowhere"}, r"`root` of entry 'video' is .*nowhere, which does not exist"),
    ):
        with pytest.raises(ValueError, match=message):
            label(str(folder / "lam"), write(folder, ROBOT, entry, name="bad"), tmp_path / "labels")
    assert not labeled and not (tmp_path / "labels").exists()


def test_a_mixture_without_the_policys_camera_is_an_error(folder, tmp_path, capsys):
    mixture = write(folder, VIDEO | {"cameras": {"observation.images.front": "b"}}, cameras=["a", "b"])
    assert main(["label", str(folder / "lam"), mixture, f"--out={tmp_path}/labels"]) == 2
    assert "No dataset of" in capsys.readouterr().err and not (tmp_path / "labels").exists()


def test_a_name_with_a_slash_makes_folders_and_a_second_run_does_nothing(folder, tmp_path, monkeypatch):
    mixture = write(folder, ROBOT | {"name": "user/robot"}, name="slash")
    monkeypatch.chdir(folder)
    assert main(["label", "lam", "slash.yaml", f"--out={tmp_path}/labels"]) == 0
    assert len(LatentLabels(tmp_path / "labels/user/robot")) == 24
    monkeypatch.setattr(module, "label_here", None)
    monkeypatch.chdir(tmp_path)
    assert main(["label", str(folder / "lam"), mixture, "--out=labels"]) == 0


def test_some_episodes_of_a_dataset(folder, tmp_path):
    mixture = write(folder, VIDEO | {"episodes": [2, 0]}, name="some")
    [result] = label(str(folder / "lam"), mixture, tmp_path / "labels", options=LabelOptions(shard_frames=1))
    labels = LatentLabels(result.folder)
    assert labels.index.tolist() == [*range(16), *range(21, 30)]
    assert labels.column("episode_index").tolist() == [0] * 16 + [2] * 9
    assert labels.column("frame_index").tolist() == [*range(16), *range(9)]
    assert labels.manifest.dataset["episodes"] == [0, 2]
    assert main(["label", "--check", str(result.folder)]) == 0
