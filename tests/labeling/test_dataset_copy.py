"""A copy of a dataset with its labels, or pseudo-actions, as columns."""

import numpy as np
import pytest
from lerobot.datasets.dataset_tools import delete_episodes
from lerobot.datasets.io_utils import load_stats
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from support.helpers import run_train
from support.tiny_datasets import make_tiny_dataset

from lerobot_lara.cli import main
from lerobot_lara.data.latent_labels.labels import LatentLabels
from lerobot_lara.data.latent_labels.manifest import LabelManifest
from lerobot_lara.labeling.dataset_copy import CODES, LATENTS, VALID
from lerobot_lara.labeling.decoder import BOTH, FRAME, ActionDecoder, actions_of_frames, fit_decoder, summary

from .test_label import save_lam

DIT = {
    "policy__type": "lara_dit",
    "policy__image_size": 32,
    "policy__vision_encoder_width": 16,
    "policy__text_encoder": None,
    "policy__width": 16,
    "policy__num_layers": 1,
    "policy__num_heads": 2,
    "policy__chunk_size": 8,
    "policy__n_action_steps": 8,
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    make_tiny_dataset(
        folder / "videos", num_episodes=3, num_frames=10, action=False, state=False, storage="video"
    )
    make_tiny_dataset(folder / "demos", num_episodes=5, num_frames=12)
    return folder / "videos", folder / "demos", save_lam(folder / "lam"), folder


def copy(videos, tmp_path, *flags):
    root, _, lam, _ = videos
    where = [f"--out={tmp_path}/labels", "--as-dataset=you/labeled", f"--root={tmp_path}/copy"]
    return main(["label", lam, str(root), *where, *flags])


def test_labels_become_columns_and_videos_stay_byte_by_byte(videos, tmp_path):
    assert copy(videos, tmp_path, "--codebook-size=3") == 0
    labels = LatentLabels(tmp_path / "labels")
    dataset = LeRobotDataset("you/labeled", root=tmp_path / "copy")
    for row in (0, 5, 9, 12):
        sample = dataset[row]
        assert bool(sample[VALID]) == bool(labels.valid[row])
        np.testing.assert_allclose(sample[LATENTS].numpy(), labels.latent_action(row), atol=1e-3)
        assert sample[CODES].tolist() == labels.code_indices(row).tolist()
    sources = sorted((videos[0] / "videos").rglob("*.mp4"))
    copies = sorted((tmp_path / "copy" / "videos").rglob("*.mp4"))
    assert [each.read_bytes() for each in copies] == [each.read_bytes() for each in sources]
    stats = load_stats(tmp_path / "copy")
    valid = labels.column("latent_action")[labels.valid, 0].astype(np.float64)
    np.testing.assert_allclose(stats[LATENTS]["mean"], valid.mean(0), atol=1e-6)
    assert stats[LATENTS]["count"] == len(valid)
    before = load_stats(videos[0])
    assert all((stats[key]["mean"] == before[key]["mean"]).all() for key in before), "others stay"
    copied = (tmp_path / "copy" / "label_manifest.json").read_text()
    assert copied == (tmp_path / "labels" / "meta" / "latent_labels.json").read_text()


def test_the_copys_labels_stay_with_their_rows_when_episodes_are_deleted(videos, tmp_path):
    copy(videos, tmp_path)
    labels = LatentLabels(tmp_path / "labels")
    kept = delete_episodes(
        LeRobotDataset("you/labeled", root=tmp_path / "copy"),
        [0],
        output_dir=tmp_path / "kept",
        repo_id="a/b",
    )
    np.testing.assert_allclose(kept[0][LATENTS].numpy(), labels.latent_action(10), atol=1e-3)


def test_what_exists_is_not_replaced(videos, tmp_path, capsys):
    assert copy(videos, tmp_path) == 0
    assert copy(videos, tmp_path) == 2
    assert "exists already" in capsys.readouterr().err
    root, _, lam, _ = videos
    assert main(["label", lam, str(root), f"--out={tmp_path}/labels", "--decoder=x"]) == 2
    assert "`root` and `decoder` are of a copy" in capsys.readouterr().err
    flags = ["--as-dataset=you/x", f"--root={tmp_path}/x", "--executor=slurm"]
    assert main(["label", lam, str(root), f"--out={tmp_path}/labels", *flags]) == 2
    assert "whose tasks end later" in capsys.readouterr().err


def test_pseudo_actions_make_a_dataset_that_any_policy_trains_on(videos, tmp_path, capsys):
    _, demos, lam, _ = videos
    assert main(["fit-decoder", lam, str(demos), f"--out={tmp_path}/decoder"]) == 0
    assert "R2 of held-out actions (5 episodes)" in capsys.readouterr().err
    assert main(["fit-decoder", lam, str(demos), f"--out={tmp_path}/decoder"]) == 2, "it is not replaced"
    assert copy(videos, tmp_path, f"--decoder={tmp_path}/decoder") == 0
    dataset = LeRobotDataset("you/labeled", root=tmp_path / "copy")
    assert dataset[0]["action"].shape == (4,) and dataset[0]["observation.state"].shape == (4,)
    run = run_train(
        **DIT,
        dataset__repo_id="you/labeled",
        dataset__root=tmp_path / "copy",
        output_dir=tmp_path / "run",
        steps=2,
    )
    assert all(metrics["flow_loss"] > 0 for metrics in run.metrics)


def test_a_decoder_of_another_model_or_for_data_with_actions_is_refused(videos, tmp_path, capsys):
    root, demos, lam, _ = videos
    other = save_lam(tmp_path / "other", seed=1)
    assert main(["fit-decoder", other, str(demos), f"--out={tmp_path}/decoder"]) == 0
    assert copy(videos, tmp_path, f"--decoder={tmp_path}/decoder") == 2
    assert "was fitted for another latent action model" in capsys.readouterr().err
    assert not (tmp_path / "copy").exists()
    assert main(["fit-decoder", lam, str(demos), f"--out={tmp_path}/own"]) == 0
    flags = [f"--out={tmp_path}/l", "--as-dataset=you/d", f"--root={tmp_path}/d", f"--decoder={tmp_path}/own"]
    assert main(["label", lam, str(demos), *flags]) == 2
    assert "has actions of its own" in capsys.readouterr().err
    assert main(["fit-decoder", lam, str(root), f"--out={tmp_path}/none"]) == 2
    assert "has no actions, from which a decoder is learned" in capsys.readouterr().err
    assert main(["fit-decoder", lam, str(demos), f"--out={tmp_path}/few", "--episodes=3"]) == 2
    assert "needs at least 4" in capsys.readouterr().err


def synthetic(informative, seed=0):
    """Frames and latents of 8 episodes; the actions follow the latent, or the frame alone."""
    random = np.random.default_rng(seed)
    frames = random.normal(size=(320, 10)).astype(np.float32)
    latents = random.normal(size=(320, 3)).astype(np.float32)
    source = latents[:, :2] if informative else frames[:, :2]
    actions = np.repeat(source[:, None], 4, axis=1) * np.array([2.0, 0.1]) + 5
    states = frames[:, :1] * 3
    return frames, latents, actions.astype(np.float32), states, np.repeat(np.arange(8), 40)


@pytest.mark.parametrize("informative", [True, False])
def test_the_report_says_whether_the_latent_action_helps(informative):
    frames, latents, actions, states, episodes = synthetic(informative)
    decoder = fit_decoder(frames, latents, actions, states, episodes, seed=0)
    r2 = decoder.record["r2"]
    if informative:
        assert r2[BOTH] > 0.8 > 0.1 > r2[FRAME] and "the latent action adds" in summary(decoder.record)
    else:
        assert r2[FRAME] > 0.7 and r2[BOTH] - r2[FRAME] < 0.05
        assert "adds nothing" in summary({**decoder.record, "r2": r2 | {BOTH: r2[FRAME] - 0.01}})
        assert "no better than the mean" in summary({**decoder.record, "r2": r2 | {BOTH: -0.01}})


def test_a_saved_decoder_decodes_alike_in_the_units_of_the_demonstrations(tmp_path):
    frames, latents, actions, states, episodes = synthetic(True)
    decoder = fit_decoder(frames, latents, actions, states, episodes, seed=0)
    decoder.save(tmp_path / "decoder")
    loaded = ActionDecoder.load(tmp_path / "decoder")
    found, state = loaded.decode(frames, latents)
    assert found.shape == (320, 4, 2) and state.shape == (320, 1)
    np.testing.assert_array_equal(found, decoder.decode(frames, latents)[0])
    assert np.square(found - actions).mean() / actions.var() < 0.2
    with pytest.raises(ValueError, match="holds no decoder"):
        ActionDecoder.load(tmp_path)


def test_the_last_frames_take_the_rest_of_the_last_chunk():
    chunks = np.arange(5 * 3).reshape(5, 3, 1)
    valid = np.array([True, True, False, False, False])
    assert actions_of_frames(chunks, valid, 3)[:, 0].tolist() == [0, 3, 4, 5, 5]


def test_manifests_travel(videos, tmp_path):
    copy(videos, tmp_path)
    assert str(tmp_path) not in (tmp_path / "copy" / "label_manifest.json").read_text()
    assert LabelManifest.read(tmp_path / "labels").dataset["repo_id"] == "local/videos"
