"""Each policy of LeRobot that can be aligned, in memory: what is tapped, and that it stays the base."""

from unittest import mock

import pytest
import torch
from lerobot.policies.factory import get_policy_class
from support.policies import TINY_LAM
from support.tiny_bases import CHUNK

from lerobot_lara.alignment.mixin import LatentAlignmentMixin
from lerobot_lara.batch.keys import FRAME_PAIR, FRAME_PAIR_IS_PAD
from lerobot_lara.lam.latent_action_model import LatentActionModel

# Of the batch, and blocks of each tiny base.
SIZE, DEPTH = 3, 4
# Of what is not `CHUNK`: GR00T N1.6 pads chunks to its horizon.
STEPS = {"groot_n16": 10}
# How often a base denoises each sample, if not once.
COPIES = {"vla_jepa": 2}


def plain(batch):
    return {key: value for key, value in batch.items() if not key.startswith(FRAME_PAIR)}


def wake(policy):
    """Zero weights, of gates above all, would hide a wrong tap."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.abs().max() == 0:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return policy


def test_no_processor_touches_the_pair(batch):
    assert batch[FRAME_PAIR].dtype == torch.uint8 and batch[FRAME_PAIR].shape == (SIZE, 2, 3, 32, 32)
    assert batch[FRAME_PAIR_IS_PAD].shape == (SIZE, 2)


def test_with_weight_0_loss_and_gradients_are_the_bases(tiny_base, batch):
    aligned = wake(tiny_base.policy(alignment_loss_weight=0.0, lam_loss_weight=0.0)).train()
    base = wake(tiny_base.policy(aligned=False)).train()
    torch.manual_seed(3)
    loss, log = aligned(dict(batch))
    after = torch.rand(1)
    torch.manual_seed(3)
    expected, _ = base(plain(batch))
    assert torch.equal(loss, expected) and torch.equal(after, torch.rand(1))
    assert log["alignment_loss"] > 0 and all(isinstance(value, float) for value in log.values())
    loss.backward()
    expected.backward()
    own = dict(aligned.named_parameters())
    for name, parameter in base.named_parameters():
        assert torch.equal(own[name], parameter), name
        if parameter.grad is None:
            assert own[name].grad is None
        else:
            assert torch.equal(own[name].grad, parameter.grad), name


def test_the_base_never_sees_the_pair(tiny_base, batch, monkeypatch):
    seen = []
    base = get_policy_class(tiny_base.name)
    forward = base.flow_loss if hasattr(base, "flow_loss") else base.forward
    name = "flow_loss" if hasattr(base, "flow_loss") else "forward"
    monkeypatch.setattr(base, name, lambda self, given: seen.append(set(given)) or forward(self, given))
    policy = tiny_base.policy().train()
    policy(dict(batch))
    assert len(seen) == 1 and not {key for key in seen[0] if key.startswith(FRAME_PAIR)}


def keep_tokens(policy):
    """Returns the list to which every forward pass will add its action tokens, and which of them are valid."""
    kept, pick = [], policy.action_tokens

    def keep(hidden_states, batch):
        kept.append(pick(hidden_states, batch))
        return kept[-1]

    policy.action_tokens = keep
    return kept


def test_every_block_is_tapped_once_at_the_action_tokens(tiny_base, batch):
    """A loss on the tokens of block n alone reaches the blocks up to n, and its actions alone among the samples."""
    for layer in range(1, DEPTH + 1):
        policy = wake(tiny_base.policy(alignment_layer=layer, freeze_lam=True)).train()
        assert len(policy.alignment_taps) == DEPTH
        kept = keep_tokens(policy)
        with mock.patch.object(policy._tap, "take", wraps=policy._tap.take) as take:
            policy(dict(batch))
        assert take.call_count == len(kept) == 1
        tokens, valid = kept[0]
        assert tokens.requires_grad
        steps, copies = STEPS.get(tiny_base.name, CHUNK), COPIES.get(tiny_base.name, 1)
        assert tokens.shape == (SIZE, copies * steps, policy.alignment_width)
        assert valid.shape == tokens.shape[:2]
        is_pad = batch["action_is_pad"]
        assert valid[0].all() or tiny_base.name == "groot_n16"
        assert not valid[2].all() and valid[2].any() and is_pad[2].any()
        tokens.float().sum().backward()
        blocks = _blocks(policy, tiny_base.name)
        reached = [any(p.grad is not None and p.grad.abs().max() > 0 for p in b.parameters()) for b in blocks]
        assert reached == [True] * layer + [False] * (DEPTH - layer)


def _blocks(policy, name):
    if name == "smolvla":
        return policy.model.vlm_with_expert.lm_expert.layers
    if name in ("pi0", "pi05"):
        return policy.model.paligemma_with_expert.gemma_expert.model.layers
    return [point.module for point in policy.alignment_taps]


def moved_tokens(tiny_base, batch, where):
    """How far the output of block 1 moves, (B, copies, T), when the actions at an index do."""
    policy = wake(tiny_base.policy(alignment_layer=1, freeze_lam=True)).eval()
    kept = keep_tokens(policy)
    changed = batch | {"action": batch["action"].clone()}
    changed["action"][where] += 5
    for given in (batch, changed):
        torch.manual_seed(3)
        policy(dict(given))
    (before, _), (after, _) = kept
    distance = (before - after).float().abs().sum(-1)
    return distance.unflatten(1, (COPIES.get(tiny_base.name, 1), -1))


def test_the_action_tokens_carry_the_actions(tiny_base, batch):
    """Changing one step's action changes its token at the first block's input side most directly: block 1's output."""
    moved = moved_tokens(tiny_base, batch, (slice(None), 1)).sum(1)
    assert (moved.argmax(1) == 1).all(), moved


def test_a_sample_has_its_own_tokens(tiny_base, batch):
    """Also where the base denoises a batch several times."""
    moved = moved_tokens(tiny_base, batch, 0).amax(-1)
    assert (moved[0] > 1e-4).all(), "every copy of the first sample"
    assert moved[1:].max() < 1e-5


def test_a_policy_that_acts_has_no_lam(tiny_base, tmp_path, monkeypatch):
    policy = tiny_base.policy()
    policy.save_pretrained(tmp_path / "out")
    monkeypatch.setattr(
        "lerobot_lara.lam.latent_action_model.LatentActionModel.__init__",
        lambda *args, **kwargs: pytest.fail("a LAM was built"),
    )
    acting = type(policy).from_pretrained(tmp_path / "out")
    assert isinstance(acting, LatentAlignmentMixin) and acting.lam is None and acting.alignment is None


def test_a_checkpoint_that_lacks_a_weight_is_refused(tiny_base, tmp_path):
    from safetensors.torch import load_file, save_file

    policy = tiny_base.policy()
    policy.save_pretrained(tmp_path / "out")
    file = tmp_path / "out" / "model.safetensors"
    weights = load_file(file)
    name = next(key for key in sorted(weights) if "layers." in key or "blocks." in key)
    weights[f"{name}_renamed"] = weights.pop(name)
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises((ValueError, RuntimeError), match=name.rpartition(".")[0]):
        type(policy).from_pretrained(tmp_path / "out")


def test_a_lam_of_the_authors_form_aligns(tiny_base, batch, tmp_path):
    """Codes, one vector added to the frame's tokens, and no normalization, as converted LAMs have."""
    form = {
        "quantizer": "vq",
        "codebook_size": 8,
        "latent_fusion": "add",
        "latent_projection": "tanh_mlp",
        "normalize_latent": False,
        "residual_prediction": False,
    }
    torch.manual_seed(0)
    LatentActionModel.from_config(**TINY_LAM | form).save_pretrained(tmp_path / "lam")
    policy = tiny_base.policy(lam_path=str(tmp_path / "lam"), alignment_target="joint").train()
    loss, log = policy(dict(batch))
    loss.backward()
    assert loss.isfinite() and log["alignment_loss"] > 0
    with pytest.raises(ValueError, match=r"frame gap of 4 control steps, but `frame_gap` is 9"):
        tiny_base.policy(lam_path=str(tmp_path / "lam"), frame_gap=9)
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        policy.eval()({**batch, FRAME_PAIR: batch[FRAME_PAIR].float()})


@pytest.mark.parametrize("tiny_base", ["pi0", "pi05"], indirect=True)
def test_a_file_in_the_form_of_openpi_is_known(tiny_base, tmp_path):
    """Its names have no prefix, and the embedding is stored once, as the output layer."""
    from safetensors.torch import load_file, save_file

    policy = tiny_base.policy()
    policy.save_pretrained(tmp_path / "out")
    file = tmp_path / "out" / "model.safetensors"
    weights = {key.removeprefix("model."): value for key, value in load_file(file).items()}
    embedding = next(key for key in weights if key.endswith("language_model.embed_tokens.weight"))
    output = next(key for key in weights if key.endswith("paligemma.lm_head.weight"))
    del weights[embedding]
    save_file(weights, file, metadata={"format": "pt"})
    loaded = type(policy).from_pretrained(tmp_path / "out").state_dict()
    assert torch.equal(loaded[f"model.{embedding}"], weights[output])
