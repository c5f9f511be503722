"""The fields that alignment adds to a policy's configuration."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from lerobot.configs import PreTrainedConfig

from lerobot_lara.batch.label_request import LabelRequest
from lerobot_lara.training.portable import is_local
from lerobot_lara.training.validation import require_field, require_simple_values

if TYPE_CHECKING:
    # Whatever configuration follows the mixin in the class statement. At run time the mixin has no base: a dataclass
    # would take over LeRobot's fields with LeRobot's defaults, and hide those of the policy's configuration.
    from lerobot.configs import PreTrainedConfig as BaseConfig
else:
    BaseConfig = object

CHOICES = {
    "alignment_head": ("linear", "mlp"),
    "alignment_pooling": ("mean", "last"),
    "alignment_target": ("joint", "stop", "ema"),
    "alignment_loss": ("cosine", "contrastive"),
    "alignment_source": (None, "lam", "labels", "actions", "features"),
}


@dataclass
class LatentAlignmentConfig(BaseConfig):
    """Mixin for policy configurations: `class LaraConfig(LatentAlignmentConfig, LaraDiTConfig)`.

    Args:
        lam_path: Latent action model to align with: a `lara_lam` folder or Hub id. A checkpoint carries
            its own (aligned) copy, which is used unless another model is given.
        lam_camera: Dataset key of the camera the latent action model sees; None is the policy's first.
        frame_gap: K, control steps between the two frames; must be the one the LAM was trained with.
        lam_labels: Folder of the dataset's latent actions, as `lara label` writes it. No LAM is then built or run.
            A mixture file names the labels of each entry itself.
        freeze_lam: Keep the LAM as it is: no LAM loss, no gradient into it.
        lam_warmup_steps: Steps before the policy's gradient may reach the LAM, for `alignment_target="joint"`.
        alignment_source: What the policy is aligned to: "lam", the latent actions that the LAM infers in every step;
            "labels", those of `lam_labels`. Two controls need no latent action at all: "actions", the sample's own
            action chunk; "features", frozen image features of o_t, those of `lam_path`'s frame encoder or of the
            policy's own frozen one. None is "labels" where there are labels, else "lam".
        alignment_layer: Block whose output is aligned, counted from 1; None is the third from the end, the
            output of block L - 2 as in the paper (block 1 in a network of fewer than three).
        alignment_head: Projector from hidden state to latent action: "mlp", or the reference's "linear".
        alignment_pooling: "mean" over the action tokens that hold real steps, or "last" token (reference).
        alignment_target: "stop" detaches the latent action: the LAM learns from its own loss, the policy from
            the LAM. "joint" lets the alignment's gradient into the LAM (paper); watch `latent_effective_rank`
            then, which fell from 4.6 to 1.3 within 200 steps of the demo: latent actions on one line are easy
            to predict. "ema" aligns to a slow copy of the LAM.
        alignment_centering: Subtract from both sides the mean over the pairs of the same dataset in the batch. Without
            it a constant prediction scores well; False is the reference's plain cosine.
        alignment_relative: Align to z(o_t, o_t+K) - z(o_t, o_t), the latent action relative to that of no motion: what
            the latent says of o_t itself drops out. One more inverse dynamics pass.
        alignment_loss: "cosine" (paper), or "contrastive": tell each pair's latent action from those of the other
            valid pairs of its dataset in the batch. It starts at log(pairs) instead of 1.
        alignment_temperature: Temperature of the contrastive loss; lower looks at the nearest candidates only.
        alignment_loss_weight: Weight of the alignment loss; the flow loss has 1.
        lam_loss_weight: Weight of the LAM's own loss.
        lam_lr: Learning rate of the LAM; None takes the policy's.
        lam_ema_decay: Decay of the slow copy, for `alignment_target="ema"`.
    """

    lam_path: str | None = None
    lam_labels: str | None = None
    lam_camera: str | None = None
    frame_gap: int = 16
    freeze_lam: bool = False
    lam_warmup_steps: int = 0

    alignment_source: str | None = None
    alignment_layer: int | None = None
    alignment_head: str = "mlp"
    alignment_pooling: str = "mean"
    alignment_target: str = "stop"
    alignment_centering: bool = True
    alignment_relative: bool = False
    alignment_loss: str = "cosine"
    alignment_temperature: float = 0.1
    alignment_loss_weight: float = 0.1
    lam_loss_weight: float = 0.1
    lam_lr: float | None = None
    lam_ema_decay: float = 0.999

    def __post_init__(self) -> None:
        # The base policy's own validation, further along the method resolution order.
        super().__post_init__()
        require_simple_values(
            LatentAlignmentConfig, {name: getattr(self, name) for name in self.field_names()}
        )
        for name, choices in CHOICES.items():
            require_field(self, name, getattr(self, name) in choices, f"one of {choices}")
        require_field(self, "frame_gap", self.frame_gap >= 1, "at least 1")
        require_field(self, "alignment_temperature", self.alignment_temperature > 0, "above 0, such as 0.1")
        for name in ("lam_warmup_steps", "alignment_loss_weight", "lam_loss_weight"):
            require_field(self, name, getattr(self, name) >= 0, "0 or more")
        require_field(self, "lam_ema_decay", 0 <= self.lam_ema_decay < 1, "in [0, 1)")
        if self.lam_warmup_steps > 0 and self.alignment_target != "joint":
            raise ValueError(
                f"`lam_warmup_steps` is {self.lam_warmup_steps}, but with `alignment_target` "
                f"{self.alignment_target!r} the policy's gradient never reaches the LAM. Pass "
                "--policy.alignment_target=joint, or leave the warm-up at 0."
            )
        if self.freeze_lam and self.alignment_target == "ema":
            raise ValueError(
                "`alignment_target` is 'ema', but with `freeze_lam` the LAM stays as it is and has no slow copy. Drop "
                "one of them."
            )

        self._check_source()

    def _check_source(self) -> None:
        """Refuses what the chosen source of the alignment cannot do."""
        source = self.target_source
        if source != "labels" and self.lam_labels is not None:
            raise ValueError(
                f"`lam_labels` is {self.lam_labels!r}, but `alignment_source` is {source!r}, which does not read them. "
                "Drop one of them."
            )
        if source == "lam":
            return
        if self.alignment_target != "stop":
            raise ValueError(
                f"`alignment_target` is {self.alignment_target!r}, which needs a latent action model that runs in "
                f"every step, but `alignment_source` is {source!r}. Pass --policy.alignment_target=stop, or "
                "--policy.lam_path with --policy.alignment_source=lam."
            )
        if self.alignment_relative and source != "labels":
            raise ValueError(
                f"`alignment_relative` is true, but `alignment_source` is {source!r}, which has no latent action of no "
                "motion. Leave it out."
            )
        if source == "actions" and self.lam_path is not None:
            raise ValueError(
                f"`lam_path` is {self.lam_path!r}, but `alignment_source` is 'actions', which needs no latent action "
                "model. Leave it out."
            )

    @property
    def target_source(self) -> str:
        """`alignment_source`, with its default."""
        return self.alignment_source or ("lam" if self.lam_labels is None else "labels")

    @property
    def label_request(self) -> LabelRequest | None:
        """What the data is to add to each sample; None without labels."""
        if self.target_source != "labels":
            return None
        return LabelRequest(relative=self.alignment_relative, random_shift=getattr(self, "random_shift", 0))

    def validate_features(self) -> None:
        """Also checks that the LAM's camera exists."""
        super().validate_features()
        cameras = list(self.image_features)
        known = self.lam_camera in (None, *cameras)
        require_field(self, "lam_camera", known, f"one of the dataset's cameras, {cameras}")

    @property
    def observation_delta_indices(self) -> Any:
        """Both frames of the pair where the LAM runs; the policy itself sees the first."""
        return [0, self.frame_gap] if self.target_source == "lam" else super().observation_delta_indices

    def resolve_alignment_layer(self, num_layers: int) -> int:
        """`alignment_layer`, checked against the base's depth; see the class for its default."""
        if self.alignment_layer is None:
            return max(1, num_layers - 2)
        within = 1 <= self.alignment_layer <= num_layers
        require_field(self, "alignment_layer", within, f"one of the policy's blocks 1 to {num_layers}")
        return self.alignment_layer

    def portable(self) -> Self:
        """A copy for checkpoints, without paths of this machine: a checkpoint brings the LAM along."""
        local = [
            name for name in ("lam_path", "lam_labels", "pretrained_path") if is_local(getattr(self, name))
        ]
        portable = super().portable() if hasattr(super(), "portable") else self
        return replace(portable, alignment_source=self.target_source, **dict.fromkeys(local))

    def _save_pretrained(self, save_directory: Path) -> None:
        super(LatentAlignmentConfig, self.portable())._save_pretrained(save_directory)

    @classmethod
    def base_type(cls) -> str:
        """Type of the policy that is aligned, whose configuration follows the mixin.

        Raises:
            ValueError: LeRobot does not know that configuration by name.
        """
        classes = cls.__mro__
        behind = classes[classes.index(LatentAlignmentConfig) + 1 :]
        base = next(candidate for candidate in behind if issubclass(candidate, PreTrainedConfig))
        return PreTrainedConfig.get_choice_name(base)

    @staticmethod
    def field_names() -> set[str]:
        """Names of the fields this mixin adds: what a plain base configuration does not know."""
        return set(LatentAlignmentConfig.__dataclass_fields__)
