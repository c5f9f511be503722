"""Equality with the authors' Moto-GPT, run on tiny random weights (golden/moto_gpt_tiny*)."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lerobot_lara.moto_gpt.attention_mask import attention_mask
from lerobot_lara.moto_gpt.decoding import decode_latents
from lerobot_lara.moto_gpt.losses import action_losses, latent_loss
from lerobot_lara.moto_gpt.model import Conditions, MotoGPT

GOLDEN = Path(__file__).parent / "golden" / "moto_gpt_tiny"
CASES = json.loads(GOLDEN.with_suffix(".json").read_text())["cases"]
CONVERTER = Path(__file__).parents[2] / "hub" / "convert_reference_moto_gpt.py"
spec = importlib.util.spec_from_file_location("convert_reference_moto_gpt", CONVERTER)
assert spec is not None and spec.loader is not None
converter = importlib.util.module_from_spec(spec)
spec.loader.exec_module(converter)


def ours(name: str) -> str:
    module, _, parameter = name.rpartition(".")
    if name in (single := converter.VECTORS | converter.TABLES):
        return single[name]
    if name.startswith(converter.BACKBONE):
        return name.replace(converter.BACKBONE, "backbone.")
    return f"{converter.NAMES[module]}.{parameter}"


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(GOLDEN.with_suffix(".safetensors"))


def build(golden: dict[str, Tensor], case: str) -> MotoGPT:
    embeddings = case.endswith("embeddings")
    model = MotoGPT(
        language_width=24,
        patch_width=40,
        num_patches=None,
        summary_width=40,
        state_width=None,
        width=48,
        num_layers=3,
        num_heads=4,
        latent_steps=2,
        num_latent_tokens=4,
        codebook_size=16,
        codebook_per_token=False,
        actions_per_step=0 if case.startswith("pretrain") else 3,
        action_dim=7,
        gripper_index=-1,
        step_embeddings=embeddings,
        latent_position_embeddings=embeddings,
        predict_latents=case != "action_only",
        dropout=0.0,
    ).eval()
    weights = {ours(name): value for name, value in golden.items() if "/" not in name and "wte" not in name}
    own = model.state_dict()
    assert own.keys() <= weights.keys(), "every weight of ours is one of theirs"
    model.load_state_dict({name: weights[name].reshape(own[name].shape) for name in own})
    return model


def conditions(golden: dict[str, Tensor]) -> Conditions:
    return Conditions(
        language=golden["in/language_features"],
        language_mask=golden["in/language_mask"],
        patches=golden["in/patch_features"],
        summary=golden["in/cls_feature"],
    )


def run(golden: dict[str, Tensor], case: str) -> tuple[MotoGPT, Tensor | None, Tensor | None]:
    model = build(golden, case)
    visible = golden.get(f"{case}/in/motion_visible")
    logits, actions = model(
        conditions(golden),
        golden["in/latent_ids"],
        latent_valid=golden["in/latent_mask"].bool(),
        latent_visible=None if visible is None else visible.bool(),
    )
    return model, logits, actions


def losses(golden: dict[str, Tensor], logits, actions, gripper_loss: str) -> dict[str, Tensor]:
    found = {}
    if logits is not None:
        found["latent"] = latent_loss(logits, golden["in/latent_ids"], golden["in/latent_mask"].bool())
    if actions is not None:
        found |= action_losses(
            actions,
            golden["in/actions"],
            golden["in/action_mask"].bool(),
            gripper_index=-1,
            gripper_loss=gripper_loss,
        )
    return found


TRAINING = sorted(name for name, case in CASES.items() if isinstance(case, dict) and "losses" in case)


@pytest.mark.parametrize("case", TRAINING)
def test_outputs_and_losses_are_the_authors(golden, case):
    _, logits, actions = run(golden, case)
    expected = CASES[case]["losses"]
    if logits is not None:
        torch.testing.assert_close(logits, golden[f"{case}/out/latent_logits"], atol=2e-5, rtol=0)
    if actions is not None:
        arm, gripper = actions[..., :6], actions[..., 6:]
        torch.testing.assert_close(arm, golden[f"{case}/out/arm"], atol=2e-5, rtol=0)
        torch.testing.assert_close(gripper, golden[f"{case}/out/gripper"], atol=2e-5, rtol=0)
    for kind, suffix in (("smooth_l1", ""), ("bce", "_bce")):
        if f"action_arm{suffix}" not in expected:
            continue
        found = losses(golden, logits, actions, kind)
        named = {"latent": "latent_motion", "arm_loss": "action_arm", "gripper_loss": "action_gripper"}
        for name, value in found.items():
            assert value.item() == pytest.approx(expected[f"{named[name]}{suffix}"], rel=2e-6, abs=1e-7)


@pytest.mark.parametrize("case", ["pretrain", "cofinetune_visible", "cofinetune_half", "action_only"])
def test_gradients_are_the_authors(golden, case):
    model, logits, actions = run(golden, case)
    found = losses(golden, logits, actions, "smooth_l1")
    total = 100 * found.get("arm_loss", 0) + found.get("gripper_loss", 0) + found.get("latent", 0)
    assert total.item() == pytest.approx(CASES[case]["losses"]["total_loss"], rel=2e-6)
    total.backward()
    parameters = dict(model.named_parameters())
    for name, norm in CASES[case]["grad_norms"].items():
        parameter = parameters.get(ours(name)) if "wte" not in name else None
        gradient = None if parameter is None else parameter.grad
        found_norm = 0.0 if gradient is None else gradient.norm().item()
        assert found_norm == pytest.approx(norm or 0.0, rel=1e-4, abs=1e-5), name
    for name in [key for key in golden if key.startswith(f"{case}/grad/")]:
        gradient = parameters[ours(name.removeprefix(f"{case}/grad/"))].grad
        torch.testing.assert_close(gradient, golden[name], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("case", "actions"), [("pretrain", 0), ("cofinetune_half", 3)])
def test_the_same_tokens_see_one_another(golden, case, actions):
    visible = golden.get(f"{case}/in/motion_visible", torch.ones(3, 2))
    language = golden["in/language_mask"].bool()
    mask = attention_mask(
        torch.cat([language, torch.ones(3, 10, dtype=torch.bool)], dim=1),
        golden["in/latent_mask"].bool(),
        visible.bool(),
        block_tokens=5,
        actions_per_step=actions,
    )
    assert torch.equal(mask[:, 0], golden[f"{case}/mid/attention_allowed"].bool())


@pytest.mark.parametrize("case", ["pretrain", "pretrain_embeddings"])
def test_greedy_decoding_is_the_authors(golden, case):
    ids = decode_latents(build(golden, case), conditions(golden))
    assert torch.equal(ids, golden[f"{case}/gen/greedy"])


def test_acting_on_decoded_latents(golden):
    model = build(golden, "act_decoded")
    ids = decode_latents(model, conditions(golden))
    assert torch.equal(ids, golden["act_decoded/gen/greedy"])
    _, actions = model(conditions(golden), ids)
    torch.testing.assert_close(actions[..., :6], golden["act_decoded/out/arm"], atol=2e-5, rtol=0)
    torch.testing.assert_close(actions[..., 6:], golden["act_decoded/out/gripper"], atol=2e-5, rtol=0)


def test_acting_without_latents_does_not_depend_on_them(golden):
    model = build(golden, "act_masked")
    hidden = torch.zeros(3, 2, dtype=torch.bool)
    for ids in (golden["in/latent_ids"], torch.zeros_like(golden["in/latent_ids"])):
        _, actions = model(conditions(golden), ids, latent_visible=hidden)
        torch.testing.assert_close(actions[..., :6], golden["act_masked/out/arm"], atol=2e-5, rtol=0)
    plain = build(golden, "action_only")
    _, alone = plain(conditions(golden), None)
    torch.testing.assert_close(alone, actions, atol=2e-5, rtol=0)
