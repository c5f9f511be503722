"""A training that was stopped and resumed ends with the weights of one that was not, whichever epoch it was in."""

import pytest
from safetensors.torch import load_file
from support.helpers import run_train
from support.tiny_datasets import make_tiny_dataset

from lerobot_lara.evaluation.study.checkpoints import continue_training

LAM = {
    "policy__type": "lara_lam",
    "policy__frame_gap": 3,
    "policy__image_size": 32,
    "policy__prediction_size": 16,
    "policy__frame_encoder_width": 8,
    "policy__idm_width": 16,
    "policy__idm_num_layers": 1,
    "policy__fdm_width": 16,
    "policy__fdm_num_layers": 1,
    "policy__quantizer": "vq",
    "policy__random_shift": 2,
    "policy__scheduler_warmup_steps": 2,
}


@pytest.mark.e2e
def test_every_checkpoint_leads_to_the_same_weights(tmp_path):
    root = make_tiny_dataset(tmp_path / "video", num_episodes=2, num_frames=10, action=False, state=False)
    run = run_train(
        **LAM, dataset__root=root, output_dir=tmp_path / "run", steps=9, save_freq=1, batch_size=8
    )
    expected = load_file(run.checkpoint / "model.safetensors")
    checkpoints = run.output_dir / "checkpoints"
    # An epoch has two steps: within the fourth, third and second epoch, and at the end of the first.
    for step in (7, 5, 3, 2):
        for later in range(step + 1, 10):
            (checkpoints / f"{later:06d}" / "training_state" / "scheduler_state.json").unlink()
        _, config, resume = continue_training(run.output_dir)
        assert f"/{step:06d}/" in config and resume == "--resume=true"
        assert not (checkpoints / f"{step + 1:06d}").exists()
        resumed = run_train(config_path=config.split("=")[1], resume=True, output_dir=None)
        found = load_file(resumed.checkpoint / "model.safetensors")
        differing = [key for key, value in expected.items() if not value.equal(found[key])]
        assert differing == [], step
