"""Each policy of LeRobot that can be aligned, through LeRobot's own commands: train, resume, export, act."""

import json
from dataclasses import fields

import pytest
import torch
from lerobot.configs import PreTrainedConfig
from lerobot.policies.factory import get_policy_class, make_pre_post_processors
from safetensors.torch import load_file
from support.helpers import run_train
from support.tiny_bases import CAMERA

from lerobot_lara.publish.export import export_base


def losses(run, name="loss"):
    return [metrics[name] for metrics in run.metrics]


def processors(checkpoint):
    return {
        file.name: json.loads(file.read_text())
        for file in checkpoint.glob("policy_*.json")
        if "step_" not in file.name
    }


def act(policy_class, checkpoint, size):
    policy = policy_class.from_pretrained(checkpoint)
    preprocess, _ = make_pre_post_processors(policy.config, checkpoint)
    torch.manual_seed(7)
    observation = {
        CAMERA: torch.rand(3, size, size),
        "observation.state": torch.rand(4),
        "task": "push the square",
    }
    policy.reset()
    actions = [policy.select_action(preprocess(dict(observation))) for _ in range(2)]
    return torch.stack(actions)


def test_with_weight_0_a_run_is_the_bases(tiny_base, tmp_path):
    weights = {"policy__alignment_loss_weight": 0, "policy__lam_loss_weight": 0}
    aligned = tiny_base.train(tmp_path / "aligned", **weights)
    plain = tiny_base.train(tmp_path / "plain", aligned=False)
    assert losses(aligned) == losses(plain)
    a, b = (load_file(run.checkpoint / "model.safetensors") for run in (aligned, plain))
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    assert processors(aligned.checkpoint) == processors(plain.checkpoint)
    extra = {"lam", "alignment.safetensors"}
    files = [{path.name for path in run.checkpoint.iterdir()} for run in (aligned, plain)]
    assert files[0] - extra == files[1] and extra <= files[0]


def test_it_trains_resumes_and_becomes_the_plain_base(tiny_base, tmp_path):
    run = tiny_base.train(tmp_path / "run", policy__alignment_loss_weight=1)
    assert all(value > 0 for value in losses(run, "alignment_loss"))
    lam = load_file(run.checkpoint / "lam" / "model.safetensors")
    started = load_file(f"{tiny_base.lam}/model.safetensors")
    assert any(not torch.equal(lam[key], started[key]) for key in lam)
    resumed = run_train(
        config_path=run.checkpoint / "train_config.json", resume=True, steps=4, output_dir=None
    )
    assert len(resumed.metrics) == 1 and resumed.metrics[0]["alignment_loss"] > 0
    last = resumed.checkpoint
    assert json.loads((last / "config.json").read_text())["fps"] == 10
    export_base(last, tmp_path / "plain")
    config = json.loads((tmp_path / "plain" / "config.json").read_text())
    assert config["type"] == tiny_base.name
    known = {entry.name for entry in fields(PreTrainedConfig.get_choice_class(tiny_base.name))}
    assert "lam_path" not in known and config.keys() <= known | {"type"}
    size = 64 if str(tiny_base.data).endswith("64") else 32
    expected = act(get_policy_class(f"lara_{tiny_base.name}"), last, size)
    assert torch.equal(act(get_policy_class(tiny_base.name), tmp_path / "plain", size), expected)


def test_training_starts_from_the_weights_of_the_plain_base(tiny_base, tmp_path):
    start = tiny_base.train(tmp_path / "start", aligned=False, steps=1).checkpoint
    plain = tiny_base.train(
        tmp_path / "plain", aligned=False, steps=2, policy__pretrained_path=start
    ).checkpoint
    run = tiny_base.train(tmp_path / "run", steps=2, policy__pretrained_path=start).checkpoint
    before, after = (load_file(folder / "model.safetensors") for folder in (start, run))
    change = max((before[key].float() - after[key].float()).abs().max().item() for key in before)
    assert 0 < change < 0.02
    assert processors(run) == processors(plain)


def test_a_checkpoint_of_another_type_is_refused(tiny_base, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"type": "act"}))
    (other / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="type 'act'"):
        tiny_base.train(tmp_path / "run", policy__pretrained_path=other)
