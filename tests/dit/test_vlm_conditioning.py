"""Conditioning on a vision-language model, with a tiny random one of every supported family."""

import json

import pytest
import torch
from lerobot.policies.factory import make_pre_post_processors
from support.helpers import run_eval, run_train
from support.policies import TINY, fake_batch, features, wake
from support.tiny_datasets import make_tiny_dataset
from support.tiny_vlms import FAMILIES, IMAGE_SIZE, IMAGE_TOKENS, NUM_LAYERS, save_tiny_vlm

from lerobot_lara.backbones.vision_language import (
    InstructionPrompt,
    image_options,
    image_size_of,
    load_processor,
    load_vision_language_model,
)
from lerobot_lara.dit.configuration_lara_dit import LaraDiTConfig
from lerobot_lara.dit.modeling_lara_dit import LaraDiTPolicy
from lerobot_lara.dit.vlm_conditioning import VLMObservationEncoder

CAMERAS = ("observation.images.front", "observation.images.wrist")


@pytest.fixture(scope="module")
def vlms(tmp_path_factory):
    root = tmp_path_factory.mktemp("vlms")
    return {family: save_tiny_vlm(family, root / family) for family in FAMILIES}


def make_prompt(vlms, family="smolvlm", **options):
    defaults = {"num_cameras": 2, "image_size": IMAGE_SIZE[family], "max_length": 16}
    return InstructionPrompt(vlms[family], **defaults | options)


def make_encoder(vlms, family="smolvlm", **options):
    torch.manual_seed(0)
    defaults = {"layer": 2, "num_cameras": 2, "image_size": IMAGE_SIZE[family], "dtype": torch.float32}
    defaults |= {"num_trained_layers": 0, "lora_rank": 0, "num_self_attention_layers": 0, "dropout": 0.0}
    return VLMObservationEncoder(vlms[family], **defaults | options)


def run(encoder, prompt, instructions=("push the red square", "open drawer"), images=None, **options):
    inputs = prompt(list(instructions))
    inputs["attention_mask"] = inputs["attention_mask"].bool()
    if images is None:
        generator = torch.Generator().manual_seed(3)
        images = [torch.rand(len(instructions), 3, 40, 48, generator=generator) for _ in range(2)]
    return encoder(images, **inputs, **options)


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_state_is_that_of_the_whole_model(vlms, family):
    """Building fewer layers changes nothing: the context is the whole model's hidden state, before the adapter."""
    import transformers

    size, prompt = IMAGE_SIZE[family], make_prompt(vlms, family)
    encoder = make_encoder(vlms, family)
    encoder.adapter.norm = torch.nn.Identity()
    pixels = torch.randint(256, (2, 2, 3, size, size))
    images = pixels / 255
    context, mask = run(encoder, prompt, images=list(images.unbind(1)))
    assert len(encoder.model.get_decoder().layers) == 2 < NUM_LAYERS

    whole = transformers.AutoModelForImageTextToText.from_pretrained(vlms[family]).eval()
    processor = load_processor(vlms[family])
    pixels = processor.image_processor(
        list(pixels.byte().flatten(0, 1)),
        return_tensors="pt",
        **image_options(processor.image_processor, size),
    )
    pixels = {key: value for key, value in pixels.items() if key in ("pixel_values", "image_grid_thw")}
    with torch.no_grad():
        output = whole.model(
            **prompt(["push the red square", "open drawer"]), **pixels, output_hidden_states=True
        )
    expected = output.hidden_states[2]
    torch.testing.assert_close(context[mask], expected[mask], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_camera_and_the_instruction_are_seen(vlms, family):
    encoder, prompt = make_encoder(vlms, family), make_prompt(vlms, family)
    images = [torch.rand(1, 3, 40, 48), torch.rand(1, 3, 64, 32)]  # cameras of unequal sizes
    context, mask = run(encoder, prompt, ["push the red square"], images)
    is_image = prompt(["push the red square"])["input_ids"] == encoder.model.config.image_token_id
    assert is_image.sum() == 2 * IMAGE_TOKENS[family] and mask.all()
    for other in ([torch.rand(1, 3, 40, 48), images[1]], [images[0], torch.rand(1, 3, 64, 32)], images[::-1]):
        assert (run(encoder, prompt, ["push the red square"], other)[0] - context).abs().max() > 1e-4
    text = run(encoder, prompt, ["push the red robot"], images)[0]
    assert (text - context).abs().max() > 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_and_neighbors_change_nothing(vlms, family):
    encoder, prompt = make_encoder(vlms, family, num_self_attention_layers=1), make_prompt(vlms, family)
    images = [torch.rand(2, 3, 32, 32) for _ in range(2)]
    both, mask = run(encoder, prompt, ["open drawer", "push the red square to goal"], images)
    alone, mask_alone = run(encoder, prompt, ["open drawer"], [image[:1] for image in images])
    assert mask_alone.all() and mask[0].sum() == mask_alone.sum() < mask.shape[1]
    torch.testing.assert_close(both[0][mask[0]], alone[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_missing_camera_is_not_seen(vlms, family):
    encoder, prompt = make_encoder(vlms, family, num_self_attention_layers=1), make_prompt(vlms, family)
    images = [torch.rand(2, 3, 32, 32) for _ in range(2)]
    valid = torch.tensor([[True, False], [True, True]])
    first, mask = run(encoder, prompt, images=images, image_valid=valid)
    assert (~mask[0]).sum() == IMAGE_TOKENS[family]  # the first instruction is the longer one
    images[1] = images[1].clone()
    images[1][0] = torch.rand(3, 32, 32)
    second, _ = run(encoder, prompt, images=images, image_valid=valid)
    torch.testing.assert_close(first[mask], second[mask])
    images[1][1] = torch.rand(3, 32, 32)
    third, _ = run(encoder, prompt, images=images, image_valid=valid)
    assert (third[1][mask[1]] - second[1][mask[1]]).abs().max() > 1e-4


def test_frozen_weights_stay_out_of_checkpoints(vlms):
    encoder = make_encoder(vlms)
    assert all(key.startswith("adapter.") for key in encoder.state_dict())
    context, _ = run(encoder, make_prompt(vlms))
    context.sum().backward()
    assert all(parameter.grad is None for parameter in encoder.model.parameters())


@pytest.mark.parametrize("options", [{}, {"vlm_trained_layers": 1}, {"vlm_lora_rank": 2}])
def test_fsdp_shards_the_blocks_outside_of_the_model(vlms, options):
    from accelerate.utils import FullyShardedDataParallelPlugin

    policy = make_vlm_policy(vlms, vlm_self_attention_layers=1, **options)
    plugin = FullyShardedDataParallelPlugin(auto_wrap_policy="transformer_based_wrap")
    plugin.set_auto_wrap_policy(policy)
    names = {one.__name__ for one in plugin.auto_wrap_policy.keywords["transformer_layer_cls"]}
    assert names == {"DiTBlock", "BasicTransformerBlock"}


@pytest.mark.parametrize("options", [{"num_trained_layers": 1}, {"lora_rank": 2}])
def test_trained_parts_learn_and_are_saved(vlms, options):
    encoder, prompt = make_encoder(vlms, **options), make_prompt(vlms)
    before = {name: value.clone() for name, value in encoder.model.named_parameters()}
    trained = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.05)
    for _ in range(2):  # the first step moves LoRA's B only
        context, _ = run(encoder, prompt)
        context[..., 0].square().mean().backward()
        gradients = [p.grad for p in encoder.model.parameters() if not p.requires_grad]
        assert gradients and all(gradient is None for gradient in gradients)
        optimizer.step()
        optimizer.zero_grad()
    changed = {
        name for name, value in encoder.model.named_parameters() if not torch.equal(value, before[name])
    }
    if "lora_rank" in options:
        assert changed and all("lora_" in name for name in changed)
    else:
        assert changed and all(".layers.1." in name for name in changed)
    again = make_encoder(vlms, **options)
    again.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(run(again, prompt)[0], run(encoder, prompt)[0])
    assert sum(value.numel() for value in encoder.state_dict().values()) < sum(
        v.numel() for v in before.values()
    )


def test_reduced_precision_is_for_a_frozen_model(vlms):
    assert make_encoder(vlms, dtype=torch.bfloat16).model.dtype == torch.bfloat16
    assert make_encoder(vlms, dtype=torch.bfloat16, num_trained_layers=1).model.dtype == torch.float32
    reduced, mask = run(make_encoder(vlms, dtype=torch.bfloat16), make_prompt(vlms))
    full, _ = run(make_encoder(vlms), make_prompt(vlms))
    assert reduced.dtype == torch.float32
    assert (reduced - full)[mask].abs().max() < 0.1


def test_random_weights_are_decided_by_the_name(vlms):
    models = [load_vision_language_model(f"random:{vlms['smolvlm']}", layer=None)[0] for _ in range(2)]
    first, second = (dict(model.named_parameters()) for model in models)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_long_instructions_are_cut_off(vlms):
    short = make_prompt(vlms, max_length=2)(["push the"])["input_ids"]
    assert torch.equal(make_prompt(vlms, max_length=2)(["push the red square"])["input_ids"], short)


def test_empty_instruction_is_refused(vlms):
    with pytest.raises(ValueError, match="`task` is empty"):
        make_prompt(vlms)(["push the red square", "  "])


def test_layer_beyond_the_model_is_refused(vlms):
    with pytest.raises(ValueError, match=r"`vlm_layer` is 5, but .* 0 \(its input\) to 4"):
        load_vision_language_model(vlms["smolvlm"], layer=5)
    with pytest.raises(ValueError, match="`vlm_trained_layers` is 3, but only 2 layers"):
        make_encoder(vlms, num_trained_layers=3)


def test_model_without_images_is_refused(tmp_path):
    import transformers

    config = transformers.LlamaConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="'llama' model, which takes no images"):
        load_vision_language_model(str(tmp_path), layer=None)


def test_unknown_model_is_refused():
    with pytest.raises(ValueError, match="`vlm` is 'nobody/nothing', which cannot be loaded"):
        load_vision_language_model("nobody/nothing", layer=None)


@pytest.mark.parametrize(
    ("family", "size"),
    [("smolvlm", 16), ("smolvlm", 24), ("smolvlm", 64), ("paligemma", 40), ("qwen2_5_vl", 50)],
)
def test_image_size_that_the_model_does_not_take_is_refused(vlms, family, size):
    with pytest.raises(ValueError, match=f"`vlm_image_size` is {size}"):
        make_encoder(vlms, family, image_size=size)


def test_more_cameras_than_configured_are_refused(vlms):
    with pytest.raises(ValueError, match=r"3 cameras and prompts with .* expects 2 cameras of 4"):
        run(make_encoder(vlms), make_prompt(vlms), images=[torch.rand(2, 3, 32, 32)] * 3)
    with pytest.raises(ValueError, match=r"2 cameras and prompts with \[12\] image tokens"):
        run(make_encoder(vlms), make_prompt(vlms, num_cameras=3))


def test_image_size_is_that_of_the_model_unless_chosen(vlms):
    assert (
        image_size_of("smolvlm2-500m") == image_size_of("HuggingFaceTB/SmolVLM2-500M-Video-Instruct") == 512
    )
    assert image_size_of(vlms["smolvlm"]) == image_size_of(f"random:{vlms['paligemma']}") == 32
    assert image_size_of(vlms["qwen3_vl"]) == 224
    assert image_size_of("smolvlm2-500m", chosen=32) == image_size_of(vlms["qwen3_vl"], chosen=32) == 32


def test_gradient_checkpointing_reaches_what_is_trained_of_the_model(vlms):
    """The adapter's blocks and the layers with low-rank adapters run twice, with the same gradients."""
    options = {"vlm_lora_rank": 2, "vlm_self_attention_layers": 1, "vlm_layer": 2}
    gradients, calls = [], []
    for checkpointing in (False, True):
        policy = wake(make_vlm_policy(vlms, gradient_checkpointing=checkpointing, **options))
        inside = [policy.observation_encoder.adapter.blocks[0].attn1]
        inside.append(policy.observation_encoder.model.get_decoder().layers[0].self_attn)
        for module in inside:
            module.register_forward_hook(lambda *_: calls.append(1))
        preprocessor, _ = make_pre_post_processors(policy.config)
        batch = preprocessor(fake_batch(2, CAMERAS) | {"task": ["open drawer", "push the red square"]})
        torch.manual_seed(3)
        policy.train()(batch)[0].backward()
        gradients.append({name: p.grad for name, p in policy.named_parameters() if p.grad is not None})
        assert len(calls) == (2 if not checkpointing else 6)
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-6, rtol=1e-4, msg=name)


def test_a_dataset_without_instruction_is_refused_before_training(vlms, tmp_path):
    root = make_tiny_dataset(tmp_path / "data", num_episodes=2, task=["open drawer", " "])
    flags = {"policy__conditioning": "vlm", "policy__vlm": vlms["smolvlm"], "policy__vlm_image_size": 32}
    with pytest.raises(ValueError, match="`task` is empty"):
        run_train(policy__type="lara_dit", dataset__root=root, output_dir=tmp_path / "out", **flags)
    assert not (tmp_path / "out" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"conditioning": "vllm"}, "`conditioning` is 'vllm'"),
        ({"conditioning": "vlm", "vlm_lora_rank": -1}, "`vlm_lora_rank` is -1"),
        ({"conditioning": "vlm", "vlm_image_size": 0}, "`vlm_image_size` is 0"),
        ({"conditioning": "vlm", "vlm_lora_rank": 2, "vlm_trained_layers": 2}, "not both"),
        ({"vlm": "qwen3-vl-2b"}, "`vlm` is 'qwen3-vl-2b', but `conditioning` is 'encoders'"),
        ({"vlm_layer": 3}, "`vlm_layer` is 3, but `conditioning` is 'encoders'"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LaraDiTConfig(**options)


def make_vlm_policy(vlms, family="smolvlm", **options):
    torch.manual_seed(0)
    vlm = {"conditioning": "vlm", "vlm": vlms[family], "vlm_layer": 2, "vlm_image_size": IMAGE_SIZE[family]}
    config = LaraDiTConfig(**TINY | features(CAMERAS) | vlm | options)
    return LaraDiTPolicy(config)


@pytest.mark.parametrize("family", FAMILIES)
def test_policy_learns_and_acts(vlms, family, tmp_path):
    policy = wake(make_vlm_policy(vlms, family))
    preprocessor, postprocessor = make_pre_post_processors(policy.config)
    batch = preprocessor(fake_batch(2, CAMERAS) | {"task": ["open drawer", "push the red square to goal"]})
    loss, _ = policy(batch)
    loss.backward()
    gradients = [parameter.grad is not None for parameter in policy.parameters() if parameter.requires_grad]
    assert all(gradients)
    noise = torch.randn(2, 8, 4)
    chunk = policy.predict_action_chunk(batch, noise=noise)
    other = preprocessor(fake_batch(2, CAMERAS) | {"task": ["open robot", "push the red square to goal"]})
    assert (policy.predict_action_chunk(other, noise=noise)[0] - chunk[0]).abs().max() > 1e-5
    for part in (policy, preprocessor, postprocessor):
        part.save_pretrained(tmp_path)
    again = LaraDiTPolicy.from_pretrained(tmp_path)
    reloaded, _ = make_pre_post_processors(again.config, pretrained_path=str(tmp_path))
    batch = reloaded(fake_batch(2, CAMERAS) | {"task": ["open drawer", "push the red square to goal"]})
    torch.testing.assert_close(again.predict_action_chunk(batch, noise=noise), chunk)
    assert not any("model" in key for key in again.state_dict())


@pytest.mark.e2e
def test_the_three_types_train_and_act_with_a_vlm(vlms, tmp_path):
    """LAM, DiT and LARA through LeRobot's train(), and the policies on to its eval."""
    root = make_tiny_dataset(tmp_path / "data", num_frames=16)
    tiny = {name: TINY[name] for name in ("width", "num_layers", "num_heads", "chunk_size", "n_action_steps")}
    vlm = {"conditioning": "vlm", "vlm": vlms["smolvlm"], "vlm_layer": 2, "vlm_image_size": 32} | tiny
    flags = {f"policy__{name}": value for name, value in vlm.items()}
    lam = {"policy__image_size": 32, "policy__prediction_size": 16, "policy__frame_gap": 3}
    stage1 = run_train(policy__type="lara_lam", dataset__root=root, output_dir=tmp_path / "lam", **lam)
    dit = run_train(policy__type="lara_dit", dataset__root=root, output_dir=tmp_path / "dit", **flags)
    lara = run_train(
        policy__type="lara",
        policy__lam_path=stage1.checkpoint,
        policy__frame_gap=3,
        dataset__root=root,
        output_dir=tmp_path / "lara",
        **flags,
    )
    for run_ in (dit, lara):
        assert all(torch.isfinite(torch.tensor(run_.values("flow_loss"))))
        steps = json.loads((run_.checkpoint / "policy_preprocessor.json").read_text())["steps"]
        assert any(step.get("registry_name") == "lara_vlm_prompt_processor" for step in steps)
        pytest.importorskip("metaworld")
        info = run_eval(
            policy__path=run_.checkpoint,
            env__task="reach-v3",
            env__image_size=32,
            env__episode_length=10,
            output_dir=tmp_path / f"eval_{run_.output_dir.name}",
        )
        assert info["overall"]["pc_success"] == 0 and info["overall"]["n_episodes"] == 1
