"""How a policy gets its latent action model (LAM) and alignment head, and keeps them in its checkpoint.

On disk a checkpoint is the base's own, plus `lam/` (what `lam_path` and `LatentActionModel.from_pretrained`
read) and `alignment.safetensors`; inference opens neither.
"""

import copy
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lerobot_lara.alignment.alignment_file import (
    ALIGNMENT_FILE,
    ORIGIN,
    read_alignment,
    read_origin,
)
from lerobot_lara.alignment.objective import LatentAlignment
from lerobot_lara.alignment.targets import feature_width
from lerobot_lara.files.atomic import replaced_file
from lerobot_lara.lam import artifact
from lerobot_lara.lam.latent_action_model import LatentActionModel
from lerobot_lara.policy.alignment_contract import AlignmentBase
from lerobot_lara.policy.checkpoint_files import Checkpoint
from lerobot_lara.policy.loading import current_loading, loading
from lerobot_lara.policy.publishing import PublishingPolicy, published_name
from lerobot_lara.training.finite import require_finite
from lerobot_lara.training.memory import configure_networks
from lerobot_lara.training.randomness import own_randomness

logger = logging.getLogger(__name__)

LAM_FOLDER = "lam"
LAM_STATE = "lam."
ALIGNMENT_STATE = ("alignment.", "slow_lam.")


class AttachedLAM(PublishingPolicy):
    """The part of `LatentAlignmentMixin` that loads and saves.

    Args:
        config: A configuration with `LatentAlignmentConfig`'s fields.
        dataset_meta: Passed by LeRobot's training.
        **kwargs: The base's.

    Attributes:
        lam: The LAM; None until `attach_alignment`, in a policy that only acts, and where none runs.
        slow_lam: Its slow copy, for `alignment_target="ema"`.
        alignment: Alignment head and loss; None until `attach_alignment`, and in a policy that only acts.
    """

    def __init__(self, config: Any, *, dataset_meta: Any = None, **kwargs: Any) -> None:
        super().__init__(config, dataset_meta=dataset_meta, **kwargs)
        loaded = current_loading()
        self._checkpoint = None if loaded is None else loaded.checkpoint
        self.lam: LatentActionModel | None = None
        self.slow_lam: AveragedModel | None = None
        self.alignment: LatentAlignment | None = None
        self._shares_encoder = False
        self._feature_encoder: tuple[Any, ...] = ()
        self._origin = ""
        # That of `alignment`, where the host can read it without waiting for the device.
        self._num_updates = 0

    @classmethod
    def from_pretrained(
        cls, pretrained_name_or_path: str | Path, *, dataset_meta: Any = None, **kwargs: Any
    ) -> Self:
        """The base's `from_pretrained`; loads the LAM too when `dataset_meta` is given (training).

        Args:
            pretrained_name_or_path: Folder or Hub id of a checkpoint, aligned or of the plain base.
            dataset_meta: Metadata of the data to train on; None loads the policy to act.
            **kwargs: The base's, such as `config` and `revision`.
        """
        checkpoint = Checkpoint.of(pretrained_name_or_path, kwargs)
        with loading(checkpoint, to_train=dataset_meta is not None):
            policy = super().from_pretrained(pretrained_name_or_path, dataset_meta=dataset_meta, **kwargs)
        if dataset_meta is not None:
            policy.attach_alignment(dataset_meta)
        return policy

    @property
    def is_new(self) -> bool:
        """Whether the policy is under construction without a checkpoint."""
        return self._checkpoint is None

    @property
    def lam_camera(self) -> str:
        """Key of the camera that the LAM sees."""
        return self.config.lam_camera or next(iter(self.config.image_features))

    def attach_alignment(self, dataset_meta: Any = None) -> None:
        """Loads the alignment head, and the LAM if one runs, so that `forward` can train.

        The LAM is the checkpoint's own aligned copy, unless `lam_path` names another than it started from. The random
        numbers of the alignment head's start are its own: the policy's training goes on with the same as without.

        Args:
            dataset_meta: Metadata of the data to train on, which bring the manifest of its labels; not needed without.

        Raises:
            ValueError: `lam_path` or the labels are missing, there is no LAM, or its frame gap or latent width do not
                fit.
        """
        with own_randomness(torch.initial_seed() % 2**63, next(self.parameters()).device):
            self._attach(dataset_meta)

    def _attach(self, dataset_meta: Any) -> None:
        config = self.config
        latent_width, keeps_head = {
            "lam": self._attach_lam,
            "labels": lambda: self._attach_labels(getattr(dataset_meta, "latent_labels", None)),
            "actions": self._attach_actions,
            "features": self._attach_features,
        }[config.target_source]()
        # A head starts alike whether a LAM was built before it or not.
        with own_randomness(torch.initial_seed() % 2**63, next(self.parameters()).device):
            alignment = LatentAlignment(
                hidden_width=self._base.alignment_width,
                latent_width=latent_width,
                head=config.alignment_head,
                pooling=config.alignment_pooling,
                centering=config.alignment_centering,
                loss=config.alignment_loss,
                temperature=config.alignment_temperature,
            )
        self.alignment = alignment.to(next(self.parameters()).device)
        self.alignment.register_load_state_dict_post_hook(self._read_num_updates)
        if self.lam is not None:
            self._prepare_lam(self.lam)
        if keeps_head:
            self._load_alignment_state()
        self.train(self.training)

    def _attach_lam(self) -> tuple[int, bool]:
        """Loads the LAM; returns the latent width, and whether the checkpoint's head goes with it."""
        config = self.config
        own = self._has_own_lam()
        keeps_own = own and self._means_own_lam(config.lam_path)
        lam = self._own_lam() if keeps_own else self._given_lam(replaces_own=own)
        latent_width = lam.num_latent_tokens * lam.latent_dim
        self._check_frame_gap(lam.frame_gap, keeps_own=keeps_own)
        if own and not keeps_own:
            self._check_latent_width(latent_width)
        encoder = getattr(self, "shared_image_encoder", None)
        if encoder is not None and encoder.source == lam.frame_encoder.source:
            self._shares_encoder = True
            logger.info("Policy and LAM have the same frozen image encoder: %s runs once.", encoder.source[0])
            lam.frame_encoder = encoder
        self.lam = lam.to(next(self.parameters()).device).requires_grad_(not config.freeze_lam)
        return latent_width, keeps_own or (not own and self._began_with(self._origin))

    def _attach_labels(self, labels: Any) -> tuple[int, bool]:
        """Takes the latent width from the manifest of the data's labels."""
        config = self.config
        if labels is None:
            raise ValueError(
                "`alignment_source` is 'labels', but the data has none. Run `lara label`, and pass its folder as "
                "--policy.lam_labels, or as `labels` of the entries of a mixture file."
            )
        if config.lam_path is not None and artifact.digest(config.lam_path) != labels.lam_sha256:
            raise ValueError(
                f"`lam_path` is {config.lam_path}, but the labels are of another latent action model, "
                f"{labels.lam['name']} ({labels.lam_sha256[:12]}). Leave `lam_path` out, or label the dataset with it."
            )
        self._origin = labels.lam_sha256
        logger.info("Aligning with labels of the latent action model %s.", labels.lam["name"])
        return labels.latent_width, self._own_lam_is(self._origin) or self._began_with(self._origin)

    def _attach_actions(self) -> tuple[int, bool]:
        """The target is the policy's own action chunk."""
        self._origin = "actions"
        steps, dim = self._action_chunk
        return steps * dim, self._began_with(self._origin)

    @property
    def _action_chunk(self) -> tuple[int, int]:
        """Steps and dimensions of the chunk that the data has."""
        return len(self.config.action_delta_indices), self.config.action_feature.shape[0]

    def _attach_features(self) -> tuple[int, bool]:
        """Loads the frozen image encoder whose features are the target."""
        lam_path, encoder = self.config.lam_path, getattr(self, "shared_image_encoder", None)
        if lam_path is not None:
            encoder = LatentActionModel.from_pretrained(lam_path).frame_encoder
            self._origin = f"features of {artifact.digest(lam_path)}"
        elif encoder is None:
            raise ValueError(
                "`alignment_source` is 'features', which needs a frozen image encoder. Pass a latent action model, "
                "whose frame encoder is used, as --policy.lam_path, or freeze the policy's own."
            )
        else:
            self._origin = f"features of {encoder.source}"
        # Not a submodule: it is neither trained nor saved.
        self._feature_encoder = (encoder.requires_grad_(False).eval(),)
        return feature_width(encoder), self._began_with(self._origin)

    def _frozen_encoder(self, device: torch.device) -> nn.Module:
        """The encoder of `alignment_source="features"`, where the frames are."""
        (encoder,) = self._feature_encoder
        return encoder.to(device)

    def _prepare_lam(self, lam: LatentActionModel) -> None:
        """Adds the slow copy, and compiles or checkpoints the LAM as the policy's configuration says."""
        config = self.config
        if config.alignment_target == "ema" and not config.freeze_lam:
            self.slow_lam = _slow_copy(lam, config.lam_ema_decay)
        configure_networks(
            networks=lam.networks,
            blocks=lam.blocks,
            compile_model=getattr(config, "compile_model", False),
            gradient_checkpointing=getattr(config, "gradient_checkpointing", False),
        )

    @property
    def _base(self) -> AlignmentBase:
        """This policy, as what the base makes of it."""
        return cast(AlignmentBase, self)

    def _attached(self) -> LatentAlignment:
        if self.alignment is None:
            raise ValueError(
                "This policy was loaded to act, without its alignment. Call `attach_alignment()` to train it."
            )
        return self.alignment

    def _save_pretrained(
        self, save_directory: Path, state_dict: dict[str, Tensor] | None = None, **kwargs: Any
    ) -> None:
        if self.lam is None and (save_directory / LAM_FOLDER).exists():
            reason = "was loaded to act" if self.alignment is None else "is aligned"
            raise ValueError(
                f"{save_directory} has a latent action model, but this policy {reason} without one: the "
                "two would not belong together. Save to another folder, or call `attach_alignment()` first."
            )
        state = self.state_dict() if state_dict is None else state_dict
        of_base = {
            key: value for key, value in state.items() if not key.startswith((LAM_STATE, *ALIGNMENT_STATE))
        }
        super()._save_pretrained(save_directory, state_dict=of_base, **kwargs)
        if self.alignment is None:
            logger.warning(
                "%s gets the policy without a latent action model: this one was loaded to act. To save both, call "
                "`attach_alignment()` first.",
                save_directory,
            )
            return
        if self.lam is not None:
            self._save_lam(save_directory, self.lam, state)
        rest = {key: value.contiguous() for key, value in state.items() if key.startswith(ALIGNMENT_STATE)}
        remedy = "Continue from an earlier checkpoint, with a lower --policy.optimizer_lr."
        require_finite(rest, "Weights of the alignment to be saved", remedy)
        with replaced_file(save_directory / ALIGNMENT_FILE) as partial:
            save_file(rest, partial, metadata={ORIGIN: self._origin})

    def _save_lam(self, save_directory: Path, lam: LatentActionModel, state: dict[str, Tensor]) -> None:
        of_lam = {
            key.removeprefix(LAM_STATE): value for key, value in state.items() if key.startswith(LAM_STATE)
        }
        settings = lam.settings
        if self.is_published:
            settings = replace(settings, frame_encoder=published_name(settings.frame_encoder))
        lam.save_pretrained(save_directory / LAM_FOLDER, state_dict=of_lam, settings=settings)

    def _has_own_lam(self) -> bool:
        """Whether the checkpoint has an aligned LAM, and is not one of the plain base."""
        return (
            self._checkpoint is not None
            and self._checkpoint.file(f"{LAM_FOLDER}/{artifact.CONFIG_FILE}") is not None
        )

    def _began_with(self, origin: str) -> bool:
        """Whether the checkpoint's alignment started with the same, so that its head goes on."""
        if self._checkpoint is None or self._checkpoint.file(ALIGNMENT_FILE) is None:
            return False
        if read_origin(self._checkpoint) == origin:
            return True
        logger.warning(
            "The alignment head of %s is replaced by a new one, as it was aligned with something else.",
            self._checkpoint.path,
        )
        return False

    def _own_lam_is(self, sha256: str) -> bool:
        """Whether the checkpoint's own LAM has these weights."""
        if self._checkpoint is None or not self._has_own_lam():
            return False
        file = self._checkpoint.file(f"{LAM_FOLDER}/{artifact.WEIGHTS_FILE}")
        return file is not None and artifact.digest(file.parent) == sha256

    def _means_own_lam(self, lam_path: str | None) -> bool:
        """Whether `lam_path` is as in the checkpoint, or names what its alignment started from."""
        assert self._checkpoint is not None
        if lam_path in (None, self._checkpoint.config.get("lam_path")):
            return True
        return artifact.digest(lam_path) == read_origin(self._checkpoint)

    def _own_lam(self) -> LatentActionModel:
        assert self._checkpoint is not None
        self._origin = read_origin(self._checkpoint)
        return LatentActionModel.from_pretrained(
            self._checkpoint.path,
            revision=self._checkpoint.revision,
            subfolder=LAM_FOLDER,
            **self._checkpoint.download,
        )

    def _given_lam(self, *, replaces_own: bool) -> LatentActionModel:
        lam_path = self.config.lam_path
        if lam_path is None:
            raise ValueError(
                "`lam_path` is missing: LARA aligns the policy with a latent action model. Train one with "
                "`lerobot-train --policy.type=lara_lam ...` and pass its folder or Hub id as --policy.lam_path."
            )
        logger.info("Aligning with the latent action model %s", lam_path)
        if replaces_own:
            logger.warning(
                "The checkpoint's own aligned LAM and its alignment head are replaced by a new alignment with %s, "
                "because `lam_path` was changed.",
                lam_path,
            )
        lam = LatentActionModel.from_pretrained(lam_path)
        self._origin = artifact.digest(lam_path)
        return lam

    def _check_frame_gap(self, frame_gap: int, *, keeps_own: bool) -> None:
        config = self.config
        of = self._checkpoint.path if keeps_own and self._checkpoint is not None else config.lam_path
        if frame_gap != config.frame_gap:
            raise ValueError(
                f"The latent action model of {of} was trained with a frame gap of {frame_gap} control steps, but "
                f"`frame_gap` is {config.frame_gap}. Pass --policy.frame_gap={frame_gap}, or train a LAM for "
                f"{config.frame_gap}."
            )

    def _check_latent_width(self, latent_width: int) -> None:
        assert self._checkpoint is not None
        expected = int(read_alignment(self._checkpoint)["alignment.latent_width"])
        if latent_width != expected:
            raise ValueError(
                f"`lam_path` {self.config.lam_path} has latent actions of width {latent_width}, but "
                f"{self._checkpoint.path} was aligned with width {expected}. Use a LAM of that width, or start a "
                "new alignment: `lara export-base` the checkpoint, then --policy.type=lara "
                "--policy.pretrained_path=<exported>."
            )

    def _load_alignment_state(self) -> None:
        assert self.alignment is not None and self._checkpoint is not None
        state = read_alignment(self._checkpoint)
        own = {key: value for key, value in self.state_dict().items() if key.startswith(ALIGNMENT_STATE)}
        wrong = [key for key in own if key not in state or state[key].shape != own[key].shape]
        if wrong:
            raise ValueError(
                f"{ALIGNMENT_FILE} of {self._checkpoint.path} does not fit this configuration: {wrong[:3]} "
                "differ. Keep the checkpoint's `alignment_head`, `alignment_target` and latent width, or "
                "name another --policy.lam_path to start a new alignment."
            )
        self.load_state_dict({key: state[key] for key in own}, strict=False)

    def _read_num_updates(self, alignment: LatentAlignment, incompatible_keys: Any) -> None:
        self._num_updates = int(alignment.num_updates)


def _slow_copy(lam: LatentActionModel, decay: float) -> AveragedModel:
    return AveragedModel(
        copy.deepcopy(lam), multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True
    ).requires_grad_(False)
