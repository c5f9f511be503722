import pytest
import torch
from support.heads import inputs, make_head
from torch.nn import functional as F

from lerobot_lara.dit.alternating_head import AlternatingBlock, discretize


def make_block(**options):
    torch.manual_seed(0)
    block = AlternatingBlock(**{"width": 16, "num_heads": 2, "context_width": None, "dropout": 0.0} | options)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return block.eval()


def test_blocks_take_turns():
    head = make_head("gr00t", num_layers=4)
    assert [block.is_cross_attention for block in head.blocks] == [True, False, True, False]


def test_cross_attention_does_not_mix_tokens_and_self_attention_sees_no_context():
    x, context, time = torch.randn(2, 3, 16), torch.randn(2, 5, 12), torch.randn(2, 16)
    mask = torch.ones(2, 5, dtype=torch.bool)
    another_token = torch.cat([x[:, :2], x[:, 2:] + 1], dim=1)
    for context_width, mixes in ((12, False), (None, True)):
        block = make_block(context_width=context_width)
        before = block(x, context, mask, time)
        assert torch.equal(block(x, context + 1, mask, time), before) == mixes
        assert torch.equal(block(another_token, context, mask, time)[:, :2], before[:, :2]) == (not mixes)


@pytest.mark.parametrize("ignored", [False, True])
def test_padded_context_matters_only_if_the_mask_is_ignored(ignored):
    head, batch = make_head("gr00t", ignore_context_mask=ignored), inputs()
    before = head(**batch)
    batch["context"][:, 4] += 5
    assert torch.equal(before, head(**batch)) != ignored
    batch["context_mask"] = ~batch["context_mask"]
    assert torch.equal(head(**batch), head(**batch | {"context_mask": ~batch["context_mask"]})) == ignored


def test_positions_belong_to_the_action_tokens():
    head, batch = make_head("gr00t"), inputs()
    states = []
    head.blocks[0].register_forward_pre_hook(lambda block, arguments: states.append(arguments[0]))
    head(**batch)
    shift = torch.randn_like(head.positions)
    with torch.no_grad():
        head.positions += shift
    head(**batch)
    before, after = states
    assert torch.equal(before[:, 0], after[:, 0])
    torch.testing.assert_close(after[:, 1:], before[:, 1:] + shift)


def test_flow_time_is_cut_to_thousandths():
    time = torch.tensor([0.0, 0.0009, 0.0011, 0.4996, 0.9999, 1.0, -0.0006])
    assert discretize(time).tolist() == [0, 0, 1, 499, 999, 1000, 0]
    # The flow times of Euler sampling, as LeRobot computes them.
    steps = torch.tensor([1.0 + step * (-1.0 / 10) for step in range(10)], dtype=torch.float32)
    assert discretize(1 - steps).tolist() == [0, 100, 200, 300, 400, 500, 600, 700, 800, 900]


def test_velocity_is_constant_within_a_thousandth():
    head, batch = make_head("gr00t"), inputs()
    at = {time: head(**batch | {"timestep": torch.full((4,), time)}) for time in (0.5002, 0.5008, 0.5012)}
    assert torch.equal(at[0.5002], at[0.5008]) and not torch.equal(at[0.5002], at[0.5012])


def test_projections_may_be_narrower():
    head = make_head("gr00t", projection_width=10)
    assert head.state_encoder.input.weight.shape == (2, 2, 10)
    assert head.state_encoder.output.weight.shape == (2, 10, 16)
    assert head.output_projection.weight.shape == (10, 16)
    assert head.action_decoder.output.weight.shape == (2, 10, 3)
    assert head(**inputs()).shape == (4, 6, 3)


def test_norms_have_the_references_epsilons():
    """Seen in states so small that an epsilon is of their variance's size."""
    head, x = make_head("gr00t"), 1e-3 * torch.randn(2, 3, 16)
    for norm, eps in ((head.blocks[0].attention_norm, 1e-5), (head.output_norm, 1e-6)):
        shift, scale = norm.linear.bias.chunk(2)
        expected = F.layer_norm(x, (16,), eps=eps) * (1 + scale) + shift
        torch.testing.assert_close(norm(x, temb=torch.zeros(2, 16)), expected)


def test_dropout_follows_attention_twice_and_the_mlp_once():
    block = make_block(dropout=0.5).train()
    dropped = {}
    for name, module in (("attention", block.attention_dropout), ("mlp", block.feed_forward)):
        module.register_forward_hook(
            lambda module, arguments, output, name=name: dropped.update({name: (output == 0).float().mean()})
        )
    block(torch.randn(64, 8, 16), torch.randn(64, 5, 12), None, torch.randn(64, 16))
    assert dropped["attention"].item() == pytest.approx(0.75, abs=0.02)
    assert dropped["mlp"].item() == pytest.approx(0.5, abs=0.02)
