"""Converts the action head of the LARA reference (github.com/lmy1001/LARA), with its vision-language blocks.

    weights = convert(state_dict, chunk_size=16)
    head, context_adapter = build(weights, num_heads=32, context_num_heads=32, ignore_context_mask=True)

The keys that begin with `action_head.` are then those of a `lara` policy with `action_head: gr00t`,
those with `alignment.alignment_head.` its projector's, and those with `observation_encoder.adapter.` those of the
layers after its vision-language model (`conditioning: vlm`).
Every key must be known and none may be missing.
"""

import re

import torch
from torch import Tensor, nn

from lerobot_lara.dit.alternating_head import AlternatingActionHead
from lerobot_lara.dit.context_adapter import ContextAdapter

HEAD, ADAPTER, ALIGNMENT = "action_head", "observation_encoder.adapter", "alignment.alignment_head"
BLOCKS = f"{HEAD}.blocks"
POSITIONS = "position_embedding.weight"
NAMES = {
    "model.timestep_encoder.timestep_embedder": f"{HEAD}.time_embedding.mlp",
    "model.transformer_blocks": BLOCKS,
    "model.proj_out_1": f"{HEAD}.output_norm.linear",
    "model.proj_out_2": f"{HEAD}.output_projection",
    "state_encoder.layer1": f"{HEAD}.state_encoder.input",
    "state_encoder.layer2": f"{HEAD}.state_encoder.output",
    "action_encoder.W1": f"{HEAD}.action_encoder.projection",
    "action_encoder.W2": f"{HEAD}.action_encoder.mlp.input",
    "action_encoder.W3": f"{HEAD}.action_encoder.mlp.output",
    "action_decoder.layer1": f"{HEAD}.action_decoder.input",
    "action_decoder.layer2": f"{HEAD}.action_decoder.output",
    POSITIONS: f"{HEAD}.positions",
    "vlln": f"{ADAPTER}.norm",
    "vl_self_attention.transformer_blocks": f"{ADAPTER}.blocks",
    "pred_latent_motion_head": ALIGNMENT,
}
BLOCK_NAMES = {"norm1": "attention_norm", "attn1": "attention", "ff": "feed_forward"}
ENDINGS = {"W": "weight", "b": "bias"}


def convert(state_dict: dict[str, Tensor], *, chunk_size: int, prefix: str = "") -> dict[str, Tensor]:
    """Renames the reference's weights, cuts its positions to the chunk and puts its scales and shifts in our order.

    Args:
        state_dict: The reference's.
        chunk_size: Steps per action chunk; the reference has more positions than steps, and never trains the rest.
        prefix: In front of the head's keys, when it is part of a larger model; other keys are left out.

    Returns:
        The weights by their names here.

    Raises:
        ValueError: For a key that is no part of an action head, or too few positions.
    """
    converted = {}
    for key, value in state_dict.items():
        if not key.startswith(prefix):
            continue
        key = key.removeprefix(prefix)
        if key == POSITIONS:
            if len(value) < chunk_size:
                raise ValueError(
                    f"`chunk_size` is {chunk_size}, but {key} has {len(value)} rows. Lower `chunk_size`."
                )
            value = value[None, :chunk_size]
        elif key.startswith("model.transformer_blocks.") and ".norm1.linear." in key:
            scale, shift = value.chunk(2)
            value = torch.cat([shift, scale])
        converted[_rename(key)] = value
    return converted


def build(
    weights: dict[str, Tensor], *, num_heads: int, context_num_heads: int, ignore_context_mask: bool
) -> tuple[AlternatingActionHead, ContextAdapter]:
    """Loads converted weights strictly into modules whose sizes are read off them.

    The reference has no null state: ours keeps its random initialization.

    Args:
        weights: As `convert` returns them.
        num_heads: Attention heads of the action head.
        context_num_heads: Attention heads of the context adapter.
        ignore_context_mask: Attend to padded context tokens too; the reference does.

    Returns:
        The action head and the context adapter, in eval mode and without dropout.

    Raises:
        ValueError: For missing, unknown or misshapen weights.
    """
    num_embodiments, action_dim, width = _shape(weights, f"{HEAD}.action_encoder.projection.weight")
    _, state_dim, projection_width = _shape(weights, f"{HEAD}.state_encoder.input.weight")
    context_width = _shape(weights, f"{BLOCKS}.0.attention.to_k.weight")[1]
    head = AlternatingActionHead(
        action_dim=action_dim,
        state_dim=state_dim,
        chunk_size=_shape(weights, f"{HEAD}.positions")[1],
        width=width,
        projection_width=projection_width,
        num_layers=_num_blocks(weights, BLOCKS),
        num_heads=num_heads,
        context_width=context_width,
        num_embodiments=num_embodiments,
        dropout=0.0,
        state_dropout=0.0,
        ignore_context_mask=ignore_context_mask,
    )
    adapter = ContextAdapter(
        width=context_width,
        num_layers=_num_blocks(weights, f"{ADAPTER}.blocks"),
        num_heads=context_num_heads,
        dropout=0.0,
    )
    _load(head, HEAD, {f"{HEAD}.null_state": head.null_state} | weights)
    _load(adapter, ADAPTER, weights)
    return head.eval(), adapter.eval()


def _rename(key: str) -> str:
    for reference, own in NAMES.items():
        if key == reference or key.startswith(f"{reference}."):
            rest = key[len(reference) :]
            if own == BLOCKS:
                block = re.fullmatch(r"\.(\d+)\.(\w+)(\..+)", rest)
                if block is None or block[2] not in BLOCK_NAMES:
                    break
                rest = f".{block[1]}.{BLOCK_NAMES[block[2]]}{block[3]}"
            stem, dot, ending = rest.rpartition(".")
            return f"{own}{stem}{dot}{ENDINGS.get(ending, ending)}"
    raise ValueError(f"Unknown key {key!r}: it is no part of the reference's action head.")


def _shape(weights: dict[str, Tensor], name: str) -> torch.Size:
    if name not in weights:
        raise ValueError(f"The weights lack {name} (as it is called here).")
    return weights[name].shape


def _num_blocks(weights: dict[str, Tensor], blocks: str) -> int:
    numbers = [int(key.removeprefix(f"{blocks}.").split(".")[0]) for key in weights if key.startswith(blocks)]
    return 1 + max(numbers, default=-1)


def _load(module: nn.Module, part: str, weights: dict[str, Tensor]) -> None:
    own = {
        key.removeprefix(f"{part}."): value for key, value in weights.items() if key.startswith(f"{part}.")
    }
    try:
        module.load_state_dict(own)
    except RuntimeError as error:
        raise ValueError(f"The weights are not those of the reference's {part}. {error}") from error
