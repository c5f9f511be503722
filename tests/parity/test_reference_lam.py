"""Equality with the authors' latent motion tokenizer, run on tiny random weights (golden/lam_tiny*)."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lerobot_lara.lam.latent_action_model import LatentActionModel

GOLDEN = Path(__file__).parent / "golden"
CONVERTER = Path(__file__).parents[2] / "hub" / "convert_reference_lam.py"
QUERY = "m_former.encoder.layer.0.attention.attention.query.weight"
POOLING = "decoder.transformer.embeddings.query_pooling_layer.weight"
CODEBOOK = "vector_quantizer.embedding.weight"

spec = importlib.util.spec_from_file_location("convert_reference_lam", CONVERTER)
assert spec is not None and spec.loader is not None
converter = importlib.util.module_from_spec(spec)
spec.loader.exec_module(converter)


class StoredStates(nn.Module):
    """Returns the stored encoder states of both frames, in the order in which frames are encoded."""

    def __init__(self, golden: dict[str, Tensor]) -> None:
        super().__init__()
        pair = [golden["in/cond_hidden_states"], golden["in/target_hidden_states"]]
        self.states = torch.stack(pair, dim=1).flatten(0, 1)
        self.num_tokens, self.width, self.frozen = *self.states.shape[1:], True

    def forward(self, images: Tensor) -> Tensor:
        return self.states


def load(name: str) -> tuple[dict[str, Tensor], dict[str, Tensor], bool]:
    """Golden tensors, the reference's weights among them, and its MFormer's `legacy` flag."""
    golden = load_file(GOLDEN / f"{name}.safetensors")
    config = json.loads((GOLDEN / f"{name}.json").read_text())["config"]
    weights = {key: value for key, value in golden.items() if "/" not in key}
    return golden, weights, config["m_former_config"]["config"]["legacy"]


def build(golden: dict[str, Tensor], weights: dict[str, Tensor], *, legacy: bool) -> LatentActionModel:
    converted = converter.convert(weights)
    settings = converter.infer_settings(
        converted, image_size=32, idm_num_heads=4, fdm_num_heads=4, shared_frame_type=legacy
    )
    model = converter.build(converted, settings)
    model.frame_encoder = StoredStates(golden)
    return model


def frames_of(golden: dict[str, Tensor]) -> Tensor:
    return torch.stack([golden["in/cond_pixel_values"], golden["in/target_pixel_values"]], dim=1)


def assert_equal(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["lam_tiny", "lam_tiny_legacy"])
def test_outputs_match_the_reference(name: str) -> None:
    golden, weights, legacy = load(name)
    model = build(golden, weights, legacy=legacy)
    output = model(frames_of(golden))
    assert_equal(output.latent_action, golden["out/embed"])
    assert_equal(output.quantized_latent_action, golden["out/quant"])
    assert torch.equal(output.code_indices, golden["out/indices"])
    assert output.metrics["live_codes"] == golden["out/active_code_num"].item()
    assert_equal(output.prediction, golden["out/recons_pixel_values"])
    assert_equal(output.losses["quantizer_loss"], golden["out/commit_loss"])
    assert_equal(output.losses["reconstruction_loss"], golden["out/recons_loss"])
    assert_equal(output.loss, golden["out/loss"])
    up = model.forward_dynamics.latent_projection(output.quantized_latent_action)
    assert_equal(up, golden["out/latent_motion_tokens_up"])

    latent = model.indices_to_latent(golden["out/indices"])
    assert_equal(
        model.decode(golden["in/cond_pixel_values"], latent), golden["out/decode_image_pixel_values"]
    )
    encoded = model.encode(frames_of(golden))
    assert torch.equal(encoded.latent_action, output.latent_action)


@pytest.mark.parametrize("name", ["lam_tiny", "lam_tiny_legacy"])
def test_gradients_match_the_reference(name: str) -> None:
    golden, weights, legacy = load(name)
    model = build(golden, weights, legacy=legacy)
    model(frames_of(golden)).loss.backward()
    gradients = {key: parameter.grad for key, parameter in model.named_parameters()}
    for reference in (QUERY, POOLING, CODEBOOK):
        [own] = converter.convert({reference: weights[reference]})
        assert_equal(gradients[own], golden[f"grad/{reference}"])

    # The norm of every gradient, key biases aside: theirs is zero up to rounding.
    norms = json.loads((GOLDEN / f"{name}.json").read_text())["grad_norms"]
    reference_norms = {}
    for key, norm in norms.items():
        if not key.endswith((".key.weight", ".key.bias", ".value.weight", ".value.bias")):
            [own] = converter.convert({key: weights[key]})
            reference_norms[own] = norm
    assert len(reference_norms) == len(gradients) - 2 * 5
    for own, norm in reference_norms.items():
        assert gradients[own].norm().item() == pytest.approx(norm, rel=1e-4, abs=1e-6), own


@pytest.mark.parametrize("name", ["lam_tiny", "lam_tiny_legacy"])
def test_the_other_type_embedding_does_not_match(name: str) -> None:
    golden, weights, legacy = load(name)
    output = build(golden, weights, legacy=not legacy)(frames_of(golden))
    assert (output.latent_action - golden["out/embed"]).abs().max() > 0.1


def test_conversion_is_strict() -> None:
    golden, weights, legacy = load("lam_tiny")
    with pytest.raises(ValueError, match=r"Unknown key 'm_former.pooler.dense.weight'"):
        converter.convert(weights | {"m_former.pooler.dense.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="Unknown key"):
        converter.convert({QUERY.replace("query.weight", "rotary.weight"): torch.zeros(1)})
    without_value = {
        key: value for key, value in weights.items() if not key.endswith("0.attention.attention.value.bias")
    }
    with pytest.raises(ValueError, match=r"no forward_dynamics.*value\.bias"):
        converter.convert(without_value)
    for missing in (
        "m_former.embeddings.position_embeddings",
        "vq_down_resampler.2.bias",
        "decoder.transformer.layernorm.weight",
    ):
        with pytest.raises(ValueError, match=r"Missing key|lack"):
            build(golden, {key: value for key, value in weights.items() if key != missing}, legacy=legacy)
    extra_block = {
        key.replace("layer.2", "layer.3"): value for key, value in weights.items() if "layer.2" in key
    }
    with pytest.raises(ValueError, match="Missing key"):  # three blocks, numbered 0, 1, 3
        build(
            golden,
            {key: value for key, value in weights.items() if "layer.2" not in key} | extra_block,
            legacy=legacy,
        )


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_command_writes_a_policy_directory(tmp_path: Path, suffix: str) -> None:
    from lerobot.policies.factory import make_pre_post_processors

    from lerobot_lara.lam.modeling_lara_lam import LaraLAMPolicy

    golden, weights, legacy = load("lam_tiny")
    # As part of a larger model, with frozen parts that are not copied.
    stored = {f"tokenizer.{key}": value for key, value in weights.items()} | {
        "tokenizer.image_encoder.anything": torch.zeros(1),
        "backbone.weight": torch.zeros(1),
    }
    source = tmp_path / f"reference{suffix}"
    if suffix == ".bin":
        torch.save(stored, source)
    else:
        save_file(stored, source)
    encoder = tiny_vit(tmp_path / "encoder")
    arguments = (
        f"--prefix tokenizer. --frame-encoder {encoder} --image-size 32 --num-heads 4 --no-shared-frame-type"
    )
    converter.main([str(source), str(tmp_path / "lam"), *arguments.split()])

    model = LatentActionModel.from_pretrained(tmp_path / "lam")
    assert model.settings.shared_frame_type is legacy
    model.frame_encoder = StoredStates(golden)
    assert_equal(model.encode(frames_of(golden)).latent_action, golden["out/embed"])
    policy = LaraLAMPolicy.from_pretrained(tmp_path / "lam")
    assert torch.equal(policy.model.inverse_dynamics.position, model.inverse_dynamics.position)
    make_pre_post_processors(policy.config, tmp_path / "lam")
    with pytest.raises(ValueError, match="exists"):
        converter.main([str(source), str(tmp_path / "lam"), *arguments.split()])


def tiny_vit(directory: Path) -> Path:
    """A ViT with the fixture's geometry: 16 patches and CLS, width 24."""
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=8,
    )
    ViTModel(config, add_pooling_layer=False).save_pretrained(directory)
    return directory
