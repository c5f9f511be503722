"""What is pushed or saved holds no path of the machine that trained it."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import RepoCard
from lerobot.configs.default import DatasetConfig
from lerobot.configs.train import TrainPipelineConfig
from lerobot.policies import pretrained
from support.policies import TINY_LAM, make_lara

from lerobot_lara.configuration_lara import LaraConfig
from lerobot_lara.lam.latent_action_model import LatentActionModel
from lerobot_lara.policy.mixture_record import MixtureRecord
from lerobot_lara.training.portable import is_local, published, published_run


@pytest.fixture
def lam_path(tmp_path):
    torch.manual_seed(0)
    LatentActionModel.from_config(**TINY_LAM).save_pretrained(tmp_path / "lam")
    return str(tmp_path / "lam")


def test_local_names_are_told_from_ids_and_presets(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    assert all(map(is_local, ["/data/lam", "./lam", "~/lam", "here", tmp_path]))
    assert not any(map(is_local, [None, "cnn", "minilm", "you/lam", "facebook/dinov2-small"]))


def test_a_checkpoint_holds_no_path(lam_path, tmp_path):
    policy = make_lara(lam_path, pretrained_path=tmp_path / "start")
    policy.save_pretrained(tmp_path / "out")
    assert policy.config.lam_path == lam_path, "the run's own configuration stays as it is"
    for file in (tmp_path / "out").rglob("*.json"):
        assert str(tmp_path) not in file.read_text(), file
    saved = json.loads((tmp_path / "out" / "config.json").read_text())
    assert saved["lam_path"] is None and saved["pretrained_path"] is None


def test_a_hub_id_is_kept(lam_path, tmp_path):
    policy = make_lara(lam_path)
    policy.config.lam_path = "you/lam"
    policy.save_pretrained(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["lam_path"] == "you/lam"


def test_a_hub_id_stays_where_a_folder_of_that_name_exists(lam_path, tmp_path, monkeypatch):
    """Else a policy would be pushed to another repository than asked for."""
    policy = make_lara(lam_path)
    (tmp_path / "you" / "lara").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    policy.config.repo_id = "you/lara"
    assert published(policy.config).repo_id == "you/lara"


def test_a_pushed_policy_and_the_record_of_its_run_hold_no_path(lam_path, tmp_path, monkeypatch, caplog):
    policy = make_lara(lam_path)
    policy.config.vision_encoder = str(tmp_path / "dinov2")
    cfg = TrainPipelineConfig(
        dataset=DatasetConfig(repo_id=str(tmp_path / "mixture.yaml"), root=str(tmp_path / "data")),
        policy=policy.config,
        output_dir=tmp_path / "outputs" / "run_1",
    )

    policy.lam.settings.frame_encoder = str(tmp_path / "dinov2")
    meta = SimpleNamespace(
        repo_id=str(tmp_path / "mixture.yaml"),
        mixture={"entries": [{"name": "a", "repo_id": "you/a", "labeled": True}]},
        total_episodes=1,
        total_frames=2,
        fps=3,
        tasks=SimpleNamespace(index=["push"]),
        robot_type="arm",
        camera_keys=[],
    )
    policy.mixture = MixtureRecord(meta)

    class Hub:
        """Keeps what is uploaded."""

        def create_repo(self, repo_id, **kwargs):
            return SimpleNamespace(repo_id=repo_id)

        def upload_folder(self, *, folder_path, **kwargs):
            shutil.copytree(folder_path, tmp_path / "pushed")
            return SimpleNamespace(repo_url=SimpleNamespace(url="hub"))

    monkeypatch.setattr(pretrained, "HfApi", Hub)
    monkeypatch.setattr(RepoCard, "validate", lambda *args, **kwargs: None)  # asks the Hub
    policy.config.repo_id = "you/lara"
    policy.push_model_to_hub(cfg, dataset_meta=meta)
    assert "you/a" in (tmp_path / "pushed" / "README.md").read_text()
    assert policy.lam.settings.frame_encoder == str(tmp_path / "dinov2")
    for file in (tmp_path / "pushed").rglob("*"):
        assert not file.is_file() or str(tmp_path).encode() not in file.read_bytes(), file
    assert LaraConfig.from_pretrained(tmp_path / "pushed").vision_encoder == "dinov2"
    assert "`vision_encoder` is the local path" in caplog.text
    assert policy.config.vision_encoder == str(tmp_path / "dinov2")
    cfg.checkpoint_path = tmp_path / "checkpoints" / "last"  # as of a resumed run
    record = published_run(cfg)
    assert record.checkpoint_path is None
    assert record.output_dir == Path("run_1") and record.dataset.repo_id == "mixture.yaml"
    assert cfg.dataset.root == str(tmp_path / "data") and cfg.output_dir == tmp_path / "outputs" / "run_1"
