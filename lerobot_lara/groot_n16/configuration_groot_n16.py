"""Configuration of `groot_n16`: NVIDIA's GR00T N1.6 as a LeRobot policy."""

from dataclasses import dataclass, field, replace
from typing import Any, Self

from lerobot.configs import NormalizationMode, PreTrainedConfig

from lerobot_lara.groot_n16 import geometry
from lerobot_lara.policy.control_rate import ControlRateConfig
from lerobot_lara.training.config import TrainingConfig
from lerobot_lara.training.portable import is_local
from lerobot_lara.training.validation import require_field


@PreTrainedConfig.register_subclass("groot_n16")
@dataclass
class GrootN16Config(TrainingConfig, ControlRateConfig):
    """A vision-language model whose features a flow-matching DiT attends to; optimized as `TrainingConfig` says.

    Start from NVIDIA's weights with --policy.pretrained_path=nvidia/GR00T-N1.6-3B, or a folder with those files. Its
    files then decide `chunk_size`'s limit, the sizes of the networks and, for a robot that they know, statistics,
    joint groups and cameras. The weights are NVIDIA's, under terms that exclude commercial use; none come with this
    package.

    Args:
        chunk_size: Actions predicted at once, in control steps, at most `action_horizon`.
        n_action_steps: Actions executed before the next prediction, at most `chunk_size`.
        action_horizon: Action tokens of the network; steps beyond `chunk_size` are masked.
        max_state_dim: Width that encoded states are padded to.
        max_action_dim: Width that actions are padded to.
        base_model_path: Release that the weights came from; set by `pretrained_path`, kept in checkpoints.
        base_model_revision: Branch, tag or commit of it on the Hub.
        embodiment_tag: Robot: the row of the per-embodiment weights, and in the release its statistics.
        embodiment_ids: Row by robot; those of the release by default.
        cameras: Keys of the cameras that the model sees, in order. Empty: those that the release names for the robot,
            else all color cameras of the dataset, in its order.
        relative_actions: Train on actions minus the state at the moment of prediction, for robots
            that the release does not know; N1.6 was pretrained so where actions are target positions of joints. States
            and actions must then have the same dimensions in the same order.
        relative_exclude_joints: Names of action dimensions, or parts of them, that stay absolute, such as "gripper".
        use_percentiles: Normalize by the 1st and 99th percentile instead of minimum and maximum, for robots that the
            release does not know.
        tokenizer: Hub id or folder of Qwen3's tokenizer.
        image_token_id: Token that stands for one image token.
        formalize_language: Instructions in lower case without punctuation, as in the release's training.
        shortest_image_edge: Images are resized to this shorter side, in pixels, at their own aspect ratio.
        crop_fraction: Share of both sides that is kept: at random in training, else in the center.
        num_inference_timesteps: Euler steps per chunk.
        state_dropout_prob: Share of training samples whose state is replaced by a learned vector, in [0, 1).
        select_layer: Layers of the language model that are used.
        tune_top_llm_layers: The last of them that are trained.
        tune_llm: Train the whole language model.
        tune_visual: Train the image encoder and its projector.
        tune_projector: Train the encoders of states and actions, and the decoder of actions.
        tune_diffusion_model: Train the DiT.
        tune_vlln: Train the norm between backbone and DiT.
        vision_config: Sizes of the image encoder.
        text_config: Sizes of the language model.
        head_config: Sizes of the action head.
    """

    chunk_size: int = 50
    n_action_steps: int = 16
    action_horizon: int = 50
    max_state_dim: int = 128
    max_action_dim: int = 128

    base_model_path: str | None = None
    base_model_revision: str | None = None
    embodiment_tag: str = "new_embodiment"
    embodiment_ids: dict[str, int] = field(default_factory=geometry.embodiment_ids)
    cameras: list[str] = field(default_factory=list)

    relative_actions: bool = False
    relative_exclude_joints: list[str] = field(default_factory=list)
    use_percentiles: bool = False

    tokenizer: str = "Qwen/Qwen3-1.7B"
    image_token_id: int = 151669
    formalize_language: bool = True
    shortest_image_edge: int = 256
    crop_fraction: float = 0.95

    num_inference_timesteps: int = 4
    state_dropout_prob: float = 0.0

    select_layer: int = 16
    tune_top_llm_layers: int = 4
    tune_llm: bool = False
    tune_visual: bool = False
    tune_projector: bool = True
    tune_diffusion_model: bool = True
    tune_vlln: bool = True

    vision_config: dict[str, Any] = field(default_factory=geometry.vision_config)
    text_config: dict[str, Any] = field(default_factory=geometry.text_config)
    head_config: dict[str, Any] = field(default_factory=geometry.head_config)

    dtype: str = "bfloat16"
    optimizer_betas: tuple[float, float] = (0.9, 0.999)
    scheduler_warmup_steps: int = 500

    # The processors normalize by joint group; LeRobot's step is there for LeRobot's flags alone.
    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=lambda: dict.fromkeys(("VISUAL", "STATE", "ACTION"), NormalizationMode.IDENTITY)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("n_action_steps", "action_horizon", "num_inference_timesteps", "shortest_image_edge"):
            require_field(self, name, getattr(self, name) >= 1, "at least 1")
        self.check_sizes()
        require_field(
            self,
            "n_action_steps",
            self.n_action_steps <= self.chunk_size,
            f"at most chunk_size={self.chunk_size}",
        )
        require_field(self, "crop_fraction", 0 < self.crop_fraction <= 1, "in (0, 1]")
        require_field(self, "state_dropout_prob", 0 <= self.state_dropout_prob < 1, "in [0, 1)")
        identity = all(mode is NormalizationMode.IDENTITY for mode in self.normalization_mapping.values())
        require_field(
            self, "normalization_mapping", identity, "IDENTITY for all: the policy normalizes itself"
        )

    def check_sizes(self) -> None:
        """Raises ValueError where fields contradict the sizes of the networks, which a release may have changed."""
        horizon = self.action_horizon
        require_field(
            self,
            "chunk_size",
            1 <= self.chunk_size <= horizon,
            f"at least 1 and at most action_horizon={horizon}",
        )
        layers = self.select_layer
        require_field(
            self,
            "tune_top_llm_layers",
            0 <= self.tune_top_llm_layers <= layers,
            f"at least 0 and at most select_layer={layers}",
        )

    def validate_features(self) -> None:
        """Raises ValueError when the dataset or environment lacks what the policy needs, or has too much of it."""
        if not self.image_features:
            raise ValueError(
                f"`input_features` has no color camera (found {sorted(self.input_features or {})}); groot_n16 needs at "
                "least one of 3 channels (observation.image or observation.images.<name>)."
            )
        if self.action_feature is None:
            raise ValueError(
                "`output_features` has no `action`: the dataset is action-free, and groot_n16 learns from actions. "
                "Train a latent action model on it instead: --policy.type=lara_lam."
            )
        for name, feature in (
            ("max_state_dim", self.robot_state_feature),
            ("max_action_dim", self.action_feature),
        ):
            size = 0 if feature is None else feature.shape[0]
            require_field(self, name, size <= getattr(self, name), f"at least {size}, as the dataset has")
        known = sorted(self.embodiment_ids)
        require_field(self, "embodiment_tag", self.embodiment_tag in known, f"one of {known}")
        missing = [key for key in self.cameras if key not in self.image_features]
        require_field(self, "cameras", not missing, f"keys among {sorted(self.image_features)}")

    def portable(self) -> Self:
        """A copy for checkpoints, without paths of this machine."""
        copied = super().portable()
        return replace(copied, base_model_path=None) if is_local(self.base_model_path) else copied

    @property
    def state_dim(self) -> int:
        """Dimensions of the robot's state; 0 without one."""
        return 0 if self.robot_state_feature is None else self.robot_state_feature.shape[0]

    @property
    def action_dim(self) -> int:
        """Dimensions of the robot's actions."""
        assert self.action_feature is not None
        return self.action_feature.shape[0]

    @property
    def embodiment_id(self) -> int:
        """Row of `embodiment_tag`."""
        return self.embodiment_ids[self.embodiment_tag]

    @property
    def token_side(self) -> int:
        """Pixels per side of an image token."""
        return 2 * self.vision_config["patch_size"]

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
