"""`groot_n16` as a LeRobot policy: batches in, losses and action chunks out.

Legend: B batch, L tokens of a prompt, T action horizon of the network, A width of its actions, D width of the DiT.
"""

from collections import deque
from pathlib import Path
from typing import Any, Self

import torch
from lerobot.configs import PreTrainedConfig
from lerobot.utils.constants import ACTION, OBS_LANGUAGE_ATTENTION_MASK, OBS_LANGUAGE_TOKENS, OBS_STATE
from lerobot.utils.import_utils import require_package
from torch import Tensor, nn

from lerobot_lara.groot_n16 import processor_groot_n16 as keys
from lerobot_lara.groot_n16.configuration_groot_n16 import GrootN16Config
from lerobot_lara.groot_n16.images import prepare_images
from lerobot_lara.groot_n16.model import GrootN16Model
from lerobot_lara.groot_n16.normalization import decode_actions
from lerobot_lara.groot_n16.release import Release
from lerobot_lara.groot_n16.robot import resolve_cameras
from lerobot_lara.policy.alignment_contract import TapPoint
from lerobot_lara.policy.base import LaraPolicyBase
from lerobot_lara.policy.checkpoint_files import Checkpoint
from lerobot_lara.policy.loading import loading
from lerobot_lara.training.finite import require_finite, require_finite_losses
from lerobot_lara.training.log import read_numbers
from lerobot_lara.training.memory import class_names, configure_networks


class GrootN16Policy(LaraPolicyBase):
    """GR00T N1.6.

    Batch keys, as the policy's preprocessor prepares them: every camera of `config.cameras` (B, 3, H, W) in [0, 1];
    `observation.language.tokens` and `.attention_mask` (B, L); `observation.state` (B, S) encoded; `embodiment_id`
    (B,); in training `action` and `action_mask` (B, T, A); to act `action_offset`, `action_scale` and `action_bound`.

    Args:
        config: The configuration. With a `base_model_path`, what NVIDIA's files say replaces its values, in place as
            LeRobot makes processors from it afterwards, and a new policy has their weights.
        dataset_meta: Passed by LeRobot's training.
        **kwargs: Further arguments of LeRobot's training, which are not used.
    """

    config_class = GrootN16Config
    name = "groot_n16"

    def __init__(self, config: GrootN16Config, *, dataset_meta: Any = None, **kwargs: Any) -> None:
        require_package("transformers", extra="groot")
        super().__init__(config, dataset_meta=dataset_meta)
        release = None
        if config.base_model_path is not None and not self._is_own_checkpoint(self.loaded_from):
            release = Release(Checkpoint(config.base_model_path, config.base_model_revision))
            release.configure(config)
        config.validate_features()
        config.cameras = resolve_cameras(config, release)
        self.config = config
        self.model = GrootN16Model(config)
        if release is not None:
            release.load_weights(self.model)
        self._is_compiled = config.compile_model and not self.only_acts
        configure_networks(
            networks=[self.model.action_head.model],
            blocks=self._blocks,
            compile_model=self._is_compiled,
            gradient_checkpointing=config.gradient_checkpointing and not self.only_acts,
        )
        self.reset()

    @classmethod
    def from_pretrained(
        cls,
        pretrained_name_or_path: str | Path,
        *,
        config: PreTrainedConfig | None = None,
        dataset_meta: Any = None,
        **kwargs: Any,
    ) -> Self:
        """Loads a checkpoint of LeRobot, or one in NVIDIA's layout.

        Args:
            pretrained_name_or_path: Folder or Hub id.
            config: Used instead of the checkpoint's; NVIDIA's layout has none, so there it names the features.
            dataset_meta: Metadata of the data to train on; None loads the policy to act.
            **kwargs: Arguments of LeRobot's `from_pretrained`, such as `revision`.

        Raises:
            ValueError: The checkpoint is of another policy or generation of GR00T, or does not fit.
        """
        checkpoint = Checkpoint.of(pretrained_name_or_path, kwargs)
        if "type" in checkpoint.config:
            return super().from_pretrained(
                pretrained_name_or_path, config=config, dataset_meta=dataset_meta, **kwargs
            )
        Release(checkpoint)
        if not isinstance(config, GrootN16Config):
            raise ValueError(
                f"{checkpoint.path} is in NVIDIA's layout, which does not name a robot's cameras, state and actions. "
                "Pass a `config` of type 'groot_n16' with `input_features` and `output_features`."
            )
        config.base_model_path, config.base_model_revision = checkpoint.path, checkpoint.revision
        if str(config.pretrained_path) == checkpoint.path:
            # LeRobot then makes new processors, as the release has none of LeRobot's.
            config.pretrained_path = config.pretrained_revision = None
        with loading(checkpoint, to_train=dataset_meta is not None):
            policy = cls(config, dataset_meta=dataset_meta)
        return policy.to(config.device).eval()

    @classmethod
    def adapt_config(cls, config: Any, checkpoint: Checkpoint, dataset_meta: Any) -> Any:
        """Refuses the checkpoint of a type that this one does not build on."""
        saved = checkpoint.config["type"]
        if not issubclass(type(config), PreTrainedConfig.get_choice_class(saved)):
            raise ValueError(
                f"{checkpoint.path} is a checkpoint of type {saved!r}; it must be of type {cls.name!r}. Pass "
                f"--policy.type={saved}, or start from nvidia/GR00T-N1.6-3B."
            )
        return config

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """The training objective on one batch (keys in the class docstring), with its terms for the log."""
        loss, log = self.flow_loss(batch)
        numbers = read_numbers(log)
        require_finite_losses(numbers, batch)
        return loss, numbers

    def flow_loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Flow-matching loss over valid steps and real action dimensions.

        Args:
            batch: See the class.

        Returns:
            The loss, and scalars for the log.
        """
        with self._autocast():
            output = self.model.action_head(self._read(batch), self._robot(batch, with_action=True))
        return output["loss"], {"flow_loss": output["loss"]}

    @torch.no_grad()
    def predict_action_chunk(self, batch: dict[str, Tensor], **kwargs: Any) -> Tensor:
        """Integrates the velocity from noise to a chunk of actions.

        Args:
            batch: See the class.
            **kwargs: Ignored; there is no real-time chunking.

        Returns:
            (B, chunk_size, robot action dim) in the robot's own units.

        Raises:
            ValueError: An action is not finite: no robot should get it.
        """
        self.eval()
        with self._autocast():
            output = self.model.action_head.get_action(
                self._read(batch), self._robot(batch, with_action=False)
            )
        offset, scale = batch[keys.ACTION_OFFSET], batch[keys.ACTION_SCALE]
        normalized = output["action_pred"].float()[:, : self.config.chunk_size, : offset.shape[-1]]
        actions = decode_actions(normalized, offset, scale, batch[keys.ACTION_BOUND])
        require_finite({"action": actions}, "Predicted actions", "Check the observation and the checkpoint.")
        return actions

    @torch.no_grad()
    def select_action(self, batch: dict[str, Tensor], **kwargs: Any) -> Tensor:
        """The next action (B, robot action dim); predicts a new chunk every `n_action_steps` calls."""
        if not self._action_queue:
            chunk = self.predict_action_chunk(batch, **kwargs)
            self._action_queue.extend(chunk[:, : self.config.n_action_steps].unbind(1))
        return self._action_queue.popleft()

    def reset(self) -> None:
        """Forgets the rest of the current chunk; called when an episode starts."""
        self._action_queue: deque[Tensor] = deque()

    def get_optim_params(self) -> Any:
        """The trained parameters; biases and norms are not decayed, as in NVIDIA's recipe."""
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return [
            {"params": [parameter for parameter in trained if parameter.ndim > 1]},
            {"params": [parameter for parameter in trained if parameter.ndim <= 1], "weight_decay": 0.0},
        ]

    @property
    def alignment_taps(self) -> list[TapPoint]:
        """The output of every block of the DiT."""
        return [TapPoint(block) for block in self._blocks]

    @property
    def alignment_width(self) -> int:
        """Width of the hidden states."""
        return self.model.action_head.model.inner_dim

    def action_tokens(self, hidden_states: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Leaves out the state's token, and names the steps that the loss counts.

        Args:
            hidden_states: (B, 1 + T, D).
            batch: As for `flow_loss`.

        Returns:
            (B, T, D), and (B, T) bool.
        """
        mask = batch[keys.ACTION_MASK]
        return hidden_states[:, -mask.shape[1] :], mask.any(dim=-1)

    @property
    def _blocks(self) -> list[nn.Module]:
        return list(self.model.action_head.model.transformer_blocks)

    @property
    def _no_split_modules(self) -> list[str]:
        """Class names of the blocks that FSDP shards (transformers' name for the list, which accelerate asks for)."""
        return class_names(self._blocks)

    @staticmethod
    def _is_own_checkpoint(source: Any) -> bool:
        return source is not None and "type" in source.checkpoint.config

    def _autocast(self) -> torch.autocast:
        device = next(self.parameters()).device.type
        return torch.autocast(device, dtype=torch.bfloat16, enabled=self.config.dtype == "bfloat16")

    def _read(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        images = [batch[key] for key in self.config.cameras]
        # One window for all cameras of a sample.
        position = torch.rand(len(images[0]), 2, device=images[0].device) if self.training else None
        prepared = [
            prepare_images(
                camera,
                shortest_edge=self.config.shortest_image_edge,
                crop_fraction=self.config.crop_fraction,
                token_side=self.config.token_side,
                crop_position=position,
            )
            for camera in images
        ]
        return self.model.read(
            prepared, batch[OBS_LANGUAGE_TOKENS], batch[OBS_LANGUAGE_ATTENTION_MASK].bool()
        )

    def _robot(self, batch: dict[str, Tensor], *, with_action: bool) -> dict[str, Tensor]:
        inputs = {"state": batch[OBS_STATE][:, None], "embodiment_id": batch[keys.EMBODIMENT_ID]}
        if with_action:
            inputs |= {"action": batch[ACTION], "action_mask": batch[keys.ACTION_MASK]}
        return inputs
