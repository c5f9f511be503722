"""Reads weights of the authors' Moto-GPT (TencentARC/Moto, Apache-2.0) into `MotoGPT`.

    model = build(state_dict, num_heads=12, latent_steps=2, num_latent_tokens=8, dropout=0.1)

Their checkpoints also hold constants (the causal masks of all blocks), a token embedding that is never used, and parts
of what a model does not predict: action heads after pre-training, the embedding of codes in a model without latent
tokens. These are left out. The frozen encoders of words and images are no part of them; that of images gives patches
and a summary. There is no state, and the gripper is the last dimension of the action.

Legend: T latent steps, L latent tokens of a step, K actions of a step, D width.
"""

import re

from torch import Tensor

from lerobot_lara.moto_gpt.model import MotoGPT

BACKBONE = "model_causal_transformer."
UNUSED = re.compile(rf"{re.escape(BACKBONE)}(h\.\d+\.attn\.(bias|masked_bias)|wte\.weight)")
NAMES = {
    "embed_lang": "embed_language",
    "embed_patch": "embed_patch",
    "embed_img": "embed_summary",
    "embed_ln": "embed_norm",
    "embed_latent_motion": "embed_latent",
    "pred_latent_motion_head": "latent_head",
    "pred_act_mlps.0": "action_mlp.0",
    "pred_act_mlps.1": "action_mlp.1",
    "pred_arm_act": "arm_head",
    "pred_gripper_act": "gripper_head",
}
# Embeddings of one row, which are vectors here, and of several.
VECTORS = {
    "embed_condition.weight": "embed_condition",
    "latent_motion_queries.weight": "latent_query",
    "action_queries.weight": "action_query",
}
TABLES = {
    "action_chunk_queries.weight": "chunk_queries",
    "embed_timestep.weight": "step_embedding",
    "embed_latent_motion_pos.weight": "latent_position_embedding",
}
OF_LATENTS = ("latent_query", "embed_latent.", "latent_position_embedding")
OF_ACTIONS = ("action_query", "action_mlp.", "arm_head.", "gripper_head.")


def convert(state_dict: dict[str, Tensor], *, prefix: str = "") -> dict[str, Tensor]:
    """Renames the authors' weights, and leaves out those that their model has but does not use.

    Args:
        state_dict: The authors'.
        prefix: In front of its keys, where it is part of a larger model; other keys are left out.

    Returns:
        The weights by their names in `MotoGPT`.

    Raises:
        ValueError: For a key that is no part of a Moto-GPT.
    """
    converted = {}
    for key, value in state_dict.items():
        name = key.removeprefix(prefix)
        if not key.startswith(prefix) or UNUSED.fullmatch(name):
            continue
        module, _, parameter = name.rpartition(".")
        if name in VECTORS:
            converted[VECTORS[name]] = value[0]
        elif name in TABLES:
            converted[TABLES[name]] = value
        elif module in NAMES:
            converted[f"{NAMES[module]}.{parameter}"] = value
        elif name.startswith(BACKBONE):
            converted["backbone." + name.removeprefix(BACKBONE)] = value
        else:
            raise ValueError(
                f"{key} is no weight of a Moto-GPT. Pass the authors' state dict without their encoders of words and "
                "images, or the `prefix` of its keys."
            )
    if "latent_head.weight" not in converted:
        converted = _without(converted, OF_LATENTS)
    return converted if "chunk_queries" in converted else _without(converted, OF_ACTIONS)


def build(
    state_dict: dict[str, Tensor],
    *,
    num_heads: int,
    latent_steps: int,
    num_latent_tokens: int,
    dropout: float,
    prefix: str = "",
) -> MotoGPT:
    """Loads the authors' weights strictly into a model whose other sizes are read off them.

    Args:
        state_dict: See `convert`.
        num_heads: Attention heads; 12 in the released models.
        latent_steps: T; 2 in the released models.
        num_latent_tokens: L; 8 in the released models.
        dropout: See `MotoGPT`; 0.1 in the authors' training.
        prefix: See `convert`.

    Returns:
        The model, in eval mode.

    Raises:
        ValueError: For a key that is no part of a Moto-GPT, weights that are missing, or sizes that do not fit them.
    """
    weights = convert(state_dict, prefix=prefix)
    has_actions, has_latents = "chunk_queries" in weights, "latent_head.weight" in weights
    rows = {name: len(weights[name]) for name in TABLES.values() if name in weights}
    if (
        rows.get("chunk_queries", 0) % latent_steps
        or rows.get("step_embedding", latent_steps) != latent_steps
    ):
        raise ValueError(
            f"`latent_steps` is {latent_steps}, which does not fit the rows of the authors' action_chunk_queries or "
            f"embed_timestep: {rows}. Pass the number of steps that the checkpoint was trained with."
        )
    if rows.get("latent_position_embedding", 1 + num_latent_tokens) != 1 + num_latent_tokens:
        raise ValueError(
            f"`num_latent_tokens` is {num_latent_tokens}, which does not fit the rows of the authors' "
            f"embed_latent_motion_pos: {rows}. Pass their number less one."
        )
    width, language_width = _shape(weights, "embed_language.weight")
    model = MotoGPT(
        language_width=language_width,
        patch_width=_shape(weights, "embed_patch.weight")[1],
        num_patches=None,
        summary_width=_shape(weights, "embed_summary.weight")[1],
        state_width=None,
        width=width,
        num_layers=sum(name.endswith(".ln_1.weight") for name in weights),
        num_heads=num_heads,
        latent_steps=latent_steps,
        num_latent_tokens=num_latent_tokens,
        codebook_size=_shape(weights, "latent_head.weight")[0] if has_latents else 1,
        codebook_per_token=False,
        actions_per_step=len(weights["chunk_queries"]) // latent_steps if has_actions else 0,
        action_dim=1 + _shape(weights, "arm_head.weight")[0] if has_actions else 1,
        gripper_index=-1 if has_actions else None,
        step_embeddings="step_embedding" in weights,
        latent_position_embeddings="latent_position_embedding" in weights,
        predict_latents=has_latents,
        dropout=dropout,
    ).eval()
    lacking = sorted(model.state_dict().keys() - weights.keys())
    if lacking:
        raise ValueError(
            f"The checkpoint lacks {', '.join(lacking)} (by our names). Pass all of its weights."
        )
    model.load_state_dict(weights)
    return model


def _without(weights: dict[str, Tensor], parts: tuple[str, ...]) -> dict[str, Tensor]:
    return {name: value for name, value in weights.items() if not name.startswith(parts)}


def _shape(weights: dict[str, Tensor], name: str) -> tuple[int, ...]:
    if name not in weights:
        raise ValueError(f"The checkpoint lacks {name} (by our name). Pass all of its weights.")
    return tuple(weights[name].shape)
