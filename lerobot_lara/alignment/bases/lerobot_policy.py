"""What every policy of LeRobot needs to be aligned, so that the file of a base holds only what is its own.

The base is never told of the second frame: the pair travels apart from its observations (`FRAME_PAIR`), so that its
processors, its batches and what it saves are those of the plain base.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Self

from lerobot.configs import PreTrainedConfig
from torch import Tensor, nn

from lerobot_lara.alignment.bases.weights import check_weights
from lerobot_lara.alignment.config import LatentAlignmentConfig
from lerobot_lara.alignment.mixin import LatentAlignmentMixin
from lerobot_lara.policy.alignment_contract import TapPoint
from lerobot_lara.policy.checkpoint_files import Checkpoint
from lerobot_lara.policy.control_rate import ControlRateConfig, record_control_rate
from lerobot_lara.policy.mixture_record import MixtureRecord
from lerobot_lara.policy.processor_files import check_loaded_processors


class LeRobotAlignmentConfig(LatentAlignmentConfig, ControlRateConfig):
    """Fields of the alignment before a configuration of LeRobot's.

    Attributes:
        masks_padded_actions: Whether the base's loss leaves padded actions out, so that mixtures may have samples
            without any.
        packages: Packages that the base needs and this package does not install: name for pip -> name to import.
        extra: Extra of this package that installs them.
        tap: Where the hidden states are read, for `lara bases`.
        released_size: Width and number of blocks of the released checkpoint, for `lara bases`.
    """

    masks_padded_actions: ClassVar[Any] = False
    packages: ClassVar[dict[str, str]] = {}
    extra: ClassVar[str | None] = None
    tap: ClassVar[str] = "output of the block"
    released_size: ClassVar[tuple[int, int]]

    @property
    def frame_pair_apart(self) -> bool:
        """Whether the data brings the frames for the LAM, or for its encoder, as `FRAME_PAIR`."""
        return self.target_source in ("lam", "features")

    @property
    def pair_gap(self) -> int:
        """Frames between the two of `FRAME_PAIR`: 0 where o_t alone is looked at."""
        return self.frame_gap if self.target_source == "lam" else 0

    @property
    def observation_delta_indices(self) -> Any:
        """The base's own."""
        return super(LatentAlignmentConfig, self).observation_delta_indices


class LeRobotAlignmentMixin(LatentAlignmentMixin):
    """`LatentAlignmentMixin` before a policy of LeRobot's: `class LaraPI05Policy(LeRobotAlignmentMixin, PI05Policy)`.

    Args:
        config: A configuration with `LeRobotAlignmentConfig`'s fields.
        dataset_meta: Passed by LeRobot's training; that of a mixture is recorded in checkpoints.
        **kwargs: The base's.

    Raises:
        ValueError: A package is missing, or see `LatentAlignmentMixin`.
    """

    # What LeRobot puts before a weight's name when it loads a file of the base's own format.
    weight_prefixes: ClassVar[tuple[str, ...]] = ("",)

    def __init__(self, config: Any, *, dataset_meta: Any = None, **kwargs: Any) -> None:
        require_packages(config)
        super().__init__(config, dataset_meta=dataset_meta, **kwargs)
        self.mixture = MixtureRecord(dataset_meta)
        record_control_rate(config, dataset_meta)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_name_or_path: str | Path,
        *,
        config: PreTrainedConfig | None = None,
        dataset_meta: Any = None,
        **kwargs: Any,
    ) -> Self:
        """The base's `from_pretrained`, after which the weights are compared with the file.

        Args:
            pretrained_name_or_path: Folder or Hub id of a checkpoint of this type, or of the plain base.
            config: Used instead of the checkpoint's.
            dataset_meta: Metadata of the data to train on; None loads the policy to act.
            **kwargs: The base's, such as `revision`.

        Raises:
            ValueError: The checkpoint is of another type, has processors that run foreign code, or its weights were
                not all loaded.
        """
        checkpoint = Checkpoint.of(pretrained_name_or_path, kwargs)
        cls.check_type(checkpoint)
        check_loaded_processors(checkpoint, config)
        policy = super().from_pretrained(
            pretrained_name_or_path, config=config, dataset_meta=dataset_meta, **kwargs
        )
        anew = tuple(getattr(policy.config, "reinit_modules", None) or ())
        check_weights(policy, checkpoint, prefixes=cls.weight_prefixes, reinitialized=anew)
        # Some bases do not hand it to the constructor.
        policy.mixture = MixtureRecord(dataset_meta)
        record_control_rate(policy.config, dataset_meta)
        return policy

    @classmethod
    def check_type(cls, checkpoint: Checkpoint) -> None:
        """Raises ValueError for a checkpoint that is neither of this type nor of the plain base's."""
        found = checkpoint.config.get("type")
        own = cls.config_class.base_type()
        if found not in (cls.name, own):
            aligned = PreTrainedConfig.get_known_choices().get(f"lara_{found}")
            advice = f"Pass --policy.type=lara_{found}" if aligned else f"Name a checkpoint of type {own!r}"
            raise ValueError(
                f"{checkpoint.path} is a checkpoint of type {found!r}; it must be of type {own!r} or {cls.name!r} for "
                f"--policy.type={cls.name}. {advice}."
            )

    def _save_pretrained(self, save_directory: Path, *args: Any, **kwargs: Any) -> None:
        super()._save_pretrained(save_directory, *args, **kwargs)
        self.mixture.save(save_directory)

    def flow_loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Any] | None]:
        """The base's own forward pass."""
        return super(LatentAlignmentMixin, self).forward(batch)

    def action_tokens(self, hidden_states: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """The last T tokens (B, T, D), and (B, T) bool, False at padded actions."""
        is_pad = batch.get("action_is_pad")
        return hidden_states[:, -batch["action"].shape[1] :], None if is_pad is None else ~is_pad.bool()


def norm_inputs(transformer: nn.Module) -> list[TapPoint]:
    """What the layers of a transformer put out, where a policy calls their parts one by one, beside another model's.

    Args:
        transformer: A model of transformers with `layers`, each with an `input_layernorm`, and a final `norm`.

    Returns:
        The input of the norm after each layer.
    """
    layers: Any = transformer.layers
    following = [*(layer.input_layernorm for layer in layers[1:]), transformer.norm]
    return [TapPoint(norm, "input") for norm in following]


def require_packages(config: Any) -> None:
    """Raises ValueError if a package that the base needs is missing."""
    missing = [name for name, module in config.packages.items() if find_spec(module) is None]
    if missing:
        raise ValueError(
            f"`policy.type` is {config.type}, which needs the missing package(s) {', '.join(missing)}. Install "
            f"them with `pip install {' '.join(missing)}`, or this package with its extra {config.extra!r}."
        )
