"""Configuration of `moto_gpt`, the token policy on latent actions (Moto-GPT, arXiv 2412.04445)."""

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

from lerobot.configs import NormalizationMode, PreTrainedConfig

from lerobot_lara.batch.label_request import LabelRequest
from lerobot_lara.batch.observation import BatchLayout
from lerobot_lara.moto_gpt.tokenizer import read_tokenizer, tokenizer_of
from lerobot_lara.policy.control_rate import ControlRateConfig
from lerobot_lara.training.config import TrainingConfig
from lerobot_lara.training.portable import is_local
from lerobot_lara.training.validation import require_field

SOURCES = (None, "labels", "lam")


@PreTrainedConfig.register_subclass("moto_gpt")
@dataclass
class MotoGPTConfig(TrainingConfig, ControlRateConfig):
    """A GPT that predicts the codes of the next latent actions, and actions beside them; optimized as `TrainingConfig`.

    Pre-training on video alone (`predict_actions=false`), fine-tuning on demonstrations and training on both at once
    are one type: what a sample lacks adds nothing to the loss.

    It differs from the released model where that is known to cost something: latent tokens have position embeddings
    (the authors recommend them for reproduction), image tokens keep their order (theirs are shuffled in every call), a
    state is used where the robot has one, and no action is carried over from the episode before.

    Args:
        lam_labels: Folder of the dataset's codes, as `lara label` writes it. A mixture file names the labels of each
            entry itself.
        lam_path: Latent action model with a codebook that computes the codes in every step, instead of labels: a
            `lara_lam` folder or Hub id.
        lam_camera: Camera that it looks at; None is the policy's first.
        latent_source: "labels" or "lam"; None follows from `lam_labels` and `lam_path`.
        frame_gap: K', control steps between the frames of a latent action; that of the labels or the model.
        latent_steps: T, latent actions to predict, one after the other.
        actions_per_step: Actions of each latent step; None is `frame_gap`, so that they reach as far.
        num_latent_tokens: L; None takes that of the labels or the model.
        codebook_size: V; None takes that of the labels or the model.
        codebook_per_token: Whether each latent token has codes of its own; taken from the labels or the model.
        tokenizer: Fingerprint of what made the codes; taken from the labels or the model. Codes of another one are
            refused.
        predict_latents: False is the policy without latent tokens, from instruction and image alone.
        predict_actions: False pre-trains on video alone. Training on from such a checkpoint starts the action heads
            anew.
        n_action_steps: Actions executed before the next prediction.
        latent_mask_probability: Chance that the actions of a training sample do not see a step's latent tokens.
        act_with_latents: Decode latent tokens when acting. The released policies do not: their actions come from
            instruction and image in one pass.
        step_embeddings: Learned vector for each latent step.
        latent_position_embeddings: Learned vector for each position among the latent tokens of a step.
        latent_loss_weight: Weight of the codes' cross-entropy.
        action_loss_weight: Weight of the arm's loss. The released model has 100 for actions of about 0.1 that are not
            normalized, which is about 1 for normalized ones.
        gripper_index: Dimension of the action that has a head of its own, such as -1; None for none.
        gripper_loss: "smooth_l1", or "bce" for a gripper that is open or closed.
        width: Width of the GPT.
        num_layers: Its blocks.
        num_heads: Attention heads; divides `width`.
        dropout: Of embeddings, attention and residuals, in [0, 1).
        vision_encoder: As in `LaraDiTConfig`.
        vision_encoder_layer: As in `LaraDiTConfig`.
        vision_encoder_width: As in `LaraDiTConfig`.
        freeze_vision_encoder: As in `LaraDiTConfig`.
        image_size: Images are resized to this square, in pixels.
        random_shift: Largest random shift of training images, in pixels of the dataset's images. Codes of labels are
            those of the frames as they are.
        text_encoder: As in `LaraDiTConfig`; all of its tokens are used.
        tokenizer_max_length: Longest instruction, in tokens.
        use_state: Whether the policy sees the robot's state, if there is one.
    """

    supports_mixtures: ClassVar[bool] = True
    conditioning: ClassVar[str] = "encoders"

    lam_labels: str | None = None
    lam_path: str | None = None
    lam_camera: str | None = None
    latent_source: str | None = None
    frame_gap: int = 16
    latent_steps: int = 2
    actions_per_step: int | None = None
    num_latent_tokens: int | None = None
    codebook_size: int | None = None
    codebook_per_token: bool = False
    tokenizer: str | None = None
    predict_latents: bool = True
    predict_actions: bool = True
    n_action_steps: int = 8

    latent_mask_probability: float = 0.5
    act_with_latents: bool = False
    step_embeddings: bool = True
    latent_position_embeddings: bool = True
    latent_loss_weight: float = 1.0
    action_loss_weight: float = 1.0
    gripper_index: int | None = None
    gripper_loss: str = "smooth_l1"

    width: int = 256
    num_layers: int = 6
    num_heads: int = 8
    dropout: float = 0.1

    vision_encoder: str = "cnn"
    vision_encoder_layer: int | None = None
    vision_encoder_width: int = 128
    freeze_vision_encoder: bool = True
    image_size: int = 128
    random_shift: int = 0
    text_encoder: str | None = "minilm"
    tokenizer_max_length: int = 64
    use_state: bool = True

    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=lambda: {
            "VISUAL": NormalizationMode.IDENTITY,
            "STATE": NormalizationMode.MEAN_STD,
            "ACTION": NormalizationMode.MEAN_STD,
        }
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("frame_gap", "latent_steps", "n_action_steps", "width", "num_layers", "num_heads"):
            require_field(self, name, getattr(self, name) >= 1, "at least 1")
        for name in ("actions_per_step", "num_latent_tokens", "codebook_size"):
            value = getattr(self, name)
            require_field(self, name, value is None or value >= 1, "null, or at least 1")
        for name in ("latent_loss_weight", "action_loss_weight", "random_shift"):
            require_field(self, name, getattr(self, name) >= 0, "0 or more")
        require_field(self, "dropout", 0 <= self.dropout < 1, "in [0, 1)")
        require_field(self, "latent_mask_probability", 0 <= self.latent_mask_probability <= 1, "in [0, 1]")
        require_field(self, "num_heads", self.width % self.num_heads == 0, f"a divisor of width={self.width}")
        require_field(self, "width", self.width % 2 == 0, "even")
        require_field(self, "gripper_loss", self.gripper_loss in ("smooth_l1", "bce"), "'smooth_l1' or 'bce'")
        require_field(self, "latent_source", self.latent_source in SOURCES, f"one of {SOURCES}")
        require_field(
            self,
            "n_action_steps",
            not self.predict_actions or self.n_action_steps <= self.chunk_size,
            f"at most latent_steps * actions_per_step = {self.chunk_size}",
        )
        if not self.predict_latents and not self.predict_actions:
            raise ValueError(
                "`predict_latents` and `predict_actions` are both false, so that there is nothing to learn. Set one."
            )
        if self.gripper_loss == "bce" and (
            self.gripper_index is None
            or self.normalization_mapping.get("ACTION") is not NormalizationMode.MIN_MAX
        ):
            raise ValueError(
                "`gripper_loss` is 'bce', which needs `gripper_index`, and actions that are normalized to [-1, 1]. "
                'Pass --policy.gripper_index=-1 --policy.normalization_mapping=\'{"VISUAL": "IDENTITY", "STATE": '
                '"MEAN_STD", "ACTION": "MIN_MAX"}\', or leave it at smooth_l1.'
            )
        if self.act_with_latents and not self.predict_latents:
            raise ValueError("`act_with_latents` is true, but `predict_latents` is false. Drop one of them.")
        if self.lam_labels is not None and self.lam_path is not None:
            raise ValueError(
                "`lam_labels` and `lam_path` are both given; codes come from one of them. Drop the other."
            )

    @property
    def codes_from(self) -> str | None:
        """`latent_source`, with its default; None for a policy without latent tokens, or one that only acts."""
        if not self.predict_latents:
            return None
        if self.latent_source is not None:
            return self.latent_source
        if self.lam_labels is not None:
            return "labels"
        return None if self.lam_path is None else "lam"

    @property
    def label_request(self) -> LabelRequest | None:
        """What the data is to add to each sample; None without labels."""
        return LabelRequest(code_steps=self.latent_steps) if self.codes_from == "labels" else None

    @property
    def num_actions_per_step(self) -> int:
        """Actions of each latent step; 0 for a policy that predicts none."""
        if not self.predict_actions:
            return 0
        return self.frame_gap if self.actions_per_step is None else self.actions_per_step

    @property
    def chunk_size(self) -> int:
        """Actions predicted at once."""
        return self.latent_steps * self.num_actions_per_step

    def find_tokenizer(self, labels: Any) -> dict[str, Any]:
        """The fields that describe the codes, where labels or a latent action model make them.

        Args:
            labels: Manifest of the labels; None without.

        Returns:
            Values of `num_latent_tokens`, `codebook_size`, `codebook_per_token` and `tokenizer`; nothing without codes.

        Raises:
            ValueError: This configuration, of a checkpoint for example, is for another tokenizer, or there are no
                codes.
        """
        if self.codes_from is None:
            return {}
        found = (
            read_tokenizer(self.lam_path, self.frame_gap)
            if self.codes_from == "lam"
            else tokenizer_of(labels)
        )
        if self.tokenizer not in (None, found["tokenizer"]):
            raise ValueError(
                f"The codes were made by another tokenizer ({found['tokenizer'][:12]}) than the one that this policy "
                f"was trained with ({(self.tokenizer or '')[:12]}). Label the data with that one, or train a new "
                "policy."
            )
        for name in ("num_latent_tokens", "codebook_size"):
            if getattr(self, name) not in (None, found[name]):
                raise ValueError(
                    f"`{name}` is {getattr(self, name)}; it must be {found[name]}, as in the codes. Leave it out."
                )
        return found

    def validate_features(self) -> None:
        """Raises ValueError when the dataset or environment lacks what the policy needs."""
        cameras = list(self.image_features)
        if not cameras:
            raise ValueError(
                f"`input_features` has no color camera (found {sorted(self.input_features or {})}); moto_gpt needs at "
                "least one of 3 channels (observation.image or observation.images.<name>)."
            )
        require_field(self, "lam_camera", self.lam_camera in (None, *cameras), f"one of {cameras}")
        if self.predict_actions and self.action_feature is None:
            raise ValueError(
                "`output_features` has no action. Use a dataset with actions, or pre-train on video alone with "
                "--policy.predict_actions=false."
            )
        if self.predict_latents and None in (self.num_latent_tokens, self.codebook_size):
            raise ValueError(
                "`num_latent_tokens` and `codebook_size` are not known: there are no codes to learn. Pass "
                "--policy.lam_labels=<folder of `lara label`>, --policy.lam_path=<model with a codebook>, or "
                "--policy.predict_latents=false."
            )
        if self.gripper_index is not None and self.action_feature is not None:
            dim = self.action_feature.shape[0]
            require_field(self, "gripper_index", -dim <= self.gripper_index < dim, f"one of {dim} dimensions")

    def portable(self) -> Self:
        """A copy for checkpoints, without paths of this machine: the codes' fingerprint tells what they were of."""
        local: dict[str, Any] = {
            name: None for name in ("lam_labels", "lam_path") if is_local(getattr(self, name))
        }
        return replace(super().portable(), **local)

    @property
    def batch_layout(self) -> BatchLayout:
        """What the policy expects of a batch."""
        state = self.robot_state_feature if self.use_state else None
        return BatchLayout(
            cameras=tuple(self.image_features),
            state_dim=0 if state is None else state.shape[0],
            action_dim=0 if self.action_feature is None else self.action_feature.shape[0],
            embodiments=("default",),
            embodiment_id=0,
        )

    @property
    def observation_delta_indices(self) -> list[int] | None:
        """The frames between which a latent action model infers the codes; the policy itself sees the first."""
        if self.codes_from != "lam":
            return None
        return [step * self.frame_gap for step in range(self.latent_steps + 1)]

    @property
    def action_delta_indices(self) -> list[int] | None:
        """Control steps of the action chunk, relative to the present; None for a policy that predicts none."""
        return list(range(self.chunk_size)) if self.predict_actions else None

    @property
    def reward_delta_indices(self) -> None:
        """None: rewards are not used."""
        return None
