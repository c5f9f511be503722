"""Compilation, gradient checkpointing, shared and reduced-precision encoders, fused AdamW: same results."""

import functools

import pytest
import torch
from support.encoders import image_encoder
from support.policies import CAMERA, TINY_LAM, fake_batch, loss_of, make_lara, make_policy, pair_batch, wake

from lerobot_lara.lam.configuration_lara_lam import LaraLAMConfig
from lerobot_lara.lam.latent_action_model import LatentActionModel
from lerobot_lara.lam.modeling_lara_lam import LaraLAMPolicy
from lerobot_lara.modeling_lara import LaraPolicy
from lerobot_lara.training.config import FusedAdamWConfig

VIT = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 8,
}


@pytest.fixture
def lam_path(tmp_path):
    torch.manual_seed(0)
    LatentActionModel.from_config(**TINY_LAM).save_pretrained(tmp_path / "lam")
    return str(tmp_path / "lam")


@pytest.fixture
def vit(tmp_path):
    import transformers

    torch.manual_seed(0)
    transformers.ViTModel(transformers.ViTConfig(**VIT), add_pooling_layer=False).save_pretrained(
        tmp_path / "vit"
    )
    return str(tmp_path / "vit")


def train(policy, batch):
    """Loss, log and gradients of one step."""
    loss, log = loss_of(policy, batch)
    loss.backward()
    return loss, log, {name: p.grad for name, p in policy.named_parameters() if p.grad is not None}


def assert_equal(first, second):
    torch.testing.assert_close(first[0], second[0], atol=1e-5, rtol=1e-5)
    assert first[1].keys() == second[1].keys()
    for name, value in first[1].items():
        assert value == pytest.approx(second[1][name], rel=1e-3, abs=1e-5), name
    assert first[2].keys() == second[2].keys()
    for name, gradient in first[2].items():
        torch.testing.assert_close(gradient, second[2][name], atol=1e-5, rtol=1e-3, msg=name)


def count_calls(module):
    calls = []
    module.register_forward_hook(lambda *_: calls.append(1))
    return calls


def test_gradient_checkpointing_changes_nothing_but_computes_twice(lam_path):
    options = {"alignment_target": "joint"}
    plain = train(make_lara(lam_path, **options), pair_batch())
    policy = make_lara(lam_path, gradient_checkpointing=True, **options)
    blocks = [policy.action_head.blocks[1], policy.lam.blocks[0], policy.lam.blocks[-1]]
    inside = [blocks[0].self_attention, blocks[1].attention, blocks[2].attention]
    calls = [count_calls(module) for module in inside]
    assert_equal(plain, train(policy, pair_batch()))
    assert [len(calls_) for calls_ in calls] == [2, 2, 2]


def test_gradient_checkpointing_leaves_checkpoints_and_acting_alone(lam_path, tmp_path):
    policy = make_lara(lam_path, gradient_checkpointing=True)
    plain = make_lara(lam_path)
    assert policy.state_dict().keys() == plain.state_dict().keys()
    batch, noise = fake_batch(2), torch.randn(2, 8, 4)
    chunks = [one.predict_action_chunk(batch, noise=noise) for one in (policy, plain)]
    torch.testing.assert_close(*chunks)


@pytest.fixture
def compiled_graphs(monkeypatch):
    """Lets `Module.compile` trace for real, with a backend that counts its graphs instead of a C++ compiler."""
    from torch._dynamo.backends.debugging import aot_eager

    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return aot_eager(graph, inputs)

    compile_ = functools.partialmethod(torch.nn.Module.compile, backend=backend)
    monkeypatch.setattr(torch.nn.Module, "compile", compile_)
    torch._dynamo.reset()
    yield graphs
    torch._dynamo.reset()


def test_compiled_policy_and_lam_give_the_same(lam_path, compiled_graphs):
    """Also the alignment, whose tap is a hook inside the compiled network."""
    options = {"alignment_target": "joint"}
    plain = train(make_lara(lam_path, **options), pair_batch())
    assert not compiled_graphs
    policy = make_lara(lam_path, compile_model=True, **options)
    assert_equal(plain, train(policy, pair_batch()))
    assert len(compiled_graphs) >= 3, "action head, inverse and forward dynamics"
    again = loss_of(policy, pair_batch())[1]
    assert again["alignment_loss"] == pytest.approx(plain[1]["alignment_loss"], rel=1e-3)
    noise = torch.randn(2, 8, 4)
    torch.testing.assert_close(
        policy.predict_action_chunk(fake_batch(2), noise=noise),
        make_lara(lam_path, **options).predict_action_chunk(fake_batch(2), noise=noise),
        atol=1e-5,
        rtol=1e-4,
    )
    assert policy.state_dict().keys() == make_lara(lam_path, **options).state_dict().keys()


def test_compiled_and_checkpointed_together(lam_path, compiled_graphs):
    plain = train(make_lara(lam_path), pair_batch())
    policy = make_lara(lam_path, compile_model=True, gradient_checkpointing=True)
    assert_equal(plain, train(policy, pair_batch()))
    assert compiled_graphs


@pytest.mark.parametrize("freeze_lam", [False, True])
def test_policy_and_lam_share_the_features_of_one_frozen_encoder(vit, tmp_path, freeze_lam):
    torch.manual_seed(0)
    lam = TINY_LAM | {"frame_encoder": vit, "freeze_frame_encoder": True}
    LatentActionModel.from_config(**lam).save_pretrained(tmp_path / "lam")
    options = {"vision_encoder": vit, "freeze_lam": freeze_lam}
    policy = make_lara(str(tmp_path / "lam"), **options)
    backbone = policy.observation_encoder.image_encoder.backbone
    assert policy.lam.frame_encoder.backbone is backbone
    rows = []
    backbone.module.register_forward_hook(lambda module, inputs, output: rows.append(len(inputs[0])))
    shared = train(policy, pair_batch(6))
    assert rows == [12], "both frames of the six samples, once"

    apart = make_lara(str(tmp_path / "lam"), **options)
    apart._shares_encoder = False
    assert_equal(shared, train(apart, pair_batch(6)))


def test_unlike_encoders_are_not_shared(vit, lam_path, tmp_path):
    assert not make_lara(lam_path, vision_encoder=vit)._shares_encoder
    assert not make_lara(lam_path)._shares_encoder, "trained encoders have weights of their own"
    lam = TINY_LAM | {"frame_encoder": vit, "freeze_frame_encoder": True, "image_size": 64}
    LatentActionModel.from_config(**lam).save_pretrained(tmp_path / "lam_64")
    assert not make_lara(str(tmp_path / "lam_64"), vision_encoder=vit)._shares_encoder


def test_frozen_encoder_in_reduced_precision(vit):
    images = torch.rand(2, 3, 32, 32)
    reduced = image_encoder(vit, image_size=32, dtype=torch.bfloat16)
    assert {p.dtype for p in reduced.backbone.module.parameters()} == {torch.bfloat16}
    tokens, full = reduced(images), image_encoder(vit, image_size=32)(images)
    assert tokens.dtype == torch.float32
    assert 0 < (tokens - full).abs().max() < 0.1
    trained = image_encoder(vit, image_size=32, frozen=False, dtype=torch.bfloat16)
    assert {p.dtype for p in trained.parameters()} == {torch.float32}
    policy = wake(make_policy(vision_encoder=vit, dtype="bfloat16", fresh=True))
    assert policy.observation_encoder.image_encoder.dtype == torch.bfloat16
    assert torch.isfinite(
        policy.predict_action_chunk({CAMERA: images, "observation.state": torch.randn(2, 3)})
    ).all()


def test_fused_adamw_steps_like_adamw():
    preset = make_policy().config.get_optimizer_preset()
    assert isinstance(preset, FusedAdamWConfig) and preset.type == "lara_adamw"
    weights = [torch.nn.Parameter(torch.ones(4)) for _ in range(2)]
    options = {name: getattr(preset, name) for name in ("lr", "betas", "eps", "weight_decay")}
    plain = torch.optim.AdamW([weights[1]], **options)
    optimizers = [preset.build([weights[0]]), plain]
    assert optimizers[0].defaults["fused"]
    for _ in range(3):
        for weight, optimizer in zip(weights, optimizers, strict=True):
            weight.grad = torch.tensor([1.0, -2.0, 0.5, 0.0])
            optimizer.step()
    torch.testing.assert_close(*weights)
    assert not torch.equal(weights[0], torch.ones(4))


def test_a_policy_loaded_to_act_is_not_compiled(lam_path, tmp_path, compiled_graphs):
    make_lara(lam_path, compile_model=True, gradient_checkpointing=True).save_pretrained(tmp_path / "policy")
    policy = LaraPolicy.from_pretrained(tmp_path / "policy")
    assert policy.config.compile_model and policy.config.gradient_checkpointing
    policy.predict_action_chunk(fake_batch(2))
    assert not compiled_graphs


def test_every_policy_names_the_blocks_that_fsdp_shards(lam_path):
    """accelerate refuses names of classes that a policy does not have."""
    from accelerate.utils import FullyShardedDataParallelPlugin

    lam = LaraLAMPolicy(LaraLAMConfig(**TINY_LAM, device="cpu", push_to_hub=False))
    gr00t = make_policy(action_head="gr00t", action_patch_size=1)
    for policy in (lam, make_policy(), gr00t, make_lara(lam_path)):
        plugin = FullyShardedDataParallelPlugin(auto_wrap_policy="transformer_based_wrap")
        plugin.set_auto_wrap_policy(policy)
        classes = plugin.auto_wrap_policy.keywords["transformer_layer_cls"]
        assert {type(module) for module in policy.modules()} >= classes
        assert len(classes) == (2 if policy.name == "lara" else 1)
