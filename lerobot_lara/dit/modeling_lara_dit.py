"""`lara_dit` as a LeRobot policy: batches in, losses and action chunks out.

Legend: B batch, T action chunk, A action dim (padded), S state dim (padded).
"""

from collections import deque
from pathlib import Path
from typing import Any

import torch
from lerobot.policies.common.flow_matching import euler_integrate
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.policies.rtc.modeling_rtc import RTCProcessor
from lerobot.utils.constants import ACTION, OBS_LANGUAGE_ATTENTION_MASK, OBS_LANGUAGE_TOKENS, OBS_STATE
from torch import Tensor, nn
from torch.nn import functional as F

from lerobot_lara.backbones.encoders import ImageEncoder
from lerobot_lara.backbones.images import check_images
from lerobot_lara.backbones.vision_language import check_instructions
from lerobot_lara.batch.keys import (
    ACTION_DIM_IS_PAD,
    ACTION_EXTRA,
    DATASET_INDEX,
    EMBODIMENT_ID,
    IMAGE_TOKENS,
    PROMPT,
    STATE_EXTRA,
)
from lerobot_lara.dit import processor_lara_dit  # noqa: F401  registers the tokenizer step
from lerobot_lara.dit.configuration_lara_dit import LaraDiTConfig
from lerobot_lara.dit.embodiment_loading import EmbodimentLoading
from lerobot_lara.dit.flow_matching import (
    flow_matching_loss,
    interpolate,
    sample_errors,
    sample_timestep,
    velocity_target,
)
from lerobot_lara.dit.networks import build_action_head, build_observation_encoder
from lerobot_lara.policy.base import StrictLoading
from lerobot_lara.policy.mixture_record import MixtureRecord
from lerobot_lara.training.augmentation import random_shift, sample_shifts
from lerobot_lara.training.memory import accelerate, class_names, remember_outputs


class LaraDiTPolicy(MixtureRecord, EmbodimentLoading, StrictLoading, PreTrainedPolicy):
    """Flow-matching DiT policy.

    Batch keys: every camera of `config.image_features` (B, 3, H, W) in [0, 1]; `observation.state` (B, S);
    `observation.language.tokens` and `.attention_mask` (B, L); in training `action` (B, T, A) with
    `action_is_pad` (B, T). A mixture adds those of `lerobot_lara.batch.keys`, and `<camera>_is_pad` (B, 1 or 2),
    whose first column is True where a sample's dataset lacks the camera.

    Args:
        config: The configuration.
        to_act: Leave out what serves training only (compilation, gradient checkpointing).
        **kwargs: `dataset_meta`, passed by LeRobot's training.
    """

    config_class = LaraDiTConfig
    name = "lara_dit"

    def __init__(self, config: LaraDiTConfig, *, to_act: bool = False, **kwargs: Any) -> None:
        super().__init__(
            config,
            dataset_meta=kwargs.get("dataset_meta"),
            saved_embodiments=kwargs.get("saved_embodiments"),
        )
        config.validate_features()
        self.config = config
        self.observation_encoder = build_observation_encoder(config)
        self.action_head = build_action_head(config, context_width=self.observation_encoder.width)
        if config.conditioning == "vlm":
            tasks = getattr(kwargs.get("dataset_meta"), "tasks", None)
            check_instructions([] if tasks is None else list(tasks.index))
        # Only for training: a policy that acts starts at once, and needs no compiler.
        self._is_compiled = config.compile_model and not to_act
        accelerate(
            networks=[self.action_head, *self.observation_encoder.trained_networks],
            blocks=[*self._blocks, *self.observation_encoder.unwrapped_blocks],
            compile_model=self._is_compiled,
            gradient_checkpointing=config.gradient_checkpointing and not to_act,
        )
        self.init_rtc_processor()
        self.reset()

    @classmethod
    def from_pretrained(cls, pretrained_name_or_path: str | Path, **kwargs: Any) -> Any:
        """LeRobot's `from_pretrained`; to train if `dataset_meta` is given, else to act."""
        kwargs.setdefault("to_act", kwargs.get("dataset_meta") is None)
        return super().from_pretrained(pretrained_name_or_path, **kwargs)

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """The training objective on one batch (keys in the class docstring), with its terms for the log."""
        return self.compute_flow_loss(self.augment(batch))

    def augment(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """In training, shifts images at random, all frames and cameras of a sample alike; a new dict."""
        pixels = self.config.random_shift
        cameras = [key for key in self.config.image_features if key in batch]
        if not self.training or pixels == 0 or not cameras:
            return batch
        images = batch[cameras[0]]
        shifts = sample_shifts(len(images), pixels, device=images.device)
        return {**batch, **{key: random_shift(batch[key], pixels, shifts=shifts) for key in cameras}}

    def compute_flow_loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """Flow-matching loss over valid steps and real action dimensions.

        A sample whose steps are all padding has no actions: the policy then sees the null state and pure
        noise at t = 0, and the sample adds nothing to this loss.
        """
        actions = self._with_extra_dims(batch[ACTION], batch, ACTION_EXTRA, "action")  # (B, T, A)
        step_valid = self._step_valid(batch)
        labeled = step_valid.any(dim=1)  # (B,)
        dim_valid = self._dim_valid(batch, actions)[:, None]  # (B or 1, 1, A)
        noise = torch.randn_like(actions) * dim_valid
        timestep = sample_timestep(
            len(actions),
            alpha=self.config.time_alpha,
            beta=self.config.time_beta,
            s=self.config.time_s,
            device=actions.device,
        )
        timestep = torch.where(labeled, timestep, torch.zeros_like(timestep))
        velocity = self.action_head(
            interpolate(noise, actions, timestep),
            timestep,
            state_valid=labeled & self._state_known(batch, labeled),
            **self._encode_observation(batch),
        )
        valid = step_valid[..., None] & dim_valid  # (B, T, A)
        target = velocity_target(noise, actions)
        loss = flow_matching_loss(velocity, target, valid)
        log = {"flow_loss": loss.item()}
        if DATASET_INDEX in batch:
            log["labeled_share"] = labeled.float().mean().item()
            errors = sample_errors(velocity.detach(), target, valid)  # (B,)
            log |= self.dataset_means(
                "flow_loss", errors, labeled, batch[DATASET_INDEX], of_actions=True, remember=self.training
            )
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
        """
        self.eval()
        observation = self._encode_observation(batch)
        if noise is None:
            shape = (len(observation["context"]), self.config.chunk_size, self.config.action_dim)
            noise = torch.randn(shape, device=observation["context"].device)

        # Padded dimensions stay 0 all along the flow, as in training.
        assert self.config.action_feature is not None
        robot_dim = self.config.action_feature.shape[0]
        real = torch.arange(self.config.action_dim, device=noise.device) < robot_dim  # (A,)

        def velocity_to_noise(noisy_actions: Tensor, time: Tensor) -> Tensor:
            # LeRobot integrates from its t = 1 (noise) down to 0 (actions): the flow seen backwards.
            return -self.action_head(noisy_actions, 1 - time, **observation).float() * real

        # A compiled head is left as it was traced.
        constant = [] if self._is_compiled else self.action_head.context_projections()
        with remember_outputs(constant):
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
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def _get_default_peft_targets(self) -> dict[str, Any]:
        """What `--peft.*` adapts by default: the blocks' attention. What meets the robot is trained in full."""
        return {
            "target_modules": r"action_head\.blocks\.\d+\.\w*attention\.(to_q|to_k|to_v|to_out\.0)",
            "modules_to_save": ["state_encoder", "action_encoder", "action_decoder"],
        }

    def supports_rtc(self) -> bool:
        return True

    def init_rtc_processor(self) -> None:
        """Builds LeRobot's real-time chunking guidance; the rollout calls it after setting `rtc_config`."""
        rtc = self.config.rtc_config
        self.rtc_processor = None if rtc is None else RTCProcessor(rtc)

    def _rtc_enabled(self) -> bool:
        return self.config.rtc_config is not None and self.config.rtc_config.enabled

    @property
    def _blocks(self) -> list[nn.Module]:
        """Transformer blocks that are trained, but for those inside a vision-language model."""
        return [*self.action_head.blocks, *self.observation_encoder.trained_blocks]

    @property
    def _no_split_modules(self) -> list[str]:
        """What FSDP shards block by block (transformers' name for it, which accelerate asks for)."""
        return class_names(self._blocks)

    @property
    def shared_image_encoder(self) -> ImageEncoder | None:
        """The image encoder, if it is frozen and can stand in for that of a latent action model."""
        encoder = getattr(self.observation_encoder, "image_encoder", None)
        return encoder if encoder is not None and encoder.frozen else None

    @property
    def alignment_blocks(self) -> nn.ModuleList:
        """The blocks whose hidden states an alignment may tap."""
        return self.action_head.blocks

    @property
    def alignment_width(self) -> int:
        """Width of those hidden states."""
        return self.config.width

    def action_token_states(self, hidden_states: Tensor) -> Tensor:
        """(B, 1 + N, D) hidden states of a block -> (B, N, D) at the action tokens."""
        return hidden_states[:, 1:]

    def action_token_valid(self, batch: dict[str, Tensor]) -> Tensor:
        """(B, N) bool: action tokens that hold at least one real step; all of them where none is labeled."""
        patched = self._step_valid(batch).unflatten(1, (-1, self.config.action_patch_size)).any(-1)  # (B, N)
        return patched | ~patched.any(dim=1, keepdim=True)

    def _encode_observation(self, batch: dict[str, Tensor]) -> dict[str, Any]:
        missing = [key for key in self.config.image_features if key not in batch]
        if missing:
            cameras = sorted(key for key in batch if key.startswith("observation.image"))
            raise ValueError(
                f"The batch lacks camera {missing} of `input_features`; it has {cameras}. Rename the "
                "dataset's cameras with --rename_map or train on its own."
            )
        images = [batch[key] for key in self.config.image_features]
        for key, image in zip(self.config.image_features, images, strict=True):
            check_images(image, key)
        context, context_mask = self.observation_encoder(
            images,
            batch.get(OBS_LANGUAGE_TOKENS),
            batch.get(OBS_LANGUAGE_ATTENTION_MASK),
            image_valid=self._image_valid(batch),
            **self._prepared_inputs(batch),
        )
        if self.config.state_dim and OBS_STATE not in batch:
            raise ValueError(f"The batch lacks `{OBS_STATE}`, with which this policy was trained.")
        state = batch[OBS_STATE] if self.config.state_dim else None
        return {
            "context": context,
            "context_mask": context_mask,
            "state": None if state is None else self._with_extra_dims(state, batch, STATE_EXTRA, "state"),
            "embodiment_id": self._embodiment_id(batch, context),
        }

    def _prepared_inputs(self, batch: dict[str, Tensor]) -> dict[str, Any]:
        """Inputs of the observation encoder beside images and instruction, that came with the batch."""
        if self.config.conditioning == "vlm":
            return {
                key.removeprefix(PROMPT): values for key, values in batch.items() if key.startswith(PROMPT)
            }
        return {"image_tokens": [batch.get(IMAGE_TOKENS + camera) for camera in self.config.image_features]}

    def _state_known(self, batch: dict[str, Tensor], like: Tensor) -> Tensor:
        """(B,) bool, False where a sample's dataset has no state."""
        is_pad = batch.get(f"{OBS_STATE}_is_pad")
        return torch.ones_like(like) if is_pad is None else ~is_pad.bool().reshape(len(like), -1)[:, 0]

    def _image_valid(self, batch: dict[str, Tensor]) -> Tensor | None:
        """(B, V) bool, False where a camera is missing; None if none is anywhere."""
        flags = [batch.get(f"{camera}_is_pad") for camera in self.config.image_features]
        if all(flag is None for flag in flags):
            return None
        images = batch[next(iter(self.config.image_features))]
        present = torch.ones(len(images), dtype=torch.bool, device=images.device)
        # Of two flags, the second is that of the future frame.
        missing = [~present if flag is None else flag.bool().reshape(len(images), -1)[:, 0] for flag in flags]
        return ~torch.stack(missing, dim=1)

    def _with_extra_dims(self, values: Tensor, batch: dict[str, Tensor], key: str, name: str) -> Tensor:
        """Appends the dimensions beyond the reference dataset's, then pads to the policy's width."""
        if key in batch:
            values = torch.cat([values, batch[key].to(values.dtype)], dim=-1)
        width = getattr(self.config, f"{name}_dim")
        if values.shape[-1] > width:
            raise ValueError(
                f"The batch has {values.shape[-1]} {name} dimensions, but `max_{name}_dim` leaves room for {width}. "
                f"Raise --policy.max_{name}_dim."
            )
        return _pad_last(values, width)

    def _embodiment_id(self, batch: dict[str, Tensor], context: Tensor) -> Tensor:
        if EMBODIMENT_ID not in batch:
            return torch.full((len(context),), self.config.embodiment_id, device=context.device)
        embodiment_id = batch[EMBODIMENT_ID].long().reshape(-1)
        if int(embodiment_id.max()) >= self.config.num_embodiments or int(embodiment_id.min()) < 0:
            raise ValueError(
                f"`{EMBODIMENT_ID}` {embodiment_id.unique().tolist()} is outside "
                f"[0, {self.config.num_embodiments}), the rows of `embodiments` {self.config.embodiments}."
            )
        return embodiment_id

    def _step_valid(self, batch: dict[str, Tensor]) -> Tensor:
        is_pad = batch.get("action_is_pad")
        if is_pad is None:
            return torch.ones(batch[ACTION].shape[:2], dtype=torch.bool, device=batch[ACTION].device)
        return ~is_pad.bool()

    def _dim_valid(self, batch: dict[str, Tensor], actions: Tensor) -> Tensor:
        if ACTION_DIM_IS_PAD in batch:
            is_pad = batch[ACTION_DIM_IS_PAD].bool()
            return ~F.pad(is_pad, (0, actions.shape[-1] - is_pad.shape[-1]), value=True)  # (B, A)
        return (torch.arange(actions.shape[-1], device=actions.device) < batch[ACTION].shape[-1])[
            None
        ]  # (1, A)


def _pad_last(x: Tensor, width: int) -> Tensor:
    return F.pad(x, (0, width - x.shape[-1]))
