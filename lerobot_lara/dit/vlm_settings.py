"""Fields of `lara_dit` that concern a vision-language model."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lerobot_lara.training.validation import require_field

if TYPE_CHECKING:
    # The rest of the configuration. At run time the settings have no base: a dataclass would take over LeRobot's fields
    # with LeRobot's defaults, and hide those of what follows in the class statement.
    from lerobot.configs import PreTrainedConfig as BaseConfig
else:
    BaseConfig = object


@dataclass
class VLMSettings(BaseConfig):
    """Conditioning on a vision-language model (VLM), instead of an image and a text encoder.

    Args:
        conditioning: "encoders": `vision_encoder` and `text_encoder`; "vlm": `vlm`, which needs the extra `vlm`.
        vlm: "smolvlm2-256m", "smolvlm2-500m", "qwen3-vl-2b", "qwen2.5-vl-3b", "paligemma-3b", or any image-text-to-text
            model of transformers by Hub id or folder. Frozen parts are named here, not saved.
        vlm_layer: Hidden state of its language model to attend to: 0 is the embedded sequence, i the output of layer i.
            None is the model's default: 15, 16, 12, 18 and 9 in the order above, else half of the layers.
        vlm_image_size: Images are resized to this square, in pixels; None is the model's default: 512 for SmolVLM2,
            else 224.
        vlm_trained_layers: Uppermost layers of the part used that are trained; 0 leaves the VLM frozen.
        vlm_lora_rank: Rank of low-rank adapters (LoRA) in the attention of all layers used; 0 is none.
        vlm_self_attention_layers: Trained self-attention blocks behind the VLM; the paper has 4.
    """

    conditioning: str = "encoders"
    vlm: str = "smolvlm2-500m"
    vlm_layer: int | None = None
    vlm_image_size: int | None = None
    vlm_trained_layers: int = 0
    vlm_lora_rank: int = 0
    vlm_self_attention_layers: int = 0

    def __post_init__(self) -> None:
        # The rest of the configuration, further along the method resolution order.
        super().__post_init__()
        known = self.conditioning in ("encoders", "vlm")
        require_field(self, "conditioning", known, "'encoders' or 'vlm'")
        if self.conditioning == "encoders":
            fields = VLMSettings.__dataclass_fields__.values()
            unused = [field.name for field in fields if getattr(self, field.name) != field.default]
            if unused:
                raise ValueError(
                    f"`{unused[0]}` is {getattr(self, unused[0])!r}, but `conditioning` is 'encoders', which has no "
                    "vision-language model. Pass --policy.conditioning=vlm, or leave it out."
                )
        for name in ("vlm_trained_layers", "vlm_lora_rank", "vlm_self_attention_layers"):
            require_field(self, name, getattr(self, name) >= 0, "0 (none) or a number")
        has_size = self.vlm_image_size is None or self.vlm_image_size >= 1
        require_field(self, "vlm_image_size", has_size, "null, or a side in pixels")
        if self.vlm_trained_layers and self.vlm_lora_rank:
            raise ValueError(
                f"`vlm_trained_layers` is {self.vlm_trained_layers} and `vlm_lora_rank` {self.vlm_lora_rank}: train "
                "the layers themselves or adapters in them, not both. Set one to 0."
            )
