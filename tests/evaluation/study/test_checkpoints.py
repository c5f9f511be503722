import json
import os

import numpy as np
import pytest
from safetensors.numpy import save_file

from lerobot_lara.evaluation.study.checkpoints import continue_training, is_whole

JSON = ("config", "train_config", "optimizer_param_groups", "training_step", "scheduler_state")
WEIGHTS = ("model", "optimizer_state", "rng_state")


@pytest.fixture
def run(tmp_path):
    """A training with the checkpoints 1 to 3."""
    for step in range(1, 4):
        folder = tmp_path / "checkpoints" / f"{step:06d}"
        for name in ("pretrained_model", "training_state"):
            (folder / name).mkdir(parents=True)
        for name in JSON:
            place = "pretrained_model" if "config" in name else "training_state"
            (folder / place / f"{name}.json").write_text(json.dumps({"scheduler": {}}))
        for name in WEIGHTS:
            place = "pretrained_model" if name == "model" else "training_state"
            save_file({"weight": np.ones(8)}, folder / place / f"{name}.safetensors")
    (tmp_path / "checkpoints" / "last").symlink_to("000002")
    return tmp_path


def test_the_newest_checkpoint_is_continued_and_linked(run):
    config = run / "checkpoints" / "000003" / "pretrained_model" / "train_config.json"
    assert continue_training(run) == ("lerobot-train", f"--config_path={config}", "--resume=true")
    assert os.readlink(run / "checkpoints" / "last") == "000003"
    (run / "checkpoints" / "last").unlink()  # killed while it was switched
    assert continue_training(run) is not None
    assert os.readlink(run / "checkpoints" / "last") == "000003"


@pytest.mark.parametrize("fault", ["missing", "cut", "half JSON", "being written"])
@pytest.mark.parametrize(
    "file", ["training_state/scheduler_state.json", "pretrained_model/model.safetensors"]
)
def test_a_torn_checkpoint_is_skipped_and_removed(run, fault, file):
    path = run / "checkpoints" / "000003" / file
    if fault == "missing":
        path.unlink()
    elif fault == "being written":
        path.with_name("model.safetensors.partial").touch()
    else:
        path.write_bytes(path.read_bytes()[:-1] if fault == "cut" else b"{")
    assert not is_whole(path.parents[1])
    assert "/000002/" in continue_training(run)[1]
    assert not (run / "checkpoints" / "000003").exists()


def test_without_a_whole_checkpoint_there_is_nothing_to_continue(run):
    for path in run.rglob("training_step.json"):
        path.unlink()
    assert continue_training(run) is None
    assert continue_training(run / "nowhere") is None
    assert len(list(run.glob("checkpoints/0*"))) == 3
