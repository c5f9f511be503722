"""A tiny GR00T N1.6 with random weights: configuration, tokenizer, and a folder in the layout of NVIDIA's release."""

import json
from pathlib import Path
from typing import Any

import torch
from lerobot.configs import FeatureType, PolicyFeature
from safetensors.torch import save_file
from support.tiny_vlms import WORDS

from lerobot_lara.groot_n16.configuration_groot_n16 import GrootN16Config

CAMERA = "observation.image"
STATE_DIM = ACTION_DIM = 4
HORIZON, CHUNK = 10, 8
# Sizes in the order of the vocabulary below: the first token that is added to it.
SPECIAL = ("<|im_start|>", "<|im_end|>", "<image", "1>", "2>")
IMAGE_TOKEN_ID = 4 + len(WORDS) + len(SPECIAL)
VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_patches": 16,
    "patch_size": 4,
}
TEXT = {
    "hidden_size": 20,
    "intermediate_size": 24,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "vocab_size": IMAGE_TOKEN_ID + 3,
    "max_position_embeddings": 256,
}
HEAD = {
    "hidden_size": 12,
    "input_embedding_dim": 16,
    "max_seq_len": 16,
    "max_num_embodiments": 4,
    "diffusion_model_cfg": {
        "positional_embeddings": None,
        "num_layers": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "norm_type": "ada_norm",
        "dropout": 0.2,
        "final_dropout": True,
        "output_dim": 12,
        "interleave_self_attention": True,
    },
}
IDS = {"known_robot": 1, "new_embodiment": 3}


def save_tokenizer(folder: Path) -> str:
    """Writes a tokenizer of a few words; returns the folder's name."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<unk>", "<bos>", "<eos>", *WORDS, *SPECIAL]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")
    fast.add_special_tokens({"additional_special_tokens": list(SPECIAL[:2])})
    fast.save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "qwen3"}')
    return str(folder)


def tiny_settings(tokenizer: str) -> dict[str, Any]:
    """Fields of the tiny configuration, also as flags of `run_train`."""
    return {
        "chunk_size": CHUNK,
        "n_action_steps": 2,
        "action_horizon": HORIZON,
        "max_state_dim": 6,
        "max_action_dim": 5,
        "embodiment_ids": IDS,
        "tokenizer": tokenizer,
        "image_token_id": IMAGE_TOKEN_ID,
        "shortest_image_edge": 24,
        "select_layer": 2,
        "tune_top_llm_layers": 1,
        "vision_config": VISION,
        "text_config": TEXT,
        "head_config": HEAD,
        "dtype": "float32",
        "device": "cpu",
        "push_to_hub": False,
    }


def tiny_config(tokenizer: str, *, size: int | tuple[int, int] = 32, **changes: Any) -> GrootN16Config:
    """The configuration of a robot with one camera and four joints."""
    height, width = (size, size) if isinstance(size, int) else size
    features = {
        "input_features": {
            CAMERA: PolicyFeature(FeatureType.VISUAL, (3, height, width)),
            "observation.state": PolicyFeature(FeatureType.STATE, (STATE_DIM,)),
        },
        "output_features": {"action": PolicyFeature(FeatureType.ACTION, (ACTION_DIM,))},
    }
    return GrootN16Config(**tiny_settings(tokenizer) | features | changes)


def fake_stats() -> dict[str, dict[str, torch.Tensor]]:
    """Statistics of a dataset: values from -1 to 3."""
    low, high = torch.full((4,), -1.0), torch.full((4,), 3.0)
    one = {"min": low, "max": high, "q01": low / 2, "q99": high / 2, "mean": low + 2, "std": high / 3}
    return {"observation.state": one, "action": one}


def write_release(folder: Path, *, model_type: str = "Gr00tN1d6", **changes: Any) -> Path:
    """Writes random weights in two shards with NVIDIA's four JSON files.

    Args:
        model_type: Of config.json.
        **changes: Fields of config.json.
    """
    from lerobot_lara.groot_n16.model import GrootN16Model

    folder.mkdir(parents=True)
    torch.manual_seed(0)
    tensors = GrootN16Model(tiny_config("none")).state_dict()
    names = sorted(tensors)
    shards = {
        "model-00001-of-00002.safetensors": names[: len(names) // 2],
        "model-00002-of-00002.safetensors": names[len(names) // 2 :],
    }
    for file, part in shards.items():
        save_file({name: tensors[name].clone().to(torch.bfloat16) for name in part}, folder / file)
    index = {"metadata": {}, "weight_map": {name: file for file, part in shards.items() for name in part}}
    config = {
        "model_type": model_type,
        "architectures": [model_type],
        "action_horizon": HORIZON,
        "max_state_dim": 6,
        "max_action_dim": 5,
        "select_layer": 2,
        "tune_top_llm_layers": 1,
        "state_dropout_prob": 0.0,
        **HEAD,
        **changes,
    }
    _write(folder / "model.safetensors.index.json", index)
    _write(folder / "config.json", config)
    _write(folder / "embodiment_id.json", IDS)
    _write(
        folder / "processor_config.json",
        {"processor_class": "Gr00tN1d6Processor", "processor_kwargs": PROCESSOR},
    )
    _write(folder / "statistics.json", {"known_robot": STATISTICS})
    return folder


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content))


def _rule(rep: str, state_key: str | None = None) -> dict[str, Any]:
    return {"rep": rep, "type": "NON_EEF", "format": "DEFAULT", "state_key": state_key}


# A robot whose state is (height, 2 angles, gripper) and whose actions are (gripper, 2 relative angles, height).
PROCESSOR: dict[str, Any] = {
    "modality_configs": {
        "known_robot": {
            "video": {"modality_keys": ["image"], "delta_indices": [0]},
            "state": {
                "modality_keys": ["height", "arm", "gripper"],
                "delta_indices": [0],
                "sin_cos_embedding_keys": ["arm"],
                "mean_std_embedding_keys": ["height"],
            },
            "action": {
                "modality_keys": ["gripper", "joints", "height"],
                "delta_indices": list(range(CHUNK)),
                "mean_std_embedding_keys": ["height"],
                "action_configs": [_rule("ABSOLUTE"), _rule("RELATIVE", "arm"), _rule("ABSOLUTE")],
            },
        }
    },
    "use_percentiles": True,
    "clip_outliers": True,
    "apply_sincos_state_encoding": True,
    "use_relative_action": True,
    "shortest_image_edge": 24,
    "crop_fraction": 0.95,
    "formalize_language": True,
    "max_state_dim": 6,
    "max_action_dim": 5,
}


def _statistics(size: int, scale: float = 1.0) -> dict[str, list[float]]:
    values = {"min": -4.0, "max": 4.0, "q01": -2.0, "q99": 2.0, "mean": 1.0, "std": 0.5}
    return {name: [scale * value] * size for name, value in values.items()}


STATISTICS: dict[str, Any] = {
    "state": {"height": _statistics(1), "arm": _statistics(2), "gripper": _statistics(1)},
    "action": {"gripper": _statistics(1), "joints": _statistics(2), "height": _statistics(1)},
    # Ranges that grow along the chunk.
    "relative_action": {
        "joints": {
            name: [[value * (step + 1) for value in values] for step in range(CHUNK)]
            for name, values in _statistics(2, 0.1).items()
        }
    },
}
