"""The action head `gr00t` equals the reference's, from hidden states to samples (golden/action_head_tiny)."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from lerobot.policies.common.flow_matching import euler_integrate
from safetensors.torch import load_file
from support.alignments import make_alignment
from support.policies import make_policy
from torch import Tensor

from lerobot_lara.dit.alternating_head import AlternatingActionHead, discretize
from lerobot_lara.dit.context_adapter import ContextAdapter
from lerobot_lara.dit.flow_matching import flow_matching_loss

GOLDEN = Path(__file__).parent / "golden"
TENSORS = load_file(GOLDEN / "action_head_tiny.safetensors")
WEIGHTS = {key: value for key, value in TENSORS.items() if "/" not in key}
MASK = TENSORS["in/backbone_attention_mask"].bool()
CHUNK_SIZE = TENSORS["in/action"].shape[1]

spec = importlib.util.spec_from_file_location(
    "convert_reference_head", Path(__file__).parents[2] / "hub" / "convert_reference_head.py"
)
assert spec is not None and spec.loader is not None
converter = importlib.util.module_from_spec(spec)
spec.loader.exec_module(converter)


def convert(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return converter.convert(weights, chunk_size=CHUNK_SIZE)


def build(
    weights: dict[str, Tensor] = WEIGHTS, ignore_context_mask: bool = True
) -> tuple[AlternatingActionHead, ContextAdapter]:
    return converter.build(
        convert(weights), num_heads=2, context_num_heads=2, ignore_context_mask=ignore_context_mask
    )


def observation(adapter: ContextAdapter) -> dict[str, Tensor]:
    """What the head sees; the reference's adapter takes no mask."""
    return {
        "state": TENSORS["in/state"][:, 0],
        "context": adapter(TENSORS["in/backbone_features"], torch.ones_like(MASK)),
        "context_mask": MASK,
        "embodiment_id": TENSORS["in/embodiment_id"],
    }


def velocity(head: AlternatingActionHead, adapter: ContextAdapter) -> Tensor:
    return head(TENSORS["out/noisy_trajectory"], TENSORS["out/t"], **observation(adapter))


def assert_equal(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_hidden_states_and_velocity_match_the_reference() -> None:
    head, adapter = build()
    states: list[Tensor] = []
    head.blocks[0].register_forward_pre_hook(lambda block, inputs: states.append(inputs[0]))
    for block in head.blocks:
        block.register_forward_hook(lambda block, inputs, output: states.append(output))
    outputs: list[Tensor] = []
    head.output_projection.register_forward_hook(lambda layer, inputs, output: outputs.append(output))
    predicted = velocity(head, adapter)

    assert_equal(observation(adapter)["context"], TENSORS["out/vl_embeds"])
    assert len(states) == 5
    for i, state in enumerate(states):
        assert_equal(state, TENSORS[f"out/all_hidden_states.{i}"])
    assert_equal(outputs[0], TENSORS["out/model_output"][:, 1:])
    assert_equal(predicted, TENSORS["out/pred_actions"])


def test_losses_match_the_reference() -> None:
    head, adapter = build()
    tapped: list[Tensor] = []
    head.blocks[-3].register_forward_hook(lambda block, inputs, output: tapped.append(output))
    flow_loss = flow_matching_loss(
        velocity(head, adapter), TENSORS["out/velocity"], TENSORS["in/action_mask"]
    )
    assert_equal(flow_loss, TENSORS["out/loss"])

    alignment = make_alignment(32, 32, head="linear", pooling="last", centering=False)
    weights = convert(WEIGHTS)
    alignment.alignment_head.load_state_dict(
        {name: weights[f"alignment.alignment_head.{name}"] for name in ("weight", "bias")}
    )
    alignment_loss, predicted = alignment(tapped[0][:, 1:], TENSORS["in/tokenizer_embed"])
    assert_equal(predicted, TENSORS["out/predicted_motion_embed"])
    assert_equal(alignment_loss, TENSORS["out/latent_loss"])
    total = flow_loss + 0.01 * alignment_loss + 0.01 * TENSORS["in/tokenizer_loss"]
    assert_equal(total, TENSORS["out/total_loss"])


def test_gradients_match_the_reference() -> None:
    head, adapter = build()
    flow_matching_loss(velocity(head, adapter), TENSORS["out/velocity"], TENSORS["in/action_mask"]).backward()
    gradients = {
        f"{part}.{name}": parameter.grad
        for part, module in (("action_head", head), ("observation_encoder.adapter", adapter))
        for name, parameter in module.named_parameters()
    }
    stored = [key for key in TENSORS if key.startswith("grad/")]
    assert len(stored) == 3
    for key in stored:
        [(own, expected)] = convert({key.removeprefix("grad/"): TENSORS[key]}).items()
        assert_equal(gradients[own], expected)

    norms = json.loads((GOLDEN / "action_head_tiny.json").read_text())["grad_norms"]
    reference_norms = {
        next(iter(convert({key: WEIGHTS[key]}))): norm for key, norm in norms.items() if norm is not None
    }
    # The reference has no null state; here the state of every sample is known.
    assert reference_norms.keys() == gradients.keys() - {"action_head.null_state"}
    for own, norm in reference_norms.items():
        assert gradients[own].norm().item() == pytest.approx(norm, rel=1e-5, abs=1e-6), own


def test_samples_match_the_reference() -> None:
    """Four Euler steps, driven as the policy drives them: backwards in LeRobot's own time."""
    head, adapter = build()
    given = observation(adapter)
    velocities: list[Tensor] = []
    thousandths: list[float] = []

    def velocity_to_noise(noisy_actions: Tensor, time: Tensor) -> Tensor:
        thousandths.append(discretize(1 - time)[0].item())
        velocities.append(head(noisy_actions, 1 - time, **given))
        return -velocities[-1]

    with torch.no_grad():
        actions = euler_integrate(velocity_to_noise, TENSORS["in/initial_noise"], 4)
    assert thousandths == TENSORS["out/get_action_timesteps"].tolist()
    assert_equal(torch.stack(velocities), TENSORS["out/get_action_step_velocity"])
    assert_equal(actions, TENSORS["out/get_action"])


def test_flow_time_is_cut_as_in_the_reference() -> None:
    assert TENSORS["out/t"].min() < 0
    assert torch.equal(discretize(TENSORS["out/t"]).long(), TENSORS["out/t_discretized"])


def test_the_reference_ignores_the_mask_and_the_default_honors_it() -> None:
    assert not MASK.all()
    head, adapter = build(ignore_context_mask=False)
    assert (velocity(head, adapter) - TENSORS["out/pred_actions"]).abs().max() > 1e-2
    given = observation(adapter) | {"context_mask": torch.ones_like(MASK)}
    everything = head(TENSORS["out/noisy_trajectory"], TENSORS["out/t"], **given)
    assert_equal(everything, TENSORS["out/pred_actions"])


def test_converted_weights_are_those_of_the_policy() -> None:
    policy = make_policy(
        action_head="gr00t",
        action_patch_size=1,
        width=32,
        num_layers=4,
        state=8,
        action=7,
        chunk_size=CHUNK_SIZE,
        embodiments=["a", "b", "c"],
        projection_width=32,
    )
    own = {key: value.shape for key, value in policy.state_dict().items() if key.startswith("action_head.")}
    del own["action_head.null_state"]
    converted = {key: value for key, value in convert(WEIGHTS).items() if key.startswith("action_head.")}
    assert converted.keys() == own.keys()
    # All but the keys and values of cross-attention: the reference's context has a width of its own.
    assert {key for key in own if own[key] != converted[key].shape} == {
        f"action_head.blocks.{i}.attention.{part}.weight" for i in (0, 2) for part in ("to_k", "to_v")
    }


def test_a_prefix_selects_the_head_in_a_larger_model() -> None:
    larger = {f"action_head.{key}": value for key, value in WEIGHTS.items()} | {"backbone.x": torch.zeros(1)}
    converted = converter.convert(larger, chunk_size=CHUNK_SIZE, prefix="action_head.")
    assert converted.keys() == convert(WEIGHTS).keys()


@pytest.mark.parametrize(
    "key",
    [
        "future_tokens.weight",
        "model.transformer_blocks.0.attn2.to_q.weight",
        "model.transformer_blocks.0",
        "model.proj_out_10.weight",
    ],
)
def test_unknown_keys_are_refused(key: str) -> None:
    with pytest.raises(ValueError, match=f"Unknown key '{key}'"):
        convert(WEIGHTS | {key: torch.zeros(1)})


def test_surplus_and_missing_weights_are_refused() -> None:
    for key in ("action_encoder.W1.extra", "vl_self_attention.transformer_blocks.0.attn2.to_q.weight"):
        with pytest.raises(ValueError, match="Unexpected key"):
            build(WEIGHTS | {key: torch.zeros(1)})
    for missing in WEIGHTS.keys() - {"pred_latent_motion_head.weight", "pred_latent_motion_head.bias"}:
        with pytest.raises(ValueError, match=r"Missing key|lack|size mismatch"):
            build({key: value for key, value in WEIGHTS.items() if key != missing})


def test_a_longer_chunk_than_the_reference_has_positions_for_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`chunk_size` is 17.*16 rows"):
        converter.convert(WEIGHTS, chunk_size=17)
