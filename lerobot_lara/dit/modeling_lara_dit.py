"""`lara_dit` as a LeRobot policy: batches in, losses and action chunks out.

Legend: B batch, T action chunk, A action dim (padded), N action tokens, D width.
"""

from collections import deque
from contextlib import AbstractContextManager
from typing import Any

import torch
from lerobot.policies.common.flow_matching import euler_integrate
from lerobot.policies.rtc.modeling_rtc import RTCProcessor
from torch import Tensor, nn

from lerobot_lara.backbones.encoders import ImageEncoder
from lerobot_lara.backbones.vision_language import check_instructions
from lerobot_lara.batch.checks import Periodic
from lerobot_lara.batch.keys import LATENT_SHIFT
from lerobot_lara.batch.observation import ActionChunk, Observation, step_valid
from lerobot_lara.dit import processor_lara_dit  # noqa: F401  registers the tokenizer step
from lerobot_lara.dit.configuration_lara_dit import LaraDiTConfig
from lerobot_lara.dit.embodiment_loading import rows_by_name
from lerobot_lara.dit.flow_matching import (
    flow_matching_loss,
    interpolate,
    path_velocity,
    sample_errors,
    sample_timestep,
)
from lerobot_lara.dit.networks import build_action_head, build_observation_encoder
from lerobot_lara.policy.alignment_contract import TapPoint
from lerobot_lara.policy.base import LaraPolicyBase
from lerobot_lara.policy.checkpoint_files import Checkpoint
from lerobot_lara.policy.embodiments import adapt_embodiments
from lerobot_lara.training.augmentation import shift_cameras
from lerobot_lara.training.finite import require_finite, require_finite_losses
from lerobot_lara.training.log import read_numbers
from lerobot_lara.training.memory import class_names, configure_networks


class LaraDiTPolicy(LaraPolicyBase):
    """Flow-matching DiT policy.

    Batch keys: every camera of `config.image_features` (B, 3, H, W) in [0, 1]; `observation.state` (B, S);
    `observation.language.tokens` and `.attention_mask` (B, L); in training `action` (B, T, A) with
    `action_is_pad` (B, T). A mixture adds those of `lerobot_lara.batch.keys`, and `<camera>_is_pad`, whose first column
    is True where a sample's dataset lacks the camera.

    Args:
        config: The configuration.
        dataset_meta: Passed by LeRobot's training.
        **kwargs: Further arguments of LeRobot's training, which are not used.
    """

    config_class = LaraDiTConfig
    name = "lara_dit"

    def __init__(self, config: LaraDiTConfig, *, dataset_meta: Any = None, **kwargs: Any) -> None:
        super().__init__(config, dataset_meta=dataset_meta)
        config.validate_features()
        self.config = config
        self.observation_encoder = build_observation_encoder(config)
        self.action_head = build_action_head(config, context_width=self.observation_encoder.width)
        if config.conditioning == "vlm":
            tasks = getattr(dataset_meta, "tasks", None)
            check_instructions([] if tasks is None else list(tasks.index))
        # Only for training: a policy that acts starts at once, and needs no compiler.
        self._is_compiled = config.compile_model and not self.only_acts
        configure_networks(
            networks=[self.action_head, *self.observation_encoder.trained_networks],
            blocks=[*self._blocks, *self.observation_encoder.unwrapped_blocks],
            compile_model=self._is_compiled,
            gradient_checkpointing=config.gradient_checkpointing and not self.only_acts,
        )
        self._value_check = Periodic()
        self.init_rtc_processor()
        self.reset()

    @classmethod
    def adapt_config(cls, config: Any, checkpoint: Checkpoint, dataset_meta: Any) -> Any:
        """See `adapt_embodiments`."""
        return adapt_embodiments(config, checkpoint, dataset_meta)

    def arrange_weights(self, checkpoint: Checkpoint) -> AbstractContextManager[None]:
        """Rows of per-embodiment weights follow their names."""
        return rows_by_name(self, checkpoint.config["embodiments"], self.config.embodiments)

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """The training objective on one batch (keys in the class docstring), with its terms for the log."""
        loss, log = self.flow_loss(self.augment(batch))
        numbers = read_numbers(log)
        require_finite_losses(numbers, batch)
        return loss, numbers

    def augment(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """In training, shifts images at random, all frames and cameras of a sample alike; a new dict.

        Samples with labels of shifted frames are shifted as those were.
        """
        if not self.training:
            return batch
        config = self.config
        shifts = batch.get(LATENT_SHIFT)
        return shift_cameras(batch, config.image_features, config.random_shift, shifts=shifts)

    def flow_loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Flow-matching loss over valid steps and real action dimensions.

        A sample whose steps are all padding has no actions: the policy then sees the null state and pure
        noise at t = 0, and the sample adds nothing to this loss.

        Args:
            batch: See the class; observations are those of o_t, without a time axis.

        Returns:
            The loss, and scalars for the log.
        """
        observation = self._observation(batch, check_values=not self.training or self._value_check.due())
        chunk = ActionChunk.from_batch(batch, self.config.batch_layout)
        noise = torch.randn_like(chunk.actions) * chunk.dim_valid
        timestep = torch.where(chunk.labeled, self._sample_timestep(chunk.actions), 0.0)
        predicted = self.action_head(
            interpolate(noise, chunk.actions, timestep),
            timestep,
            state_valid=chunk.labeled & observation.state_valid,
            **self._condition(observation),
        )
        velocity = path_velocity(noise, chunk.actions)
        loss = flow_matching_loss(predicted, velocity, chunk.valid)
        log = {"flow_loss": loss}
        if observation.dataset_index is not None:
            log |= self._log_by_dataset(predicted.detach(), velocity, chunk, observation.dataset_index)
        return loss, log

    @torch.no_grad()
    def predict_action_chunk(
        self,
        batch: dict[str, Tensor],
        noise: Tensor | None = None,
        inference_delay: int | None = None,
        prev_chunk_left_over: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Integrates the velocity from noise to a chunk of normalized actions.

        Args:
            batch: Observation as in the class docstring.
            noise: (B, T, A) start of the flow; the same noise gives the same chunk, bit for bit.
            inference_delay: Real-time chunking: control steps that pass while this call runs.
            prev_chunk_left_over: Real-time chunking: (T', A) or (B, T', A) actions not yet executed.
            **kwargs: Further real-time chunking arguments (`execution_horizon`).

        Returns:
            (B, T, robot action dim).

        Raises:
            ValueError: An action is not finite: no robot should get it.
        """
        self.eval()
        condition = self._condition(self._observation(batch))
        if noise is None:
            shape = (len(condition["context"]), self.config.chunk_size, self.config.action_dim)
            noise = torch.randn(shape, device=condition["context"].device)

        # Padded dimensions stay 0 all along the flow, as in training.
        assert self.config.action_feature is not None
        robot_dim = self.config.action_feature.shape[0]
        real = torch.arange(self.config.action_dim, device=noise.device) < robot_dim  # (A,)

        # The same in all steps. A compiled head is called as it was traced.
        if not self._is_compiled:
            condition["context_keys_values"] = self.action_head.project_context(condition["context"])

        def velocity_to_noise(noisy_actions: Tensor, time: Tensor) -> Tensor:
            # LeRobot integrates from its t = 1 (noise) down to 0 (actions): the flow seen backwards.
            return -self.action_head(noisy_actions, 1 - time, **condition).float() * real

        actions = euler_integrate(
            velocity_to_noise,
            noise.float() * real,
            self.config.num_inference_steps,
            rtc_processor=self.rtc_processor,
            rtc_enabled=self._rtc_enabled(),
            inference_delay=inference_delay,
            prev_chunk_left_over=prev_chunk_left_over,
            execution_horizon=kwargs.get("execution_horizon"),
        )
        require_finite({"action": actions}, "Predicted actions", "Check the observation and the checkpoint.")
        return actions[..., :robot_dim]

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
        """The trained parameters; frozen encoders are not among them."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def _get_default_peft_targets(self) -> dict[str, Any] | None:
        """What `--peft.*` adapts by default: attention. State and action projections are trained in full."""
        return {
            "target_modules": r"action_head\.blocks\.\d+\.\w*attention\.(to_q|to_k|to_v|to_out\.0)",
            "modules_to_save": ["state_encoder", "action_encoder", "action_decoder"],
        }

    def supports_rtc(self) -> bool:
        """True: `predict_action_chunk` takes the arguments of real-time chunking."""
        return True

    def init_rtc_processor(self) -> None:
        """Builds LeRobot's real-time chunking guidance; the rollout calls it after setting `rtc_config`."""
        rtc = self.config.rtc_config
        self.rtc_processor = None if rtc is None else RTCProcessor(rtc)

    def _rtc_enabled(self) -> bool:
        return self.config.rtc_config is not None and self.config.rtc_config.enabled

    @property
    def _blocks(self) -> list[nn.Module]:
        """Trained transformer blocks, except those inside a vision-language model."""
        return [*self.action_head.blocks, *self.observation_encoder.trained_blocks]

    @property
    def _no_split_modules(self) -> list[str]:
        """Class names of the blocks that FSDP shards (transformers' name for the list, which accelerate asks for)."""
        return class_names(self._blocks)

    @property
    def shared_image_encoder(self) -> ImageEncoder | None:
        """The image encoder, if it is frozen and can stand in for that of a latent action model."""
        encoder = getattr(self.observation_encoder, "image_encoder", None)
        return encoder if encoder is not None and encoder.frozen else None

    @property
    def alignment_taps(self) -> list[TapPoint]:
        """The output of every block."""
        return [TapPoint(block) for block in self.action_head.blocks]

    @property
    def alignment_width(self) -> int:
        """Width of the hidden states."""
        return self.config.width

    def action_tokens(self, hidden_states: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Leaves out the state's token.

        Args:
            hidden_states: (B, 1 + N, D).
            batch: As for `flow_loss`.

        Returns:
            (B, N, D), and (B, N) bool: tokens that hold at least one real step; all of them where none is labeled.
        """
        patched = step_valid(batch).unflatten(1, (-1, self.config.action_patch_size)).any(-1)  # (B, N)
        return hidden_states[:, 1:], patched | ~patched.any(dim=1, keepdim=True)

    def _observation(self, batch: dict[str, Tensor], *, check_values: bool = True) -> Observation:
        return Observation.from_batch(batch, self.config.batch_layout, check_values=check_values)

    def _condition(self, observation: Observation) -> dict[str, Any]:
        """What the action head is given beside the noisy actions and their flow time."""
        prepared: dict[str, Any] = (
            observation.prompt
            if self.config.conditioning == "vlm"
            else {"image_tokens": observation.image_tokens}
        )
        context, context_mask = self.observation_encoder(
            observation.images,
            observation.language_tokens,
            observation.language_mask,
            image_valid=observation.image_valid,
            **prepared,
        )
        return {
            "context": context,
            "context_mask": context_mask,
            "state": observation.state,
            "embodiment_id": observation.embodiment_id,
        }

    def _sample_timestep(self, actions: Tensor) -> Tensor:
        config = self.config
        return sample_timestep(
            len(actions),
            alpha=config.time_alpha,
            beta=config.time_beta,
            s=config.time_s,
            device=actions.device,
        )

    def _log_by_dataset(
        self, predicted: Tensor, velocity: Tensor, chunk: ActionChunk, dataset_index: Tensor
    ) -> dict[str, Tensor]:
        means = self.mixture.means(
            "flow_loss",
            sample_errors(predicted, velocity, chunk.valid),
            chunk.labeled,
            dataset_index,
            of_actions=True,
            remember=self.training,
        )
        return {"labeled_share": chunk.labeled.float().mean()} | means if means else {}
