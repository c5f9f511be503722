"""A single dataset is read, checked and normalized as a mixture of one entry."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from lerobot.configs import PreTrainedConfig
from lerobot.configs.default import DatasetConfig
from lerobot.configs.train import TrainPipelineConfig
from lerobot.datasets import LeRobotDataset, StreamingLeRobotDataset, factory
from support.helpers import run_train
from support.policies import make_policy
from support.tiny_datasets import REPO_ID, make_tiny_dataset

from lerobot_lara.data.mixture import lerobot_hook, run_datasets
from lerobot_lara.data.mixture.dataset import MixtureDataset
from lerobot_lara.data.mixture.single import single_dataset

TINY_DIT = {
    "policy__type": "lara_dit",
    "policy__image_size": 32,
    "policy__text_encoder": "null",
    "policy__width": 32,
    "policy__num_layers": 2,
    "policy__num_heads": 2,
    "policy__vision_encoder_width": 16,
    "policy__chunk_size": 8,
}
TINY_LAM = {
    "policy__type": "lara_lam",
    "policy__frame_gap": 4,
    "policy__image_size": 32,
    "policy__prediction_size": 16,
    "policy__idm_num_layers": 1,
    "policy__fdm_num_layers": 1,
}


@pytest.fixture
def built(monkeypatch):
    """The training and held-out sets that `lerobot-train` makes."""
    kept = []
    original = run_datasets.build_mixture

    def build(*args, **kwargs):
        kept.append(original(*args, **kwargs))
        return kept[-1]

    monkeypatch.setattr(run_datasets, "build_mixture", build)
    return kept


def as_mixture(path, root, **fields):
    entry = {"name": REPO_ID, "repo_id": REPO_ID, "root": str(root)}
    path.write_text(yaml.safe_dump({"entries": [entry | fields]}))
    return path


@pytest.mark.parametrize("policy", [TINY_DIT, TINY_LAM], ids=["lara_dit", "lara_lam"])
def test_a_single_dataset_trains_as_its_mixture_of_one(policy, tiny_dataset, tmp_path):
    root = tiny_dataset()
    single = run_train(**policy, dataset__root=root, output_dir=tmp_path / "single", steps=3)
    path = as_mixture(tmp_path / "one.yaml", root)
    mixture = run_train(**policy, dataset__repo_id=path, output_dir=tmp_path / "mixture", steps=3)
    for old, new in zip(single.metrics, mixture.metrics, strict=True):
        assert set(old) == set(new)
        assert old["loss"] == new["loss"]
    records = [json.loads((run.checkpoint / "mixture.json").read_text()) for run in (single, mixture)]
    assert records[0] == records[1]
    assert not any("/" in name or name == "labeled_share" for name in single.metrics[0])


def test_lerobots_flags_reach_the_entry(tiny_dataset, tmp_path, built):
    root = tiny_dataset(num_episodes=4)
    run = run_train(
        **TINY_DIT,
        dataset__root=root,
        dataset__episodes="[0,2,3]",
        dataset__eval_split=0.3,
        dataset__image_transforms__enable=True,
        tolerance_s=0.5,
        eval_steps=1,
        max_eval_samples=5,
        output_dir=tmp_path / "out",
        steps=1,
    )
    ((training, held_out),) = built
    (entry,) = training.entries
    assert isinstance(training, MixtureDataset)
    assert entry.reader.episodes == [0, 2]
    assert entry.image_transforms is not None
    assert entry.reader.tolerance_s == 0.5
    assert len(held_out) == 5
    assert held_out.dataset.entries[0].reader.episodes == [3]
    assert held_out.dataset.entries[0].image_transforms is None
    saved = json.loads((run.checkpoint / "train_config.json").read_text())
    assert (saved["dataset"]["repo_id"], saved["dataset"]["episodes"]) == (REPO_ID, [0, 2, 3])


def test_the_embodiment_is_the_policys(tiny_dataset, tmp_path, built):
    run = run_train(
        **TINY_DIT, policy__embodiment="so100", dataset__root=tiny_dataset(), output_dir=tmp_path / "out"
    )
    assert built[0][0].entries[0].source.embodiment == "so100"
    assert PreTrainedConfig.from_pretrained(run.checkpoint).embodiments == ["so100"]


def test_each_camera_keeps_its_size(tiny_dataset, tmp_path, built):
    root = tmp_path / "two_sizes"
    cameras = {"observation.images.front": (32, 48), "observation.images.wrist": (24, 24)}
    features = {
        key: {"dtype": "image", "shape": (*size, 3), "names": ["height", "width", "channels"]}
        for key, size in cameras.items()
    } | {"action": {"dtype": "float32", "shape": (2,), "names": None}}
    dataset = LeRobotDataset.create(REPO_ID, fps=10, features=features, root=root, use_videos=False)
    generator = np.random.default_rng(0)
    for _ in range(10):
        images = {
            key: generator.integers(0, 255, (*size, 3), dtype=np.uint8) for key, size in cameras.items()
        }
        dataset.add_frame(images | {"action": generator.normal(size=2).astype("float32"), "task": "t"})
    dataset.save_episode()
    dataset.finalize()
    run = run_train(**TINY_DIT, dataset__root=root, output_dir=tmp_path / "out", steps=1)
    sample = built[0][0][0]
    assert {key: tuple(sample[key].shape[-2:]) for key in cameras} == cameras
    record = json.loads((run.checkpoint / "mixture.json").read_text())
    assert record["image_size"] == {key: list(size) for key, size in cameras.items()}
    config = PreTrainedConfig.from_pretrained(run.checkpoint)
    assert {key: config.input_features[key].shape for key in cameras} == {
        key: (3, *size) for key, size in cameras.items()
    }


def test_rename_map_gives_samples_the_policys_names(tmp_path, built):
    """Camera, state and statistics of another robot's dataset, for a checkpoint with other names."""
    first = make_tiny_dataset(tmp_path / "first", cameras=("observation.images.camera1",))
    checkpoint = run_train(**TINY_DIT, dataset__root=first, output_dir=tmp_path / "pre", steps=1).checkpoint
    root = make_tiny_dataset(tmp_path / "data", cameras=("observation.images.top",), seed=1)
    rename_column(root, "observation.state", "observation.joints")
    renames = {
        "observation.images.top": "observation.images.camera1",
        "observation.joints": "observation.state",
    }
    run = run_train(
        policy__path=checkpoint,
        dataset__root=root,
        rename_map=json.dumps(renames),
        output_dir=tmp_path / "out",
        steps=1,
    )
    training, sample = built[-1][0], built[-1][0][0]
    original = LeRobotDataset(REPO_ID, root=root)[0]
    for old, new in renames.items():
        assert old not in sample
        shown = sample[new].float() / (255 if "images" in old else 1)
        torch.testing.assert_close(shown.squeeze(), original[old], rtol=0, atol=1e-6)
        for name in ("mean", "std"):
            saved = json.loads((root / "meta" / "stats.json").read_text())[old][name]
            if "images" not in old:
                np.testing.assert_allclose(training.meta.stats[new][name], saved, rtol=1e-6)
    assert PreTrainedConfig.from_pretrained(run.checkpoint).image_features.keys() == {
        "observation.images.camera1"
    }


def rename_column(root, old, new):
    for file in root.glob("meta/*.json"):
        file.write_text(file.read_text().replace(f'"{old}"', f'"{new}"'))
    for file in root.glob("data/**/*.parquet"):
        table = pq.read_table(file)
        names = [new if name == old else name for name in table.column_names]
        pq.write_table(table.rename_columns(names).replace_schema_metadata(None), file)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"a": "b", "b": "a"}, r"`rename_map` is .*both an old and a new name"),
        ({"a": "c", "b": "c"}, r"must not map two cameras to one"),
    ],
    ids=["swapped", "two to one"],
)
def test_rename_maps_that_do_not_work_are_refused(tmp_path, names, message):
    cameras = {name: f"observation.images.{name}" for name in "abc"}
    root = make_tiny_dataset(tmp_path / "data", cameras=(cameras["a"], cameras["b"]))
    with pytest.raises(ValueError, match=message):
        single_dataset(
            REPO_ID,
            root=str(root),
            rename_map={cameras[old]: cameras[new] for old, new in names.items()},
        )


def test_sample_weighting_is_refused(tiny_dataset, tmp_path):
    with pytest.raises(ValueError, match=r"`sample_weighting` is set.*lara_dit"):
        run_train(
            **TINY_DIT,
            dataset__root=tiny_dataset(),
            sample_weighting__type="uniform",
            output_dir=tmp_path / "out",
        )


def test_a_missing_action_column_names_the_latent_action_model(tiny_dataset, tmp_path):
    with pytest.raises(ValueError, match=r"'local/tiny' has no `action` column.*--policy.type=lara_lam"):
        run_train(**TINY_DIT, dataset__root=tiny_dataset(action=False), output_dir=tmp_path / "out")


# Resuming


def resume(run, **flags):
    config = run.checkpoint / "train_config.json"
    return run_train(config_path=config, resume=True, output_dir=None, **flags)


def test_a_run_from_before_records_resumes(tiny_dataset, tmp_path, capfd):
    run = run_train(**TINY_DIT, dataset__root=tiny_dataset(), output_dir=tmp_path / "out", steps=2)
    (run.checkpoint / "mixture.json").unlink()
    capfd.readouterr()
    resumed = resume(run, steps=4)
    assert len(resumed.metrics) == 2
    assert (run.checkpoint / "mixture.json").exists()
    lines = [line for line in capfd.readouterr().err.splitlines() if "mixture.json" in line]
    assert [line.split()[0] for line in lines] == ["INFO"]


def test_a_dataset_that_has_grown_resumes_with_a_warning(tmp_path, capfd):
    root = make_tiny_dataset(tmp_path / "data", num_episodes=2)
    run = run_train(**TINY_DIT, dataset__root=root, output_dir=tmp_path / "out", steps=2)
    shutil.rmtree(root)
    make_tiny_dataset(root, num_episodes=3)
    resume(run, steps=3)
    assert f"{REPO_ID} has changed since" in capfd.readouterr().err


def test_resumed_draws_go_on_where_they_stopped(tiny_dataset, tmp_path, monkeypatch):
    read = []
    original = MixtureDataset.__getitem__
    monkeypatch.setattr(
        MixtureDataset, "__getitem__", lambda self, i: read.append(int(i)) or original(self, i)
    )
    root = tiny_dataset()
    run_train(**TINY_DIT, dataset__root=root, output_dir=tmp_path / "whole", steps=4)
    undisturbed = read[:16]
    run = run_train(**TINY_DIT, dataset__root=root, output_dir=tmp_path / "half", steps=2)
    read.clear()
    resume(run, steps=4)
    assert read[:8] == undisturbed[8:]


# What stays LeRobot's


def test_other_policies_keep_lerobots_path(tiny_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(lerobot_hook, "make_single_datasets", None)
    run = run_train(
        policy__type="act",
        policy__pretrained_backbone_weights="null",
        policy__dim_model=16,
        policy__n_heads=2,
        policy__dim_feedforward=16,
        policy__n_encoder_layers=1,
        policy__n_vae_encoder_layers=1,
        policy__chunk_size=4,
        policy__n_action_steps=4,
        dataset__root=tiny_dataset(),
        output_dir=tmp_path / "out",
        steps=1,
    )
    assert len(run.metrics) == 1
    assert not (run.checkpoint / "mixture.json").exists()


def test_another_lerobot_reads_single_datasets_itself(tiny_dataset, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(lerobot_hook, "find_differences", lambda: ["`x` has changed"])
    monkeypatch.setattr(lerobot_hook, "make_single_datasets", None)
    run = run_train(**TINY_DIT, dataset__root=tiny_dataset(), output_dir=tmp_path / "out", steps=1)
    assert len(run.metrics) == 1
    log = capfd.readouterr().err
    assert "is read by LeRobot itself, without the checks of its values" in log
    assert "`x` has changed" in log


def test_streaming_goes_to_lerobot_with_a_warning(tiny_dataset, monkeypatch, caplog):
    monkeypatch.setattr(lerobot_hook, "make_single_datasets", None)
    dataset = DatasetConfig(REPO_ID, root=str(tiny_dataset()), streaming=True)
    training, _ = factory.make_train_eval_datasets(TrainPipelineConfig(dataset, policy=make_policy().config))
    assert isinstance(training, StreamingLeRobotDataset)
    assert "`dataset.streaming` is true, so local/tiny is read by LeRobot itself" in caplog.text
