"""How a policy gets its latent action model (LAM) and alignment head, and keeps them in its checkpoint.

On disk a checkpoint is the base's own, plus `lam/` (what `lam_path` and `LatentActionModel.from_pretrained`
read) and `alignment.safetensors`; inference opens neither.
"""

import copy
import logging
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lerobot_lara.alignment.objective import LatentAlignment
from lerobot_lara.lam.latent_action_model import LatentActionModel
from lerobot_lara.policy.checkpoint_files import checkpoint_file, read_config
from lerobot_lara.training.memory import accelerate

logger = logging.getLogger(__name__)

LAM_FOLDER = "lam"
ALIGNMENT_FILE = "alignment.safetensors"
LAM_STATE = "lam."
ALIGNMENT_STATE = ("alignment.", "lam_target.")

# For the type checker: whatever policy follows in the class statement.
BasePolicy: Any = object


class AttachedLAM(BasePolicy):
    """The part of `LatentAlignmentMixin` that loads and saves.

    Attributes:
        lam: The LAM; None until `attach_lam`, and in a policy that only acts.
        lam_target: Its slow copy, for `alignment_target="ema"`.
        alignment: Alignment head and loss.
    """

    def __init__(self, config: Any, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self._checkpoint: tuple[str, str | None] | None = None
        self.lam: LatentActionModel | None = None
        self.lam_target: AveragedModel | None = None
        self._shares_encoder = False
        self.alignment: LatentAlignment | None = None

    @classmethod
    def from_pretrained(cls, pretrained_name_or_path: str | Path, **kwargs: Any) -> Any:
        """LeRobot's `from_pretrained`; loads the LAM too when `dataset_meta` is given (training)."""
        training = kwargs.get("dataset_meta") is not None
        policy = super().from_pretrained(pretrained_name_or_path, attach_lam=False, **kwargs)
        policy._checkpoint = (str(pretrained_name_or_path), kwargs.get("revision"))
        if training:
            policy.attach_lam()
        return policy

    def attach_lam(self) -> None:
        """Loads the LAM and the alignment head, so that `forward` can train.

        The LAM is the checkpoint's own aligned copy, unless `lam_path` was changed since it was written.

        Raises:
            ValueError: `lam_path` is missing, is no LAM, or its frame gap or latent width do not fit.
        """
        config = self.config
        state: dict[str, Tensor] = {}
        recorded = self._recorded_lam_path()
        if recorded is not None and _same_place(recorded, config.lam_path):
            assert self._checkpoint is not None
            path, revision = self._checkpoint
            lam = LatentActionModel.from_pretrained(path, revision=revision, subfolder=LAM_FOLDER)
            state = self._read_alignment_file()
        elif config.lam_path is None:
            raise ValueError(
                "`lam_path` is missing: LARA aligns the policy with a latent action model. Train one with "
                "`lerobot-train --policy.type=lara_lam ...` and pass its folder or Hub id as --policy.lam_path."
            )
        else:
            logger.info("Aligning with the latent action model %s", config.lam_path)
            if recorded is not None:
                logger.warning(
                    "The checkpoint's own aligned LAM (from %s) and its alignment head are replaced by a new alignment "
                    "with %s, because `lam_path` was changed.",
                    recorded,
                    config.lam_path,
                )
            lam = LatentActionModel.from_pretrained(config.lam_path)
        latent_width = lam.num_latent_tokens * lam.latent_dim
        self._check_lam(lam.frame_gap, latent_width, recorded)
        alignment = LatentAlignment(
            hidden_width=self.alignment_width,
            latent_width=latent_width,
            head=config.alignment_head,
            pooling=config.alignment_pooling,
            centering=config.alignment_centering,
            loss=config.alignment_loss,
            temperature=config.alignment_temperature,
        )
        encoder = getattr(self, "shared_image_encoder", None)
        if encoder is not None and encoder.source == lam.frame_encoder.source:
            self._shares_encoder = True
            logger.info("Policy and LAM have the same frozen image encoder: %s runs once.", encoder.source[0])
            lam.frame_encoder = encoder
        device = next(self.parameters()).device
        self.lam = lam.to(device).requires_grad_(not config.freeze_lam)
        self.alignment = alignment.to(device)
        if config.alignment_target == "ema" and not config.freeze_lam:
            self.lam_target = _slow_copy(self.lam, config.lam_ema_decay)
        accelerate(
            networks=self.lam.networks,
            blocks=self.lam.blocks,
            compile_model=config.compile_model,
            gradient_checkpointing=config.gradient_checkpointing,
        )
        self._load_alignment_state(state)
        self.train(self.training)

    def _save_pretrained(
        self, save_directory: Path, state_dict: dict[str, Tensor] | None = None, **kwargs: Any
    ) -> None:
        if self.lam is None and self._checkpoint is not None:
            self.attach_lam()  # a policy loaded to act must not lose its LAM by being saved again
        if self.lam is None:
            raise ValueError("This policy has no LAM to save. Call `attach_lam()` first.")
        state = self.state_dict() if state_dict is None else state_dict
        policy = {
            key: value for key, value in state.items() if not key.startswith((LAM_STATE, *ALIGNMENT_STATE))
        }
        super()._save_pretrained(save_directory, state_dict=policy, **kwargs)
        lam_state = {
            key.removeprefix(LAM_STATE): value for key, value in state.items() if key.startswith(LAM_STATE)
        }
        self.lam.save_pretrained(save_directory / LAM_FOLDER, state_dict=lam_state)
        rest = {key: value for key, value in state.items() if key.startswith(ALIGNMENT_STATE)}
        save_file({key: value.contiguous() for key, value in rest.items()}, save_directory / ALIGNMENT_FILE)

    def _check_lam(self, frame_gap: int, latent_width: int, recorded: str | None) -> None:
        config = self.config
        if frame_gap != config.frame_gap:
            raise ValueError(
                f"`lam_path` {config.lam_path} was trained with a frame gap of {frame_gap} control steps, but "
                f"`frame_gap` is {config.frame_gap}. Pass --policy.frame_gap={frame_gap}, or train a LAM for "
                f"{config.frame_gap}."
            )
        if recorded is None or _same_place(recorded, config.lam_path):
            return
        expected = self._read_alignment_file()["alignment.latent_width"].item()
        if latent_width != expected:
            raise ValueError(
                f"`lam_path` {config.lam_path} has latent actions of width {latent_width}, but the policy's "
                f"checkpoint was aligned with width {expected} ({recorded}). Use a LAM of that width, or start a "
                "new alignment: `lara export-dit` the checkpoint, then --policy.type=lara "
                "--policy.pretrained_path=<exported>."
            )

    def _load_alignment_state(self, state: dict[str, Tensor]) -> None:
        if not state:
            return
        assert self.alignment is not None and self._checkpoint is not None
        own = {key: value for key, value in self.state_dict().items() if key.startswith(ALIGNMENT_STATE)}
        wrong = [key for key in own if key not in state or state[key].shape != own[key].shape]
        if wrong:
            raise ValueError(
                f"{ALIGNMENT_FILE} of {self._checkpoint[0]} does not fit this configuration: {wrong[:3]} "
                "differ. Keep the checkpoint's `alignment_head`, `alignment_target` and latent width, or "
                "name another --policy.lam_path to start a new alignment."
            )
        self.load_state_dict({key: state[key] for key in own}, strict=False)

    def _recorded_lam_path(self) -> str | None:
        """The `lam_path` in the checkpoint's own config; None without a checkpoint, or one of the plain base."""
        if self._checkpoint is None:
            return None
        return read_config(*self._checkpoint).get("lam_path")

    def _read_alignment_file(self) -> dict[str, Tensor]:
        assert self._checkpoint is not None
        path, revision = self._checkpoint
        file = checkpoint_file(path, ALIGNMENT_FILE, revision)
        try:
            return load_file(file)
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"Corrupted checkpoint: {file} cannot be read ({error}). Copy or download it again."
            ) from error


def _same_place(recorded: str, lam_path: str | None) -> bool:
    """Whether two spellings of `lam_path` mean the same Hub id or folder."""
    if lam_path is None or recorded == lam_path:
        return recorded == lam_path
    return Path(lam_path).is_dir() and Path(recorded).resolve() == Path(lam_path).resolve()


def _slow_copy(lam: LatentActionModel, decay: float) -> AveragedModel:
    return AveragedModel(
        copy.deepcopy(lam), multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True
    ).requires_grad_(False)
