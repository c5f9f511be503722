"""How the policies of this package are optimized: fields shared by their configurations."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

from lerobot.configs import PolicyFeature, PreTrainedConfig
from lerobot.optim import AdamWConfig, DiffuserSchedulerConfig, OptimizerConfig

from lerobot_lara.training.portable import is_local
from lerobot_lara.training.validation import require_field, require_simple_values


@OptimizerConfig.register_subclass("lara_adamw")
@dataclass
class FusedAdamWConfig(AdamWConfig):
    """LeRobot's AdamW with PyTorch's fused implementation: one kernel per step instead of a dozen."""

    fused: bool = True


@dataclass
class TrainingConfig(PreTrainedConfig):
    """AdamW with a warm-up and a schedule from diffusers.

    Args:
        dtype: "float32" or "bfloat16": precision of training's autocast, and of the weights of a policy's frozen
            image encoder or vision-language model.
        compile_model: Compile the trained networks (`torch.compile`); pays in long runs on a GPU.
        gradient_checkpointing: Compute the inside of transformer blocks twice instead of keeping it; saves memory.
        optimizer_lr: Peak learning rate.
        optimizer_betas: AdamW betas.
        optimizer_eps: AdamW epsilon.
        optimizer_weight_decay: AdamW weight decay.
        optimizer_grad_clip_norm: Gradient norm limit.
        scheduler_name: Any diffusers schedule; "cosine" ends at 0 on the last step.
        scheduler_warmup_steps: Linear warm-up, in steps.
    """

    dtype: str = "float32"
    compile_model: bool = False
    gradient_checkpointing: bool = False
    optimizer_lr: float = 1e-4
    optimizer_betas: tuple[float, float] = (0.95, 0.999)
    optimizer_eps: float = 1e-8
    optimizer_weight_decay: float = 1e-5
    optimizer_grad_clip_norm: float = 1.0
    scheduler_name: str = "cosine"
    scheduler_warmup_steps: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        # LeRobot's own fields are its business.
        own = [f.name for f in fields(self) if f.name not in PreTrainedConfig.__dataclass_fields__]
        require_simple_values(type(self), {name: getattr(self, name) for name in own})
        known = self.dtype in ("float32", "bfloat16")
        require_field(self, "dtype", known, "'float32' or 'bfloat16'")
        require_field(self, "optimizer_lr", self.optimizer_lr > 0, "positive")

    @property
    def image_features(self) -> dict[str, PolicyFeature]:
        """The color cameras; what records depth is no image to a policy of this package."""
        return {key: feature for key, feature in super().image_features.items() if feature.shape[0] == 3}

    @property
    def unused_cameras(self) -> list[str]:
        """Keys of the cameras that are left out, such as depth cameras."""
        return [key for key in super().image_features if key not in self.image_features]

    def portable(self) -> Self:
        """A copy for checkpoints, without the path of the checkpoint that training started from."""
        no_path: dict[str, Any] = {"pretrained_path": None}
        return replace(self, **no_path) if is_local(self.pretrained_path) else self

    def _save_pretrained(self, save_directory: Path) -> None:
        super(TrainingConfig, self.portable())._save_pretrained(save_directory)

    def get_optimizer_preset(self) -> AdamWConfig:
        """The optimizer, as LeRobot builds it."""
        return FusedAdamWConfig(
            lr=self.optimizer_lr,
            betas=self.optimizer_betas,
            eps=self.optimizer_eps,
            weight_decay=self.optimizer_weight_decay,
            grad_clip_norm=self.optimizer_grad_clip_norm,
        )

    def get_scheduler_preset(self) -> DiffuserSchedulerConfig:
        """The learning rate's schedule, as LeRobot builds it."""
        return DiffuserSchedulerConfig(name=self.scheduler_name, num_warmup_steps=self.scheduler_warmup_steps)
