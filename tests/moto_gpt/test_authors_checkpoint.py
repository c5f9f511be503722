"""Checkpoints of the authors, in every form that their state dict takes (weights of tests/parity)."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lerobot_lara.moto_gpt.decoding import decode_latents
from lerobot_lara.moto_gpt.model import Conditions

CONVERTER = Path(__file__).parents[2] / "hub" / "convert_reference_moto_gpt.py"
spec = importlib.util.spec_from_file_location("convert_reference_moto_gpt", CONVERTER)
assert spec is not None and spec.loader is not None
converter = importlib.util.module_from_spec(spec)
spec.loader.exec_module(converter)
build, convert = converter.build, converter.convert

GOLDEN = Path(__file__).parents[1] / "parity" / "golden" / "moto_gpt_tiny"
CASES = json.loads(GOLDEN.with_suffix(".json").read_text())["cases"]
SIZES = {"num_heads": 4, "latent_steps": 2, "num_latent_tokens": 4, "dropout": 0.0}
ACTING = {"act_decoded": "cofinetune_half", "act_masked": "cofinetune_half"}
NAMED = [*(name for name, case in CASES.items() if "grad_norms" in case), *ACTING]


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN.with_suffix(".safetensors"))


@pytest.fixture
def conditions(golden):
    return Conditions(
        language=golden["in/language_features"],
        language_mask=golden["in/language_mask"],
        patches=golden["in/patch_features"],
        summary=golden["in/cls_feature"],
    )


def checkpoint(golden, case):
    """The state dict as the authors save it: with unused parts and the buffers of their GPT-2."""
    weights = {name: golden[name] for name in CASES[ACTING.get(case, case)]["grad_norms"]}
    for block in range(3):
        attention = f"model_causal_transformer.h.{block}.attn"
        weights[f"{attention}.bias"] = torch.ones(1, 1, 64, 64, dtype=torch.uint8).tril()
        weights[f"{attention}.masked_bias"] = torch.tensor(-1e4)
    return weights


def test_there_are_nine_cases():
    assert len(NAMED) == 9


@pytest.mark.parametrize("case", NAMED)
def test_outputs_are_the_authors(golden, conditions, case):
    model = build(checkpoint(golden, case), **SIZES)
    ids, options = golden["in/latent_ids"], {"latent_valid": golden["in/latent_mask"].bool()}
    if f"{case}/in/motion_visible" in golden:
        options["latent_visible"] = golden[f"{case}/in/motion_visible"].bool()
    if case in ACTING:
        options = {"latent_visible": torch.full((3, 2), case == "act_decoded")}
    if f"{case}/gen/greedy" in golden:
        decoded = decode_latents(model, conditions)
        assert torch.equal(decoded, golden[f"{case}/gen/greedy"])
        ids = decoded if case in ACTING else ids
    with torch.no_grad():
        logits, actions = model(conditions, ids, **options)
    if f"{case}/out/latent_logits" in golden:
        torch.testing.assert_close(logits, golden[f"{case}/out/latent_logits"], atol=2e-5, rtol=0)
    expected = [golden[name] for name in (f"{case}/out/arm", f"{case}/out/gripper") if name in golden]
    assert len(expected) == (0 if actions is None else 2)
    if actions is not None:
        torch.testing.assert_close(actions, torch.cat(expected, dim=-1), atol=2e-5, rtol=0)


@pytest.mark.parametrize("case", ["pretrain", "cofinetune_half"])
def test_what_enters_and_leaves_the_backbone_is_the_authors(golden, conditions, case):
    model = build(checkpoint(golden, case), **SIZES)
    seen = {}
    model.backbone.h[0].register_forward_pre_hook(lambda _, args: seen.update(inputs_embeds=args[0]))
    model.backbone.register_forward_hook(
        lambda *given: seen.update(last_hidden_state=given[-1].last_hidden_state)
    )
    visible = golden.get(f"{case}/in/motion_visible")
    with torch.no_grad():
        model(
            conditions,
            golden["in/latent_ids"],
            latent_valid=golden["in/latent_mask"].bool(),
            latent_visible=None if visible is None else visible.bool(),
        )
    for name, value in seen.items():
        torch.testing.assert_close(value, golden[f"{case}/mid/{name}"], atol=2e-5, rtol=0)
    assert len(seen) == 2


def test_sizes_are_read_off_the_weights(golden):
    model = build(checkpoint(golden, "cofinetune_half_embeddings"), **SIZES | {"dropout": 0.2})
    assert not model.training and model.backbone.drop.p == 0.2
    assert (model.codebook_size, model.actions_per_step, model.action_dim) == (16, 3, 7)
    assert model.step_embedding.shape == (2, 48) and model.latent_position_embedding.shape == (5, 48)
    assert build(checkpoint(golden, "pretrain"), **SIZES).actions_per_step == 0
    assert build(checkpoint(golden, "action_only"), **SIZES).block_tokens == 0


def test_keys_behind_a_prefix(golden):
    weights = checkpoint(golden, "cofinetune_half")
    wrapped = {f"policy.{name}": value for name, value in weights.items()} | {"optimizer.step": torch.ones(1)}
    expected = convert(weights)
    found = convert(wrapped, prefix="policy.")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_checkpoints_that_do_not_fit_are_refused(golden):
    weights = checkpoint(golden, "cofinetune_half_embeddings")
    with pytest.raises(ValueError, match=r"^model_lang\.shared\.weight is no weight of a Moto-GPT"):
        convert(weights | {"model_lang.shared.weight": torch.ones(1)})
    with pytest.raises(ValueError, match="`latent_steps` is 4, which does not fit"):
        build(checkpoint(golden, "cofinetune_half"), **SIZES | {"latent_steps": 4})
    with pytest.raises(ValueError, match="`latent_steps` is 3, which does not fit"):
        build(weights, **SIZES | {"latent_steps": 3})
    with pytest.raises(ValueError, match="`num_latent_tokens` is 8, which does not fit"):
        build(weights, **SIZES | {"num_latent_tokens": 8})
    for name, ours in (("embed_img.weight", "embed_summary.weight"), ("embed_ln.bias", "embed_norm.bias")):
        rest = {key: value for key, value in weights.items() if key != name}
        with pytest.raises(ValueError, match=f"The checkpoint lacks {ours}"):
            build(rest, **SIZES)
