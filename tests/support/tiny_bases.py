"""Every policy that can be aligned, tiny and with random weights, built offline as from a user's flags.

Networks that the policies look for under a fixed name on the Hub are put into the cache of `HF_HOME`. pi0 and pi0.5
have two sizes only: `tiny_gemma` puts a third in their place.
"""

import importlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from lerobot.configs import FeatureType, PolicyFeature
from support import tiny_vlms

CHUNK = 8
COMMON: dict[str, Any] = {"chunk_size": CHUNK, "n_action_steps": 4, "device": "cpu", "push_to_hub": False}
PADDED = {"max_state_dim": 6, "max_action_dim": 6}
CAMERA = "observation.images.front"
# Pixels per side of the images.
SIZE = {"groot": 64, "xvla": 64, "vla_jepa": 64, "wall_x": 64}
NAMES = (
    "smolvla",
    "pi0",
    "pi05",
    "groot",
    "groot_n16",
    "multi_task_dit",
    "xvla",
    "vla_jepa",
    "evo1",
    "wall_x",
)


def base_options(name: str, folder: Path) -> dict[str, Any]:
    """Options of a tiny base, after writing what they name.

    Args:
        name: One of `NAMES`.
        folder: Has to stay while the policy and its checkpoints are in use.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return _MAKE[name](folder)


def features(size: int, cameras: tuple[str, ...] = (CAMERA,)) -> dict[str, Any]:
    """Features of a robot with cameras, a state and an action of 4 dimensions."""
    return {
        "input_features": {camera: PolicyFeature(FeatureType.VISUAL, (3, size, size)) for camera in cameras}
        | {"observation.state": PolicyFeature(FeatureType.STATE, (4,))},
        "output_features": {"action": PolicyFeature(FeatureType.ACTION, (4,))},
    }


@contextmanager
def tiny_gemma() -> Iterator[None]:
    """Lets pi0 and pi0.5 be built tiny: their sizes are fixed in code, but for these."""
    import transformers as tf

    class Gemma:
        width, depth, mlp_dim, num_heads, num_kv_heads, head_dim = 32, 4, 32, 8, 1, 8

    class SiglipVisionConfig(tf.SiglipVisionConfig):  # the policies set its sizes after it is made
        def __setattr__(self, name, value):
            super().__setattr__(name, {"projection_dim": 32, "intermediate_size": 32}.get(name, value))

    def paligemma():
        vision = SiglipVisionConfig(
            hidden_size=24,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
            vision_use_head=False,
        )
        text = tf.GemmaConfig(hidden_size=32, num_hidden_layers=4)
        return tf.PaliGemmaConfig(projection_dim=32, text_config=text, vision_config=vision)

    tf.AutoModel.register(SiglipVisionConfig, tf.SiglipVisionModel, exist_ok=True)
    mapping = {"gemma": tf.GemmaConfig, "paligemma": paligemma}
    modules = [
        importlib.import_module(f"lerobot.policies.{name}.modeling_{name}") for name in ("pi0", "pi05")
    ]
    with mock.patch.multiple(modules[0], get_gemma_config=lambda variant: Gemma(), CONFIG_MAPPING=mapping):
        with mock.patch.multiple(
            modules[1], get_gemma_config=lambda variant: Gemma(), CONFIG_MAPPING=mapping
        ):
            yield


def _tokenizer(named: dict[str, str] | None = None, more: tuple[str, ...] = ()) -> Any:
    """Words of the tiny vision-language models; named tokens become attributes, such as `image_token`."""
    import transformers as tf
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<pad>", "<unk>", "<bos>", "<eos>", *tiny_vlms.WORDS]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = tf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
        extra_special_tokens=named or {},
    )
    if more:
        fast.add_special_tokens({"additional_special_tokens": list(more)})
    return fast


def _into_hub_cache(repo_id: str) -> Path:
    """The folder where an offline look-up of a Hub id finds its files."""
    home = Path(os.environ["HF_HOME"], "hub", "models--" + repo_id.replace("/", "--"))
    snapshot = home / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True, exist_ok=True)
    (home / "refs").mkdir(exist_ok=True)
    (home / "refs" / "main").write_text("0" * 40)
    return snapshot


def _smolvla(folder: Path) -> dict[str, Any]:
    import transformers as tf

    tokenizer = _tokenizer(
        {
            "image_token": "<image>",
            "fake_image_token": "<fake_token_around_image>",
            "global_image_token": "<global-img>",
            "end_of_utterance_token": "<end_of_utterance>",
        }
    )
    images = tf.SmolVLMImageProcessor(size={"longest_edge": 128}, max_image_size={"longest_edge": 32})
    chat = tiny_vlms.CHAT.replace("IMAGE", "<image>")
    tf.SmolVLMProcessor(
        images, tokenizer, tf.SmolVLMVideoProcessor(), image_seq_len=4, chat_template=chat
    ).save_pretrained(folder)
    vision = {
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    text = tiny_vlms.TEXT | {"model_type": "llama", "vocab_size": len(tokenizer), "pad_token_id": 0}
    tf.SmolVLMConfig(
        vision_config=vision,
        text_config=text,
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    ).save_pretrained(folder)
    options = {"vlm_model_name": str(folder), "num_vlm_layers": 4, "resize_imgs_with_padding": (32, 32)}
    return options | PADDED | COMMON | features(32)


def _pi(folder: Path) -> dict[str, Any]:
    snapshot = _into_hub_cache("google/paligemma-3b-pt-224")
    _tokenizer().save_pretrained(snapshot)
    (snapshot / "config.json").write_text('{"model_type": "paligemma"}')
    return {"image_resolution": (32, 32), "tokenizer_max_length": 24} | PADDED | COMMON | features(32)


def _qwen3_vl(folder: Path) -> str:
    return tiny_vlms.save_tiny_vlm("qwen3_vl", folder / "qwen3vl")


def _groot(folder: Path) -> dict[str, Any]:
    from lerobot.policies.groot.groot_n1_7 import GR00TN17, GR00TN17Config

    backbone = _qwen3_vl(folder)
    snapshot = _into_hub_cache("nvidia/Cosmos-Reason2-2B")
    for file in Path(backbone).iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, snapshot)
    heads = {"positional_embeddings": None, "num_attention_heads": 2, "dropout": 0.2, "final_dropout": True}
    dit = {
        "num_layers": 4,
        "attention_head_dim": 8,
        "norm_type": "ada_norm",
        "output_dim": 16,
        "interleave_self_attention": True,
    }
    config = GR00TN17Config(
        model_name=backbone,
        backbone_model_type="qwen",
        backbone_embedding_dim=32,
        select_layer=2,
        model_dtype="float32",
        dtype="float32",
        action_horizon=CHUNK,
        hidden_size=16,
        input_embedding_dim=16,
        max_seq_len=32,
        vl_self_attention_cfg=heads | {"num_layers": 1, "attention_head_dim": 16},
        diffusion_model_cfg=heads | dit,
        **PADDED,
    )
    torch.manual_seed(0)
    # In shards, as released: LeRobot takes a single file for a checkpoint of its own.
    model = GR00TN17(config, load_backbone_weights=False)
    model.save_pretrained(folder / "groot", max_shard_size="200KB")
    return (
        {"base_model_path": str(folder / "groot"), "use_bf16": False}
        | PADDED
        | COMMON
        | features(SIZE["groot"])
    )


def _groot_n16(folder: Path) -> dict[str, Any]:
    from support import tiny_groot_n16

    tokenizer = tiny_groot_n16.save_tokenizer(folder)
    return tiny_groot_n16.tiny_settings(tokenizer) | features(32)


def _multi_task_dit(folder: Path) -> dict[str, Any]:
    import transformers as tf

    clip = folder / "tiny-clip"  # its name must contain "clip"
    tokenizer = _tokenizer()
    small = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "projection_dim": 16,
    }
    text = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 77,
        "eos_token_id": 3,
        "bos_token_id": 2,
        "pad_token_id": 0,
    }
    torch.manual_seed(0)
    tf.CLIPModel(
        tf.CLIPConfig(
            projection_dim=16,
            vision_config=small | {"image_size": 32, "patch_size": 8},
            text_config=small | text,
        )
    ).save_pretrained(clip)
    tokenizer.save_pretrained(clip)
    sizes = {"hidden_dim": 16, "num_layers": 4, "num_heads": 2, "timestep_embed_dim": 16}
    return (
        {
            "vision_encoder_name": str(clip),
            "text_encoder_name": str(clip),
            "objective": "flow_matching",
            "horizon": CHUNK,
            "n_action_steps": 4,
            "image_crop_shape": (32, 32),
            "num_integration_steps": 4,
            "device": "cpu",
            "push_to_hub": False,
        }
        | sizes
        | features(32)
    )


def _xvla(folder: Path) -> dict[str, Any]:
    _tokenizer().save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "bart"}')
    bart = {
        f"{side}_{name}": value
        for side in ("encoder", "decoder")
        for name, value in {"layers": 1, "attention_heads": 2, "ffn_dim": 16}.items()
    }
    text = {"model_type": "bart", "vocab_size": 64, "d_model": 16, "max_position_embeddings": 256}
    vision = {
        "in_channels": 3,
        "depths": [1, 1, 1, 1],
        "patch_size": [7, 3, 3, 3],
        "patch_stride": [4, 2, 2, 2],
        "patch_padding": [3, 1, 1, 1],
        "patch_prenorm": [False, True, True, True],
        "embed_dim": [8, 16, 16, 16],
        "num_heads": [2, 2, 2, 2],
        "num_groups": [2, 2, 2, 2],
        "window_size": 2,
        "projection_dim": 16,
        "drop_path_rate": 0.1,
        "max_position_embeddings": 50,
        "max_temporal_embeddings": 100,
    }
    florence = {
        "image_token_id": 63,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "text_config": bart | text,
        "vision_config": vision,
    }
    sizes = {"hidden_size": 16, "depth": 4, "num_heads": 2, "num_domains": 2, "len_soft_prompts": 2}
    named = {
        "tokenizer_name": str(folder),
        "tokenizer_max_length": 8,
        "action_mode": "auto",
        "max_len_seq": 64,
    }
    return {"florence_config": florence} | sizes | named | PADDED | COMMON | features(SIZE["xvla"])


def _vla_jepa(folder: Path) -> dict[str, Any]:
    return (
        {
            "qwen_model_name": _qwen3_vl(folder),
            "enable_world_model": False,  # which would need V-JEPA 2
            "torch_dtype": "float32",
            "action_model_type": "DiT-test",
            "action_hidden_size": 16,
            "action_num_layers": 4,
            "num_video_frames": 4,
            "prompt_template": "push {actions} {e_actions}",
            "repeated_diffusion_steps": 2,
            "num_embodied_action_tokens_per_instruction": 4,
            "num_action_tokens_per_timestep": 2,
        }
        | COMMON
        | features(SIZE["vla_jepa"])
    )


def _evo1(folder: Path) -> dict[str, Any]:
    import transformers as tf

    tokenizer = _tokenizer(
        {"image_token": "<IMG_CONTEXT>", "start_image_token": "<img>", "end_image_token": "</img>"}
    )
    text = {k: v for k, v in tiny_vlms.TEXT.items() if k != "head_dim"}
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": [32, 32],
        "patch_size": [8, 8],
    }
    torch.manual_seed(0)
    tf.InternVLModel(
        tf.InternVLConfig(
            text_config=text | {"model_type": "qwen2", "vocab_size": len(tokenizer)},
            vision_config=vision,
            image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
            image_seq_length=4,
            downsample_ratio=0.5,
        )
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    vlm = {
        "vlm_model_name": str(folder),
        "vlm_num_layers": 2,
        "vlm_dtype": "float32",
        "use_flash_attn": False,
        "use_amp": False,
    }
    sizes = {"embed_dim": 32, "hidden_dim": 16, "state_hidden_dim": 16, "num_heads": 2, "num_layers": 4}
    rest = {"image_resolution": (32, 32), "max_views": 1, "num_inference_timesteps": 2}
    return vlm | sizes | rest | PADDED | COMMON | features(32)


def _wall_x(folder: Path) -> dict[str, Any]:
    import transformers as tf
    from lerobot.policies.wall_x.modeling_wall_x import Qwen2_5_VLMoEForAction
    from lerobot.policies.wall_x.qwen_model import Qwen2_5_VLConfig
    from safetensors.torch import save_file

    names = ("im_start", "im_end", "vision_start", "vision_end", "image_pad", "video_pad", "action", "propri")
    tokenizer = _tokenizer(more=tuple(f"<|{name}|>" for name in names))
    processor = tf.Qwen2_5_VLProcessor(
        tf.Qwen2VLImageProcessor(patch_size=14, min_pixels=784, max_pixels=3136),
        tokenizer,
        tf.Qwen2VLVideoProcessor(patch_size=14),
        chat_template="x",
    )
    expert = {"hidden_size": 32, "intermediate_size": 48, "hidden_act": "silu"}
    tokens = {
        "image": "image_pad",
        "video": "video_pad",
        "vision_start": "vision_start",
        "vision_end": "vision_end",
    }
    ids = {f"{k}_token_id": tokenizer.convert_tokens_to_ids(f"<|{v}|>") for k, v in tokens.items()}
    vision = {
        "depth": 1,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_heads": 2,
        "out_hidden_size": 32,
        "patch_size": 14,
        "window_size": 56,
        "fullatt_block_indexes": [0],
    }
    text = {k: v for k, v in tiny_vlms.TEXT.items() if k != "head_dim"} | {
        "max_position_embeddings": 1024,
        "vocab_size": len(tokenizer),
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
        "pad_token_id": 0,
        "num_experts": 2,
        "mlp_moe": True,
        "dim_inputs": [32, 32],
        "experts": [expert, expert],
        "dof_config": {"arm": 20},
    }
    config = Qwen2_5_VLConfig(agent_pos_config={"arm": 20}, vision_config=vision, text_config=text, **ids)
    config.save_pretrained(folder)
    processor.save_pretrained(folder)
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    state = Qwen2_5_VLMoEForAction(config, processor=processor).state_dict()
    save_file({key: value.clone() for key, value in state.items()}, folder / "model.safetensors")
    return {"pretrained_name_or_path": str(folder)} | COMMON | features(SIZE["wall_x"])


_MAKE = {
    "smolvla": _smolvla,
    "pi0": _pi,
    "pi05": _pi,
    "groot": _groot,
    "groot_n16": _groot_n16,
    "multi_task_dit": _multi_task_dit,
    "xvla": _xvla,
    "vla_jepa": _vla_jepa,
    "evo1": _evo1,
    "wall_x": _wall_x,
}
