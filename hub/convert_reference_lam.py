"""Converts a latent motion tokenizer of the LARA reference (github.com/lmy1001/LARA) into a `lara_lam` directory.

    python hub/convert_reference_lam.py tokenizer.bin converted --frame-encoder facebook/vit-mae-large

Sizes are read off the weights; everything else is an option, whose default is the reference's.
The frozen image encoder and the LPIPS network are named in the configuration, not copied. Every other key must
be known and none may be missing.
"""

import argparse
import re
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lerobot_lara.lam.latent_action_model import LatentActionModel
from lerobot_lara.lam.settings import LatentActionSettings

FROZEN = ("image_encoder.", "loss_fn_lpips.")
IDM, FDM = "inverse_dynamics", "forward_dynamics"
NAMES = {
    "m_former.embeddings.latent_motion_token": f"{IDM}.queries",
    "m_former.embeddings.sep_token": f"{IDM}.separator",
    "m_former.embeddings.position_embeddings": f"{IDM}.position",
    "m_former.embeddings.token_type_embeddings": f"{IDM}.frame_type",
    "m_former.embeddings.projection": f"{IDM}.feature_projection",
    "m_former.encoder.layer": f"{IDM}.transformer.blocks",
    "m_former.layernorm": f"{IDM}.transformer.norm",
    "vq_down_resampler": f"{IDM}.head",
    "vector_quantizer.embedding": "quantizer.codebook",
    "vq_up_resampler": f"{FDM}.latent_projection",
    "decoder.transformer.embeddings.position_embeddings": f"{FDM}.position",
    "decoder.transformer.embeddings.patch_embeddings.projection": f"{FDM}.patch_embedding",
    "decoder.transformer.embeddings.query_pooling_layer": f"{FDM}.latent_pooling",
    "decoder.transformer.encoder.layer": f"{FDM}.transformer.blocks",
    "decoder.transformer.layernorm": f"{FDM}.transformer.norm",
    "decoder.decoder.0": f"{FDM}.pixel_head",
}
BLOCK_NAMES = {
    "attention.attention.query": "attention.query",
    "attention.attention.key": "attention.key",
    "attention.attention.value": "attention.value",
    "attention.output.dense": "attention.output",
    "intermediate.dense": "mlp.0",
    "output.dense": "mlp.2",
    "layernorm_before": "norm",
    "layernorm_after": "mlp_norm",
}


def convert(state_dict: dict[str, Tensor], *, prefix: str = "") -> dict[str, Tensor]:
    """Renames the reference's weights into those of `LatentActionModel` and joins its keys and values.

    Args:
        state_dict: The reference's.
        prefix: In front of the tokenizer's keys, when it is part of a larger model; other keys are left out.

    Raises:
        ValueError: For a key that is no part of a latent motion tokenizer, or an attention key without its value.
    """
    keys = [key for key in state_dict if key.startswith(prefix)]
    converted = {
        _rename(key.removeprefix(prefix)): state_dict[key]
        for key in keys
        if not key.removeprefix(prefix).startswith(FROZEN)
    }
    for key in [key for key in converted if ".attention.key." in key]:
        value = key.replace(".key.", ".value.")
        if value not in converted:
            raise ValueError(f"The weights have {key} but no {value}. Pass a complete checkpoint.")
        converted[key.replace(".key.", ".key_value.")] = torch.cat([converted.pop(key), converted.pop(value)])
    return converted


def infer_settings(weights: dict[str, Tensor], *, image_size: int, **settings: Any) -> LatentActionSettings:
    """Reads the sizes off converted weights.

    Args:
        weights: As `convert` returns them.
        image_size: Side in pixels of the frames the reference was trained on.
        **settings: Any other field of `LatentActionSettings`; defaults are the reference's figures.

    Raises:
        ValueError: If a weight that determines a size is missing.
    """
    _, num_latent_tokens, idm_width = _shape(weights, f"{IDM}.queries")
    codebook_size, latent_dim = _shape(weights, "quantizer.codebook.weight")
    fdm_width, _, patch_size, _ = _shape(weights, f"{FDM}.patch_embedding.weight")
    pixels_per_patch = round((_shape(weights, f"{FDM}.pixel_head.weight")[0] / 3) ** 0.5)
    inferred: dict[str, Any] = {
        "image_size": image_size,
        "prediction_size": image_size // patch_size * pixels_per_patch,
        "num_latent_tokens": num_latent_tokens,
        "latent_dim": latent_dim,
        "codebook_size": codebook_size,
        "idm_width": idm_width,
        "idm_num_layers": _num_blocks(weights, IDM),
        "fdm_width": fdm_width,
        "fdm_num_layers": _num_blocks(weights, FDM),
        "fdm_patch_size": patch_size,
        "mlp_ratio": _shape(weights, f"{IDM}.transformer.blocks.0.mlp.0.weight")[0] / idm_width,
    }
    reference: dict[str, Any] = {
        "frame_gap": 15,
        "frame_encoder": "facebook/vit-mae-large",
        "normalize_frames": False,
        "latent_projection": "tanh_mlp",
        "normalize_latent": False,
        "quantizer": "vq",
        "codebook_update": "gradient",
        "commitment_loss_weight": 1.0,
        "codebook_loss_weight": 0.25,
        "idm_num_heads": 12,
        "fdm_num_heads": 12,
        "layer_norm_eps": 1e-12,
        "shared_frame_type": True,
        "latent_fusion": "add",
        "residual_prediction": False,
        "change_weight": 0.0,
    }
    return LatentActionSettings(**(reference | settings | inferred))


def build(weights: dict[str, Tensor], settings: LatentActionSettings) -> LatentActionModel:
    """Loads converted weights strictly into a model whose frame encoder is left out.

    Args:
        weights: As `convert` returns them.
        settings: As `infer_settings` returns them.

    Raises:
        ValueError: For missing, unknown or misshapen weights.
    """
    num_positions = _shape(weights, f"{IDM}.position")[1]
    encoder = FrameEncoderStub(
        num_tokens=(num_positions - settings.num_latent_tokens - 1) // 2,
        width=_shape(weights, f"{IDM}.feature_projection.weight")[1],
    )
    model = LatentActionModel(settings, frame_encoder=encoder)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"The weights are not those of a latent motion tokenizer. {error}") from error
    return model.eval()


class FrameEncoderStub(nn.Module):
    """Stands in for the frozen frame encoder, so that converting needs none of its weights."""

    frozen = True

    def __init__(self, num_tokens: int, width: int) -> None:
        super().__init__()
        self.num_tokens, self.width = num_tokens, width


def _rename(key: str) -> str:
    for reference, own in NAMES.items():
        if key == reference or key.startswith(f"{reference}."):
            rest = key[len(reference) :]
            block = re.fullmatch(r"\.(\d+)\.(.+)\.(weight|bias)", rest) if own.endswith("blocks") else None
            if block is None:
                return own + rest
            if block[2] in BLOCK_NAMES:
                return f"{own}.{block[1]}.{BLOCK_NAMES[block[2]]}.{block[3]}"
    raise ValueError(f"Unknown key {key!r}: it is no part of the reference's latent motion tokenizer.")


def _shape(weights: dict[str, Tensor], name: str) -> torch.Size:
    if name not in weights:
        raise ValueError(f"The weights lack {name} (as it is called here).")
    return weights[name].shape


def _num_blocks(weights: dict[str, Tensor], part: str) -> int:
    pattern = re.compile(rf"{part}\.transformer\.blocks\.(\d+)\.")
    return 1 + max((int(match[1]) for key in weights if (match := pattern.match(key))), default=-1)


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return load_file(path)
    state_dict = torch.load(path, map_location="cpu", weights_only=True)
    return state_dict.get("state_dict", state_dict)


def main(argv: list[str] | None = None) -> None:
    """Runs the command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    flag = argparse.BooleanOptionalAction
    parser.add_argument("checkpoint", type=Path, help="the reference's .bin, .pt or .safetensors")
    parser.add_argument("output", type=Path, help="directory to create")
    parser.add_argument("--prefix", default="", help="of the tokenizer's keys inside a larger model")
    parser.add_argument("--frame-encoder", default="facebook/vit-mae-large")
    parser.add_argument("--normalize-frames", action=flag, default=False, help="later stages: yes")
    parser.add_argument("--shared-frame-type", action=flag, default=True, help="MFormer's `legacy`")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--frame-gap", type=int, default=15)
    parser.add_argument("--num-heads", type=int, default=12)
    args = parser.parse_args(argv)
    if args.output.exists():
        raise ValueError(f"`output` is {args.output}, which exists; it must be a new directory.")
    weights = convert(_read(args.checkpoint), prefix=args.prefix)
    settings = infer_settings(
        weights,
        image_size=args.image_size,
        frame_gap=args.frame_gap,
        frame_encoder=args.frame_encoder,
        normalize_frames=args.normalize_frames,
        shared_frame_type=args.shared_frame_type,
        idm_num_heads=args.num_heads,
        fdm_num_heads=args.num_heads,
    )
    build(weights, settings).save_pretrained(args.output)

    from lerobot_lara.lam.configuration_lara_lam import LaraLAMConfig
    from lerobot_lara.lam.processor_lara_lam import make_lara_lam_pre_post_processors

    for processor in make_lara_lam_pre_post_processors(LaraLAMConfig(device="cpu")):
        processor.save_pretrained(args.output)


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"error: {error}")
