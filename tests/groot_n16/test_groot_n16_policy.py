"""`groot_n16` as a policy: gradients, chunks, checkpoints, and LeRobot's real training and evaluation."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lerobot.policies import make_pre_post_processors
from lerobot.policies.factory import get_policy_class
from support.helpers import run_eval, run_train
from support.rendering import skip_without_rendering
from support.tiny_groot_n16 import (
    ACTION_DIM,
    CAMERA,
    CHUNK,
    HORIZON,
    fake_stats,
    tiny_config,
    tiny_settings,
)

from lerobot_lara.groot_n16.modeling_groot_n16 import GrootN16Policy
from lerobot_lara.groot_n16.processor_groot_n16 import make_groot_n16_pre_post_processors
from lerobot_lara.policy.alignment_contract import require_alignment_base

Maker = Callable[..., Path]


def make_policy(tokenizer: str, *, padding: float = 0.0, **changes: Any) -> tuple[GrootN16Policy, dict]:
    """A policy with a batch that its preprocessor has prepared."""
    torch.manual_seed(0)
    config = tiny_config(tokenizer, **changes)
    policy = GrootN16Policy(config)
    pre, _ = make_groot_n16_pre_post_processors(config, fake_stats())
    is_pad = torch.tensor([[False] * CHUNK, [False] * 3 + [True] * (CHUNK - 3)])
    batch = {
        CAMERA: torch.rand(2, 3, 32, 32),
        "observation.state": torch.rand(2, 4),
        "action": torch.rand(2, CHUNK, ACTION_DIM).masked_fill(is_pad[..., None], padding),
        "action_is_pad": is_pad,
        "task": ["push the square", "open"],
    }
    return policy, pre(batch)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_trained_weights_have_gradients_and_others_none(tokenizer: str, dtype: str) -> None:
    policy, batch = make_policy(tokenizer, dtype=dtype)
    loss, log = policy.train()(batch)
    loss.backward()
    assert log == {"flow_loss": pytest.approx(loss.item())}
    for name, parameter in policy.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    groups = policy.get_optim_params()
    grouped = {id(parameter) for group in groups for parameter in group["params"]}
    assert grouped == {id(p) for p in policy.parameters() if p.requires_grad}
    assert groups[1]["weight_decay"] == 0.0


def test_padded_steps_do_not_change_the_loss(tokenizer: str) -> None:
    losses = []
    for value in (0.0, 2.5):
        policy, batch = make_policy(tokenizer, padding=value)
        torch.manual_seed(1)
        losses.append(policy.eval().flow_loss(batch)[0].item())
    assert losses[0] == losses[1]


def test_chunks_are_in_the_units_of_the_robot(tokenizer: str) -> None:
    policy, batch = make_policy(tokenizer)
    torch.manual_seed(3)
    chunk = policy.predict_action_chunk(batch)
    assert chunk.shape == (2, CHUNK, ACTION_DIM)
    assert chunk.min() >= -1 and chunk.max() <= 3  # the statistics' range
    torch.manual_seed(3)
    actions = [policy.select_action(batch) for _ in range(2)]
    assert torch.equal(torch.stack(actions, dim=1), chunk[:, :2])
    policy.reset()
    assert not torch.equal(policy.select_action(batch), actions[0])


def test_the_alignment_finds_what_it_needs(tokenizer: str) -> None:
    policy, batch = make_policy(tokenizer)
    base = require_alignment_base(policy)
    hidden = []
    tap = base.alignment_taps[2]
    tap.module.register_forward_hook(lambda module, args, output: hidden.append(output))
    base.flow_loss(batch)
    tokens, valid = base.action_tokens(hidden[0], batch)
    assert len(base.alignment_taps) == 4
    assert tokens.shape == (2, HORIZON, base.alignment_width) and tokens.requires_grad
    assert valid.sum(dim=1).tolist() == [CHUNK, 3]


def test_crops_move_in_training_only(tokenizer: str) -> None:
    policy, batch = make_policy(tokenizer, crop_fraction=0.5)
    features = []
    for training in (False, False, True):
        policy.train(training)
        features.append(policy._read(batch)["backbone_features"])
    assert torch.equal(features[0], features[1]) and not torch.equal(features[0], features[2])


@pytest.mark.parametrize("field", ["compile_model", "gradient_checkpointing"])
def test_memory_settings_do_not_change_the_loss(
    tokenizer: str, field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self: None
    )  # slow; what it compiles is tested elsewhere
    losses = []
    for value in (False, True):
        policy, batch = make_policy(tokenizer, **{field: value})
        torch.manual_seed(5)
        loss = policy.train()(batch)[0]
        loss.backward()
        losses.append(loss.item())
    assert losses[0] == losses[1]


def flags(tokenizer: str, root: Path, out: Path, **changes: Any) -> dict[str, Any]:
    settings = {
        f"policy__{name}": json.dumps(value) if isinstance(value, dict | list) else value
        for name, value in (tiny_settings(tokenizer) | {"scheduler_warmup_steps": 1} | changes).items()
    }
    return settings | {"policy__type": "groot_n16", "dataset__root": root, "output_dir": out, "save_freq": 2}


def load(checkpoint: Path) -> tuple[GrootN16Policy, Any]:
    policy = GrootN16Policy.from_pretrained(checkpoint)
    pre, _ = make_pre_post_processors(policy.config, str(checkpoint))
    return policy, pre


def test_training_saves_what_can_be_resumed_and_loaded(
    tokenizer: str, tiny_dataset: Maker, tmp_path: Path
) -> None:
    root = tiny_dataset(num_frames=20)
    run = run_train(**flags(tokenizer, root, tmp_path / "run"), steps=2)
    assert all(torch.isfinite(torch.tensor(run.values("flow_loss"))))
    policy, pre = load(run.checkpoint)
    assert type(policy) is get_policy_class("groot_n16")
    assert policy.config.cameras == [CAMERA] and policy.config.fps == 10
    observation = {
        CAMERA: torch.rand(3, 32, 32),
        "observation.state": torch.rand(4),
        "task": "push the square",
    }
    assert policy.select_action(pre(observation)).shape == (1, ACTION_DIM)

    resumed = run_train(
        config_path=run.checkpoint / "train_config.json", resume=True, steps=4, output_dir=None
    )
    assert len(resumed.metrics) == 2
    again, _ = load(resumed.checkpoint)
    before, after = policy.state_dict(), again.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    trained = {name for name, parameter in policy.named_parameters() if parameter.requires_grad}
    assert changed <= trained and len(changed) > len(trained) / 2

    started = run_train(
        policy__path=run.checkpoint, dataset__root=root, output_dir=tmp_path / "next", steps=1, save_freq=1
    )
    assert load(started.checkpoint)[0].config.base_model_path is None


@pytest.mark.parametrize("tag", ["known_robot", "new_embodiment"])
def test_training_starts_from_a_release(
    tag: str, tokenizer: str, release: Path, tiny_dataset: Maker, tmp_path: Path
) -> None:
    root = tiny_dataset(num_frames=20)
    changes = {"pretrained_path": release, "embodiment_tag": tag, "optimizer_lr": 1e-5}
    if tag == "known_robot":
        changes["cameras"] = [CAMERA]
    run = run_train(**flags(tokenizer, root, tmp_path / "run", **changes), steps=2)
    policy, pre = load(run.checkpoint)
    start = GrootN16Policy.from_pretrained(release, config=tiny_config(tokenizer)).state_dict()
    drift = max(
        (value.float() - start[name].float()).abs().max() for name, value in policy.state_dict().items()
    )
    assert 0 < drift < 1e-3
    assert pre.steps[-1].embodiment_id == {"known_robot": 1, "new_embodiment": 3}[tag]
    resumed = run_train(
        config_path=run.checkpoint / "train_config.json", resume=True, steps=3, output_dir=None
    )
    assert len(resumed.metrics) == 1


def test_relative_actions_are_learned_from_a_dataset(
    tokenizer: str, tiny_dataset: Maker, tmp_path: Path
) -> None:
    root = tiny_dataset(num_frames=20)
    run = run_train(**flags(tokenizer, root, tmp_path / "run", relative_actions=True), steps=2)
    pre = load(run.checkpoint)[1]
    observation = {CAMERA: torch.rand(3, 32, 32), "observation.state": torch.full((4,), 0.5), "task": "push"}
    batch = pre(observation)
    assert not torch.equal(batch["action_scale"][:, 0], batch["action_scale"][:, -1])
    far = pre({**observation, "observation.state": torch.full((4,), 100.5)})
    torch.testing.assert_close(far["action_offset"], batch["action_offset"] + 100)


def test_a_misspelled_joint_is_refused(tokenizer: str, tiny_dataset: Maker, tmp_path: Path) -> None:
    changes = {"relative_actions": True, "relative_exclude_joints": ["gripper"]}
    with pytest.raises(ValueError, match=r"`relative_exclude_joints` is \['gripper'\]; it must be names"):
        run_train(**flags(tokenizer, tiny_dataset(), tmp_path / "run", **changes), steps=1)


def test_a_trained_policy_is_evaluated(tokenizer: str, tiny_dataset: Maker, tmp_path: Path) -> None:
    skip_without_rendering()
    root = tiny_dataset(num_frames=20, size=48)
    run = run_train(**flags(tokenizer, root, tmp_path / "run"), steps=2)
    info = run_eval(
        policy__path=run.checkpoint,
        output_dir=tmp_path / "eval",
        env__task="reach-v3",
        env__episode_length=4,
    )
    assert info["overall"]["n_episodes"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chunk_size": 11}, "`chunk_size` is 11; it must be at least 1 and at most action_horizon=10"),
        ({"n_action_steps": 9}, "`n_action_steps` is 9; it must be at most chunk_size=8"),
        ({"tune_top_llm_layers": 3}, "`tune_top_llm_layers` is 3; it must be .* at most select_layer=2"),
        ({"crop_fraction": 0.0}, r"`crop_fraction` is 0.0; it must be in \(0, 1\]"),
        ({"state_dropout_prob": 1.0}, r"`state_dropout_prob` is 1.0; it must be in \[0, 1\)"),
    ],
)
def test_impossible_settings_are_refused(tokenizer: str, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_config(tokenizer, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_action_dim": 3}, "`max_action_dim` is 3; it must be at least 4"),
        ({"max_state_dim": 3}, "`max_state_dim` is 3; it must be at least 4"),
        ({"cameras": ["observation.images.no"]}, "`cameras` is .*; it must be keys among"),
        ({"embodiment_tag": "unknown"}, r"`embodiment_tag` is 'unknown'; it must be one of \['known_robot'"),
    ],
)
def test_features_that_do_not_fit_are_refused(tokenizer: str, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GrootN16Policy(tiny_config(tokenizer, **change))
