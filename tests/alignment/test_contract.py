"""Any policy that implements `AlignmentBase`, and nothing else of this package, can be aligned."""

import json

import pytest
import torch
from lerobot.configs import PreTrainedConfig
from safetensors.torch import load_file
from support.fake_base import (
    FakeBaseConfig,
    FakeBasePolicy,
    LaraFakeBaseConfig,
    LaraFakeBasePolicy,
)
from support.policies import CAMERA, TINY_LAM, features

from lerobot_lara.alignment.config import LatentAlignmentConfig
from lerobot_lara.alignment.mixin import LatentAlignmentMixin
from lerobot_lara.lam.latent_action_model import LatentActionModel
from lerobot_lara.policy.alignment_contract import TapPoint
from lerobot_lara.publish.export import export_base, export_lam

COMMON = {"device": "cpu", "push_to_hub": False}


class Meta:
    features = {}
    episodes = {"length": [20, 20]}


@pytest.fixture
def lam_path(tmp_path):
    torch.manual_seed(0)
    LatentActionModel.from_config(**TINY_LAM).save_pretrained(tmp_path / "stage_1")
    return str(tmp_path / "stage_1")


def make(lam_path, **options):
    torch.manual_seed(0)
    config = LaraFakeBaseConfig(**COMMON | features() | {"lam_path": lam_path, "frame_gap": 4} | options)
    return LaraFakeBasePolicy(config)


def make_base():
    torch.manual_seed(0)
    return FakeBasePolicy(FakeBaseConfig(**COMMON | features()))


def pair_batch(size=6, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return {
        CAMERA: torch.rand(size, 2, 3, 32, 32, generator=generator),
        f"{CAMERA}_is_pad": torch.zeros(size, 2, dtype=torch.bool),
        "observation.state": torch.randn(size, 2, 3, generator=generator),
        "observation.state_is_pad": torch.zeros(size, 2, dtype=torch.bool),
        "action": torch.randn(size, 4, 4, generator=generator),
    }


def present(batch):
    observed = {key: value[:, 0] for key, value in batch.items() if key in (CAMERA, "observation.state")}
    return observed | {"action": batch["action"]}


def train(policy, steps=3, read=lambda batch: batch):
    """Losses and logs of a few optimizer steps."""
    torch.manual_seed(3)
    optimizer = torch.optim.AdamW(policy.get_optim_params(), lr=1e-2)
    results = []
    for step in range(steps):
        loss, log = policy.train()(read(pair_batch(seed=step)))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if hasattr(policy, "update"):
            policy.update()
        results.append((loss.item(), log))
    return results


@pytest.mark.parametrize("options", [{}, {"alignment_target": "joint"}, {"alignment_target": "ema"}])
def test_it_trains(lam_path, options):
    policy = make(lam_path, alignment_loss_weight=1.0, **options)
    before = {key: value.clone() for key, value in policy.state_dict().items()}
    for loss, log in train(policy):
        expected = log["noise_scale"] * 0 + log["alignment_loss"] + 0.1 * log["lam_loss"]
        assert loss > expected and "per_dim" not in log and "loss" not in log
        assert all(isinstance(value, float) for value in log.values())
    changed = {
        key.split(".")[0] for key, value in policy.state_dict().items() if not torch.equal(value, before[key])
    }
    assert changed >= {"blocks", "decode", "alignment", "lam"}


def test_the_gradient_reaches_the_tapped_block_and_those_before_it(lam_path):
    policy = make(lam_path, alignment_layer=1, freeze_lam=True)
    policy.flow_loss = lambda batch: (FakeBasePolicy.forward(policy, batch)[0] * 0, None)
    policy.train()(pair_batch())[0].backward()
    reached = [any(p.grad.abs().max() > 0 for p in block.parameters()) for block in policy.blocks]
    assert reached == [True, False]


@pytest.mark.parametrize("freeze_lam", [False, True])
def test_with_weight_0_it_is_the_base_bit_for_bit(lam_path, freeze_lam):
    """Also its noise and dropout, beside a LAM that draws noise of its own; seeded once both are built."""
    policy = make(lam_path, alignment_loss_weight=0.0, lam_loss_weight=0.0, freeze_lam=freeze_lam)
    base = make_base()
    aligned, plain = train(policy), train(base, read=present)
    assert [loss for loss, _ in aligned] == [loss for loss, _ in plain]
    state = policy.state_dict()
    for key, value in base.state_dict().items():
        assert torch.equal(state[key], value), key


def test_the_base_sees_neither_the_second_frame_nor_flags_of_it(lam_path):
    policy, seen = make(lam_path), []
    flow_loss = policy.flow_loss
    policy.flow_loss = lambda batch: seen.append(batch) or flow_loss(batch)
    batch = pair_batch()
    policy.train()(batch)
    assert torch.equal(seen[0][CAMERA], batch[CAMERA][:, 0])
    assert torch.equal(seen[0]["observation.state"], batch["observation.state"][:, 0])
    assert seen[0][f"{CAMERA}_is_pad"].shape == (6,)


def test_a_checkpoint_is_the_bases_own_beside_the_lam(lam_path, tmp_path):
    policy = make(lam_path)
    train(policy)
    policy.save_pretrained(tmp_path / "out")
    assert set(load_file(tmp_path / "out" / "model.safetensors")) == set(make_base().state_dict())
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "config.json",
        "model.safetensors",
        "alignment.safetensors",
        "lam",
    }


def test_it_is_loaded_to_act_without_a_lam(lam_path, tmp_path, monkeypatch):
    policy = make(lam_path)
    train(policy)
    policy.save_pretrained(tmp_path / "out")
    monkeypatch.setattr(LatentActionModel, "__init__", lambda *a, **k: pytest.fail("a LAM was built"))
    acting = LaraFakeBasePolicy.from_pretrained(tmp_path / "out")
    observation = present(pair_batch())
    assert torch.equal(
        acting.predict_action_chunk(observation), policy.eval().predict_action_chunk(observation)
    )


def test_it_is_loaded_to_train_as_if_never_stopped(lam_path, tmp_path):
    policy = make(lam_path, alignment_target="ema")
    train(policy)
    policy.save_pretrained(tmp_path / "out")
    resumed = LaraFakeBasePolicy.from_pretrained(tmp_path / "out", dataset_meta=Meta())
    expected, actual = policy.state_dict(), resumed.state_dict()
    assert expected.keys() == actual.keys()
    assert all(torch.equal(expected[key], actual[key]) for key in expected)
    assert train(policy) == train(resumed)


def test_training_starts_from_a_checkpoint_of_the_plain_base(lam_path, tmp_path):
    base = make_base()
    base.save_pretrained(tmp_path / "plain")
    config = LaraFakeBaseConfig(**COMMON | features(), lam_path=lam_path, frame_gap=4)
    policy = LaraFakeBasePolicy.from_pretrained(tmp_path / "plain", config=config, dataset_meta=Meta())
    assert all(torch.equal(policy.state_dict()[key], value) for key, value in base.state_dict().items())
    assert train(policy)[0][1]["alignment_loss"] > 0


def test_the_base_is_exported_as_a_checkpoint_of_its_own_type(lam_path, tmp_path):
    policy = make(lam_path)
    train(policy)
    policy.save_pretrained(tmp_path / "out")
    from lerobot.policies.factory import make_pre_post_processors

    for pipeline in make_pre_post_processors(policy.config):
        pipeline.save_pretrained(tmp_path / "out")
    export_base(tmp_path / "out", tmp_path / "plain")
    plain = FakeBasePolicy.from_pretrained(tmp_path / "plain", strict=True)
    observation = present(pair_batch())
    assert torch.equal(
        plain.predict_action_chunk(observation), policy.eval().predict_action_chunk(observation)
    )
    config = json.loads((tmp_path / "plain" / "config.json").read_text())
    assert config["type"] == "fake_base" and not set(config) & LaraFakeBaseConfig.field_names()
    export_lam(tmp_path / "out", tmp_path / "lam")
    lam = LatentActionModel.from_pretrained(tmp_path / "lam")
    assert all(torch.equal(policy.lam.state_dict()[key], value) for key, value in lam.state_dict().items())


def test_a_base_that_lerobot_does_not_know_has_no_type():
    class Unregistered(PreTrainedConfig):
        """Never registered."""

    class Aligned(LatentAlignmentConfig, Unregistered):
        """Aligns it."""

    assert LaraFakeBaseConfig.base_type() == "fake_base"
    with pytest.raises(ValueError, match=r"Cannot find choice name for .*Unregistered"):
        Aligned.base_type()


def test_a_policy_that_lacks_a_member_is_refused_by_name(lam_path):
    class Incomplete(LatentAlignmentMixin, FakeBasePolicy):
        config_class = LaraFakeBaseConfig
        name = "incomplete"
        alignment_width = 8

        def flow_loss(self, batch): ...

    with pytest.raises(
        ValueError, match=r"Incomplete lacks \['alignment_taps', 'action_tokens'\].*AlignmentBase"
    ):
        Incomplete(LaraFakeBaseConfig(**COMMON | features(), lam_path=lam_path, frame_gap=4))


def test_settings_of_memory_and_peft_are_not_asked_of_the_base(lam_path):
    policy = make(lam_path)
    assert policy._get_default_peft_targets() == {"modules_to_save": ["alignment_head"]}
    assert policy._no_split_modules == ["Block"]  # the LAM's
    assert not hasattr(policy.config, "compile_model")


def test_an_adapter_trains_the_alignment_head_and_no_lam(lam_path):
    pytest.importorskip("peft")
    policy = make(lam_path)
    policy.config.pretrained_path = lam_path
    wrapped = policy.wrap_with_peft(peft_cli_overrides={"target_modules": r"blocks\.\d\.0", "r": 2})
    trained = {name for name, parameter in wrapped.named_parameters() if parameter.requires_grad}
    assert any("alignment_head" in name for name in trained) and any("lora_A" in name for name in trained)
    assert not any(".lam." in name for name in trained)


class PartsBase(FakeBasePolicy):
    """Calls what is in its blocks, not the blocks, as SmolVLA and pi0 do; norms come after them."""

    def __init__(self, config, **kwargs):
        super().__init__(config)
        self.norms = torch.nn.ModuleList(torch.nn.LayerNorm(8) for _ in self.blocks)

    def _denoise(self, noisy, batch):
        seen = torch.cat([batch[self.camera].mean((2, 3)), batch["observation.state"]], dim=-1)
        hidden_states = self.embed(noisy) + self.observe(seen)[:, None]
        for block, norm in zip(self.blocks, self.norms, strict=True):
            hidden_states = norm(hidden_states + block[1](block[0](hidden_states)))
        return self.decode(hidden_states)


class LaraParts(LatentAlignmentMixin, PartsBase):
    config_class = LaraFakeBaseConfig
    name = "lara_parts"
    alignment_width = 8
    tapped = "norms"

    @property
    def alignment_taps(self):
        side = "input" if self.tapped == "norms" else "output"
        return [TapPoint(module, side) for module in getattr(self, self.tapped)]

    def action_tokens(self, hidden_states, batch):
        return hidden_states, None

    def flow_loss(self, batch):
        return PartsBase.forward(self, batch)


def test_blocks_that_are_never_called_are_tapped_on_what_comes_next(lam_path, monkeypatch):
    config = LaraFakeBaseConfig(**COMMON | features(), lam_path=lam_path, frame_gap=4)
    assert train(LaraParts(config))[0][1]["alignment_loss"] > 0
    monkeypatch.setattr(LaraParts, "tapped", "blocks")
    with pytest.raises(RuntimeError, match="tapped Sequential did not run"):
        train(LaraParts(config))


def test_lerobots_factory_finds_it():
    from lerobot.policies.factory import get_policy_class

    assert get_policy_class("lara_fake_base") is LaraFakeBasePolicy
    assert PreTrainedConfig.get_choice_class("fake_base") is FakeBaseConfig
