"""Sizes of the released GR00T N1.6 (3B), by the names that transformers, LeRobot and NVIDIA's config.json use.

NVIDIA's config.json has those of the action head. The backbone's it names only ("nvidia/Eagle-Block2A-2B-v2").
"""

from typing import Any


def vision_config() -> dict[str, Any]:
    """SigLIP2 so400m with patches of 14 pixels, at any image size and aspect ratio (`Siglip2VisionConfig`)."""
    return {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "num_patches": 256,
        "patch_size": 14,
    }


def text_config() -> dict[str, Any]:
    """Qwen3-1.7B with a vocabulary of 151,680 tokens (`Qwen3Config`); only its first layers are built."""
    return {
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151680,
        "max_position_embeddings": 40960,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
    }


def head_config() -> dict[str, Any]:
    """What LeRobot's `GR00TN17Config` has of the action head, except for what the policy's own fields say."""
    return {
        "hidden_size": 1024,
        "input_embedding_dim": 1536,
        "max_seq_len": 1024,
        "max_num_embodiments": 32,
        "add_pos_embed": True,
        "use_vlln": True,
        "use_alternate_vl_dit": True,
        "attend_text_every_n_blocks": 2,
        "noise_beta_alpha": 1.5,
        "noise_beta_beta": 1.0,
        "noise_s": 0.999,
        "num_timestep_buckets": 1000,
        "diffusion_model_cfg": {
            "positional_embeddings": None,
            "num_layers": 32,
            "num_attention_heads": 32,
            "attention_head_dim": 48,
            "norm_type": "ada_norm",
            "dropout": 0.2,
            "final_dropout": True,
            "output_dim": 1024,
            "interleave_self_attention": True,
        },
    }


def embodiment_ids() -> dict[str, int]:
    """Rows of the released head's per-embodiment weights."""
    return {
        "oxe_google": 0,
        "oxe_widowx": 1,
        "libero_panda": 2,
        "unitree_g1": 8,
        "new_embodiment": 10,
        "robocasa_panda_omron": 13,
        "oxe_droid": 16,
        "gr1": 20,
        "behavior_r1_pro": 24,
    }
