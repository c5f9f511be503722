"""Image and text encoders with the options that most tests do not care about."""

from typing import Any

import torch

from lerobot_lara.backbones import encoders


def image_encoder(name: str, **options: Any) -> encoders.ImageEncoder:
    defaults = {"width": 128, "layer": None, "frozen": True, "normalize": True, "field": "vision_encoder"}
    return encoders.build_image_encoder(name, **{"dtype": torch.float32} | defaults | options)


def text_encoder(name: str) -> encoders.TextEncoder:
    return encoders.build_text_encoder(name, frozen=True, field="text_encoder")
