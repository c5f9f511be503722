"""Embodiments through LeRobot's real `lerobot-train`: taken from mixtures, kept by name, added to checkpoints."""

import json

import pytest
import torch
from lerobot.configs import PreTrainedConfig
from lerobot.policies.factory import make_pre_post_processors
from safetensors.torch import load_file
from support.helpers import run_train

from lerobot_lara.data.mixture.samples import EntrySamples
from lerobot_lara.dit.modeling_lara_dit import LaraDiTPolicy

from .conftest import ARM, ROBOT
from .test_lerobot_hook import TINY_POLICY

DIT = TINY_POLICY | {"policy__type": "lara_dit", "steps": 1}
HAND = ROBOT | {"name": "hand", "embodiment": "hand"}
STATE = "observation.state"


def weights(checkpoint):
    """Tensors of a checkpoint, and the names of those with a row for every embodiment."""
    state = load_file(checkpoint / "model.safetensors")
    parts = ("state_encoder", "action_encoder", "action_decoder")
    return state, {key for key in state if key.startswith(tuple(f"action_head.{part}." for part in parts))}


@pytest.fixture
def first_states(monkeypatch):
    """The weights of every policy that was trained, as they were before its first step."""
    states = []
    original = LaraDiTPolicy.forward

    def forward(self, batch):
        if not hasattr(self, "seen"):
            self.seen = True
            states.append({key: value.clone() for key, value in self.state_dict().items()})
        return original(self, batch)

    monkeypatch.setattr(LaraDiTPolicy, "forward", forward)
    return states


def test_a_mixture_with_a_new_robot_grows_the_checkpoint(write_mixture, tmp_path, first_states, capfd):
    mixture = write_mixture(ROBOT | {"embodiment": "robot"}, ARM)
    old = run_train(**DIT, dataset__repo_id=mixture, output_dir=tmp_path / "old").checkpoint
    config = PreTrainedConfig.from_pretrained(old)
    assert (config.embodiments, config.embodiment) == (["robot", "arm"], "robot")
    assert "New, with fresh weights" not in capfd.readouterr().err

    # Of the old robots only the second, no longer first nor the reference.
    new = write_mixture(HAND, ARM)
    run = run_train(policy__path=old, dataset__repo_id=new, output_dir=tmp_path / "new", steps=3)
    log = capfd.readouterr().err
    assert "rows {'robot': 0, 'arm': 1}. New, with fresh weights: rows {'hand': 2}" in log
    assert "acts for 'hand'" in log
    saved, per_embodiment = weights(old)
    assert len(per_embodiment) == 12
    for key, value in saved.items():
        begun = first_states[1][key]
        assert torch.equal(begun[:2] if key in per_embodiment else begun, value), key
        assert len(begun) == 3 or key not in per_embodiment

    grown, _ = weights(run.checkpoint)
    for row, learns in enumerate((False, True, True)):
        learned = any(not torch.equal(grown[key][row], first_states[1][key][row]) for key in per_embodiment)
        assert learned == learns, row
    mixed = json.loads((run.checkpoint / "mixture.json").read_text())
    assert mixed["embodiments"] == {"hand": 2, "arm": 1}
    policy = LaraDiTPolicy.from_pretrained(run.checkpoint)
    assert (policy.config.embodiments, policy.config.embodiment_id) == (["robot", "arm", "hand"], 2)
    pre, post = make_pre_post_processors(policy.config, str(run.checkpoint))
    images = dict.fromkeys(policy.config.image_features, torch.rand(3, 32, 32))
    action = post(policy.select_action(pre(images | {STATE: torch.zeros(4), "task": "push"})))
    assert action.shape == (1, 4)

    train_config = run.checkpoint / "train_config.json"
    run_train(config_path=train_config, resume=True, steps=4, output_dir=None)
    for key, value in grown.items():
        assert torch.equal(first_states[2][key], value), key
    assert "fresh weights" not in capfd.readouterr().err


def test_rows_of_samples_follow_the_checkpoints_names(write_mixture, tmp_path, monkeypatch):
    first = write_mixture(ROBOT, ARM)
    old = run_train(**DIT, dataset__repo_id=first, output_dir=tmp_path / "old").checkpoint
    assert PreTrainedConfig.from_pretrained(old).embodiments == ["default", "arm"]
    rows = set()
    original = EntrySamples.__getitem__

    def sample(self, frame):
        out = original(self, frame)
        rows.add((self.source.name, out["observation.embodiment_id"].item()))
        return out

    monkeypatch.setattr(EntrySamples, "__getitem__", sample)
    reordered = write_mixture(ARM, ROBOT)
    run = run_train(policy__path=old, dataset__repo_id=reordered, output_dir=tmp_path / "new", steps=4)
    assert rows == {("arm", 1), ("robot", 0)}
    config = PreTrainedConfig.from_pretrained(run.checkpoint)
    assert (config.embodiments, config.embodiment_id) == (["default", "arm"], 1)


def test_the_mixtures_reference_decides_for_whom_the_policy_acts(write_mixture, tmp_path):
    with pytest.raises(ValueError, match=r"`embodiment` is 'arm'; it must be 'default', .* 'robot', .*act"):
        run_train(
            **DIT,
            policy__embodiment="arm",
            dataset__repo_id=write_mixture(ROBOT, ARM),
            output_dir=tmp_path / "out",
        )


def test_a_single_dataset_grows_the_checkpoint_if_asked_to(tiny_dataset, tmp_path, first_states, capfd):
    """For robots with fewer and with more dimensions than the first."""
    old = run_train(
        **DIT, policy__embodiment="robot", dataset__root=tiny_dataset(), output_dir=tmp_path / "old"
    ).checkpoint
    assert PreTrainedConfig.from_pretrained(old).embodiments == ["robot"]
    before = {path.name: path.read_bytes() for path in old.iterdir()}
    for name, state, action in (("small", 2, 3), ("large", 5, 7)):
        root = tiny_dataset(state_dim=state, action_dim=action)
        flags = {"policy__path": old, "policy__embodiment": name, "dataset__root": root, "steps": 1}
        with pytest.raises(ValueError, match=rf"`embodiments` is \['robot'\].*'{name}'.*grow_embodiments"):
            run_train(**flags, output_dir=tmp_path / f"not_{name}")
        run = run_train(**flags, policy__grow_embodiments=True, output_dir=tmp_path / name)
        log = capfd.readouterr().err
        assert f"rows {{'robot': 0}}. New, with fresh weights: rows {{'{name}': 1}}" in log
        saved, per_embodiment = weights(old)
        for key in per_embodiment:
            assert torch.equal(first_states[-1][key][:1], saved[key]), key

        policy = LaraDiTPolicy.from_pretrained(run.checkpoint)
        config = policy.config
        assert (config.embodiments, config.embodiment_id, config.grow_embodiments) == (
            ["robot", name],
            1,
            False,
        )
        pre, post = make_pre_post_processors(config, str(run.checkpoint))
        observation = {"observation.image": torch.rand(3, 32, 32), STATE: torch.zeros(state), "task": "push"}
        assert post(policy.select_action(pre(observation))).shape == (1, action)
        stats = json.loads((root / "meta" / "stats.json").read_text())
        normalizer = next(step for step in pre.steps if hasattr(step, "norm_map"))
        for key in (STATE, "action"):
            assert normalizer.stats[key]["mean"].tolist() == pytest.approx(stats[key]["mean"])
    assert before == {path.name: path.read_bytes() for path in old.iterdir()}


def test_a_resumed_run_does_not_grow(tiny_dataset, tmp_path):
    run = run_train(**DIT, dataset__root=tiny_dataset(), output_dir=tmp_path / "out")
    train_config = run.checkpoint / "train_config.json"
    for flags in (
        {"policy__embodiments": '["hand", "default"]'},
        {"policy__embodiment": "hand", "policy__grow_embodiments": True},
    ):
        with pytest.raises(ValueError, match=r"the run to resume has \['default'\].*--policy.path"):
            run_train(config_path=train_config, resume=True, steps=2, output_dir=None, **flags)
