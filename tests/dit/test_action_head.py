import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from support.heads import HEADS, count_projections, inputs, make_head
from support.policies import CAMERA, GR00T, fake_batch, make_policy
from torch.nn import functional as F

from lerobot_lara.dit.adaln_zero_head import DiTBlock
from lerobot_lara.dit.blocks import EmbodimentLinear, cross_attention, project_context

BOTH = pytest.mark.parametrize("name", HEADS)


@BOTH
def test_shape_and_every_parameter_learns(name):
    head, batch = make_head(name).train(), inputs()
    batch["embodiment_id"] = torch.tensor([0, 1, 0, 1])
    velocity = head(**batch, state_valid=torch.tensor([True, True, False, False]))
    assert velocity.shape == (4, 6, 3)
    velocity.square().mean().backward()
    silent = [n for n, p in head.named_parameters() if p.grad is None or not p.grad.any()]
    # A key bias shifts all logits of a query alike: softmax cannot see it. diffusers' keys carry one.
    assert [n for n in silent if not n.endswith("to_k.bias")] == []


@BOTH
@pytest.mark.parametrize("key", ["noisy_actions", "timestep", "state", "context", "embodiment_id"])
def test_every_input_matters(name, key):
    head, batch = make_head(name), inputs()
    before = head(**batch)
    changed = 1 - batch[key] if key == "embodiment_id" else batch[key] + 0.5
    assert not torch.allclose(before, head(**batch | {key: changed}), atol=1e-4)


@BOTH
def test_masked_context_does_not_matter(name):
    head, batch = make_head(name), inputs()
    before = head(**batch)
    batch["context"][:, 4] += 100
    torch.testing.assert_close(before, head(**batch))


@BOTH
def test_null_state_hides_the_state(name):
    head, batch = make_head(name), inputs()
    hidden = torch.zeros(4, dtype=torch.bool)
    before = head(**batch, state_valid=hidden)
    torch.testing.assert_close(before, head(**batch | {"state": batch["state"] + 1}, state_valid=hidden))
    torch.testing.assert_close(before, head(**batch | {"state": None}))


@BOTH
def test_state_dropout_acts_in_training_only(name):
    head, batch = make_head(name, state_dropout=0.999), inputs()
    null = head(**batch | {"state": None})
    torch.testing.assert_close(head.train()(**batch), null)
    assert not torch.allclose(head.eval()(**batch), null)


@BOTH
def test_fresh_head_predicts_no_velocity(name):
    assert not make_head(name, fresh=True)(**inputs()).any()


def test_a_token_holds_consecutive_steps():
    """Two steps of three dimensions: in the encoder's input and in the decoder's output."""
    head, batch = make_head("adaln_zero"), inputs()
    encoded, decoded = [], []
    head.action_encoder.register_forward_pre_hook(lambda module, arguments: encoded.append(arguments[0]))
    head.action_decoder.register_forward_hook(lambda module, arguments, output: decoded.append(output))
    velocity = head(**batch)
    for values, tokens in ((batch["noisy_actions"], encoded[0]), (velocity, decoded[0])):
        assert tokens.shape == (4, 3, 6)
        for step in range(6):
            part = tokens[:, step // 2, 3 * (step % 2) : 3 * (step % 2) + 3]
            assert torch.equal(values[:, step], part)


def test_fresh_block_is_the_identity():
    block = DiTBlock(width=16, num_heads=2, context_width=12, dropout=0.0)
    x = torch.randn(2, 3, 16)
    out = block(x, torch.randn(2, 5, 12), torch.ones(2, 5, dtype=torch.bool), torch.randn(2, 16))
    assert torch.equal(out, x)


def test_each_part_of_a_block_is_shifted_scaled_and_gated():
    """In the order of the modulation: shift, scale, gate of self-attention, of cross-attention, of the MLP."""
    block = DiTBlock(width=16, num_heads=2, context_width=12, dropout=0.0)
    torch.nn.init.normal_(block.modulation.weight)
    x, context, time = torch.randn(2, 3, 16), torch.randn(2, 5, 12), torch.randn(2, 16)
    mask = torch.tensor([[True] * 5, [True] * 2 + [False] * 3])
    parts = block.modulation(F.silu(time))[:, None].chunk(9, dim=-1)  # (B, 1, D) each
    expected = x
    for i, sublayer in enumerate((block.self_attention, block.cross_attention, block.feed_forward)):
        shift, scale, gate = parts[3 * i : 3 * i + 3]
        given = {} if i != 1 else {"encoder_hidden_states": context, "attention_mask": mask[:, None]}
        expected = expected + gate * sublayer(F.layer_norm(expected, (16,)) * (1 + scale) + shift, **given)
    torch.testing.assert_close(block(x, context, mask, time), expected)


def test_embodiments_have_their_own_weights():
    layer = EmbodimentLinear(3, 4, 5)
    torch.nn.init.normal_(layer.bias)
    x, ids = torch.randn(2, 7, 4), torch.tensor([2, 0])
    for row, embodiment in enumerate(ids):
        expected = x[row] @ layer.weight[embodiment] + layer.bias[embodiment]
        torch.testing.assert_close(layer(x, ids)[row], expected)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_to_the_observation_is_that_of_diffusers(masked):
    torch.manual_seed(0)
    attention = cross_attention(width=16, num_heads=4, context_width=12, dropout=0.0)
    x, context = torch.randn(3, 6, 16, requires_grad=True), torch.randn(3, 5, 12, requires_grad=True)
    mask = torch.tensor([[True] * 5, [True] * 2 + [False] * 3, [False] * 4 + [True]])[:, None]
    own, plain = attention.processor, AttnProcessor2_0()
    outputs = []
    for processor in (own, plain):
        attention.set_processor(processor)
        output = attention(x, encoder_hidden_states=context, attention_mask=mask if masked else None)
        output.square().sum().backward()
        outputs.append([output, *(one.grad.clone() for one in (x, context, *attention.parameters()))])
        x.grad = context.grad = None
        attention.zero_grad()
    for first, second in zip(*outputs, strict=True):
        torch.testing.assert_close(first, second, atol=1e-6, rtol=1e-6)


@BOTH
def test_projections_may_be_computed_before(name):
    head, batch = make_head(name, num_layers=3), inputs()
    calls = count_projections(head)
    plain = head(**batch)
    assert len(calls) == (6 if name == "adaln_zero" else 4)  # keys and values of every cross-attention
    assert set(calls.values()) == {1}
    pairs = head.project_context(batch["context"])
    assert set(calls.values()) == {2}
    assert [pair is None for pair in pairs] == [False, name == "gr00t", False]
    assert torch.equal(head(**batch, context_keys_values=pairs), plain)
    later = batch | {"timestep": 1 - batch["timestep"]}
    assert torch.equal(head(**later, context_keys_values=pairs), head(**later))
    assert set(calls.values()) == {3}, "only the forward without pairs computes them"
    other = head.project_context(batch["context"] + 1)
    assert torch.equal(
        head(**batch, context_keys_values=other), head(**batch | {"context": batch["context"] + 1})
    )


@BOTH
def test_projections_that_do_not_fit_are_refused(name):
    head, batch = make_head(name), inputs()
    pairs = head.project_context(batch["context"])
    with pytest.raises(ValueError, match=r"`context_keys_values` has 1 entries; it must have 2"):
        head(**batch, context_keys_values=pairs[:1])
    key, value = pairs[0]
    wrong = {
        "another batch": (key[:1], value[:1]),
        "other tokens": (key[:, :, :4], value),
        "another width": (key, value[..., :4]),
        "other heads": tuple(one.reshape(4, 4, 5, 4) for one in (key, value)),
        "none": None,
    }
    for reason, pair in wrong.items():
        with pytest.raises(ValueError, match=r"`context_keys_values\[0\]` has the shapes .* must be"):
            head(**batch, context_keys_values=[pair, pairs[1]])
            pytest.fail(reason)
    if name == "gr00t":
        with pytest.raises(ValueError, match=r"`context_keys_values\[1\]` .* must be None"):
            head(**batch, context_keys_values=[pairs[0], pairs[0]])


@pytest.mark.parametrize("options", [{}, GR00T], ids=HEADS)
def test_acting_projects_the_observation_once_per_chunk(options):
    policy = make_policy(num_inference_steps=4, **options)
    batch, noise = fake_batch(2), torch.randn(2, 8, 4)
    calls = count_projections(policy.action_head)
    steps = []
    policy.action_head.register_forward_hook(lambda *_: steps.append(1))
    chunk = policy.predict_action_chunk(batch, noise=noise)
    assert len(steps) == 4
    assert len(calls) == 2 * (2 if options else 3) and set(calls.values()) == {1}
    other = batch | {CAMERA: batch[CAMERA].flip(0)}
    assert (policy.predict_action_chunk(other, noise=noise) - chunk).abs().max() > 1e-4, (
        "no memory across chunks"
    )
    assert set(calls.values()) == {2}
    # Step by step, with projections of its own in each.
    policy.action_head.project_context = lambda context: None
    assert torch.equal(policy.predict_action_chunk(batch, noise=noise), chunk)
    assert set(calls.values()) == {2 + 4}


def test_training_projects_the_observation_in_its_one_pass():
    policy = make_policy()
    calls = count_projections(policy.action_head)
    policy(fake_batch(2))[0].backward()
    assert set(calls.values()) == {1}
    attention = policy.action_head.blocks[0].cross_attention
    assert attention.to_k.weight.grad.any() and attention.to_v.weight.grad.any()


def test_keys_and_values_are_split_by_head():
    attention = cross_attention(width=16, num_heads=4, context_width=12, dropout=0.0)
    context = torch.randn(2, 5, 12)
    key, value = project_context(attention, context)
    assert key.shape == value.shape == (2, 4, 5, 4)
    assert torch.equal(key[:, 1], attention.to_k(context)[..., 4:8])
    assert torch.equal(value[:, 3], attention.to_v(context)[..., 12:])
