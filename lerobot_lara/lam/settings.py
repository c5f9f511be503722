"""Everything that defines a latent action model, with its defaults and their validation, free of LeRobot."""

from dataclasses import dataclass, fields
from typing import Any

from lerobot_lara.training.validation import require_field, require_simple_values

CHOICES = {
    "quantizer": ("none", "vq", "fsq"),
    "codebook_update": ("ema", "gradient"),
    "latent_projection": ("linear", "tanh_mlp"),
    "latent_fusion": ("cross_attention", "add"),
    "perceptual_weights": ("stlpips", "torchvision"),
}
AT_LEAST_ONE = (
    "frame_gap image_size prediction_size frame_encoder_width num_latent_tokens latent_dim codebook_size "
    "idm_width idm_num_layers idm_num_heads fdm_width fdm_num_layers fdm_num_heads fdm_patch_size"
)
NOT_NEGATIVE = (
    "latent_noise codebook_restart_threshold commitment_loss_weight codebook_loss_weight change_weight "
    "reconstruction_loss_weight feature_loss_weight perceptual_loss_weight quantizer_loss_weight"
)


@dataclass
class LatentActionSettings:
    """The fields of a latent action model (LAM), shared by `LatentActionModel` and `LaraLAMConfig`.

    The defaults are a small continuous LAM that trains in minutes on a CPU.

    Args:
        frame_gap: K, distance in frames between the two frames. A gap in seconds is frame_gap / fps.
        image_size: Side in pixels of the frames that the frame encoder and forward dynamics see.
        prediction_size: Side in pixels of the predicted frame.
        frame_encoder: Name for `build_image_encoder`: "cnn" or "vit" from scratch, or a pretrained model.
        freeze_frame_encoder: Keep a pretrained frame encoder fixed and out of checkpoints.
        frame_encoder_layer: Hidden state of a pretrained encoder to use; None is the last.
        frame_encoder_width: Channels of a frame encoder from scratch.
        normalize_frames: Apply the frame encoder's mean and standard deviation; the reference's first stage
            feeds RGB in [0, 1] as it is.
        num_latent_tokens: L, tokens of a latent action.
        latent_dim: C, width of each.
        latent_projection: Between transformer width and latent width, both ways: "linear", or "tanh_mlp"
            (Linear-Tanh-Linear, the reference).
        normalize_latent: Normalize each latent token to zero mean and unit variance, so that its scale
            cannot drift; the reference does not.
        latent_noise: Standard deviation of the noise added in training to a latent that is not quantized.
        quantizer: "none" (continuous), "vq" (learned codebook) or "fsq" (finite scalar quantization).
        codebook_size: Codes of "vq".
        codebook_update: Of "vq": "ema" (moving averages, dead codes restarted) or "gradient" (the VQ-VAE
            codebook loss, as in the reference).
        codebook_decay: Decay of the moving averages of "ema".
        codebook_kmeans_init: Start the codes of "ema" from k-means of the first batch.
        codebook_restart_threshold: "ema" codes used less often than this per batch are replaced by a latent
            of the batch; 0 never does.
        commitment_loss_weight: Of "vq": pulls latents to their codes.
        codebook_loss_weight: Of "vq" with "gradient": pulls codes to their latents.
        fsq_levels: Levels per dimension of "fsq"; their product is the number of codes.
        idm_width: Width of the inverse dynamics transformer.
        idm_num_layers: Its number of blocks.
        idm_num_heads: Its number of attention heads.
        fdm_width: Width of the forward dynamics transformer.
        fdm_num_layers: Its number of blocks.
        fdm_num_heads: Its number of attention heads.
        fdm_patch_size: Side in pixels of the patches it cuts the current frame into.
        mlp_ratio: Width of the blocks' hidden layer relative to their own, in both transformers.
        layer_norm_eps: Epsilon of every LayerNorm in both transformers.
        shared_frame_type: Give both frames the same type embedding (the reference's `legacy`).
        latent_fusion: How the latent action enters forward dynamics: "cross_attention" in each block, or
            "add", one vector added to every patch (the reference).
        residual_prediction: Predict the change from the current frame instead of the future frame.
        reconstruction_loss_weight: Weight of the pixel loss; 0 predicts no pixels.
        change_weight: w; a share of w / (1 + w) of the pixel loss is spent in proportion to how much each
            pixel changes between the frames, the rest evenly. 0 is the plain mean squared error.
        feature_loss_weight: Weight of predicting the frozen frame encoder's features of the future frame.
        perceptual_loss_weight: Weight of LPIPS on the predicted frame.
        perceptual_weights: Where its network comes from: "stlpips" (package stlpips-pytorch) or
            "torchvision" (VGG16 in torch's local cache).
        quantizer_loss_weight: Weight of the quantizer's losses together.
    """

    frame_gap: int = 16
    image_size: int = 64
    prediction_size: int = 32

    frame_encoder: str = "cnn"
    freeze_frame_encoder: bool = True
    frame_encoder_layer: int | None = None
    frame_encoder_width: int = 64
    normalize_frames: bool = True

    num_latent_tokens: int = 4
    latent_dim: int = 8
    latent_projection: str = "linear"
    normalize_latent: bool = True
    latent_noise: float = 0.1

    quantizer: str = "none"
    codebook_size: int = 32
    codebook_update: str = "ema"
    codebook_decay: float = 0.95
    codebook_kmeans_init: bool = False
    codebook_restart_threshold: float = 1.0
    commitment_loss_weight: float = 0.25
    codebook_loss_weight: float = 1.0
    fsq_levels: tuple[int, ...] = (8, 6, 5)

    idm_width: int = 128
    idm_num_layers: int = 2
    idm_num_heads: int = 4
    fdm_width: int = 128
    fdm_num_layers: int = 2
    fdm_num_heads: int = 4
    fdm_patch_size: int = 16
    mlp_ratio: float = 2.0
    layer_norm_eps: float = 1e-6
    shared_frame_type: bool = False
    latent_fusion: str = "cross_attention"
    residual_prediction: bool = True

    reconstruction_loss_weight: float = 1.0
    change_weight: float = 1.0
    feature_loss_weight: float = 0.0
    perceptual_loss_weight: float = 0.0
    perceptual_weights: str = "stlpips"
    quantizer_loss_weight: float = 1.0

    def __post_init__(self) -> None:
        self.validate_settings()

    @classmethod
    def from_kwargs(cls, **kwargs: Any) -> "LatentActionSettings":
        """Builds settings, naming any argument that is not one of the fields in a ValueError."""
        unknown = sorted(kwargs.keys() - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(f"Unknown field(s) of a latent action model: {', '.join(unknown)}.")
        if "fsq_levels" in kwargs:  # JSON knows no tuples.
            levels = kwargs["fsq_levels"]
            kwargs["fsq_levels"] = tuple(levels) if isinstance(levels, list) else levels
        return cls(**kwargs)

    def validate_settings(self) -> None:
        """Raises a ValueError that names the first field with an impossible value."""
        names = [field.name for field in fields(LatentActionSettings)]
        require_simple_values(LatentActionSettings, {name: getattr(self, name) for name in names})
        for name, choices in CHOICES.items():
            require_field(self, name, getattr(self, name) in choices, f"one of {', '.join(choices)}")
        for name in AT_LEAST_ONE.split():
            require_field(self, name, getattr(self, name) >= 1, "at least 1")
        for name in NOT_NEGATIVE.split():
            require_field(self, name, getattr(self, name) >= 0, "0 or more")
        for part in ("idm", "fdm"):
            width, heads = getattr(self, f"{part}_width"), getattr(self, f"{part}_num_heads")
            divisor = f"a divisor of `{part}_width`, {width}"
            require_field(self, f"{part}_num_heads", width % heads == 0, divisor)
        require_field(self, "codebook_decay", 0 <= self.codebook_decay < 1, "in [0, 1)")
        enough = bool(self.fsq_levels) and min(self.fsq_levels) >= 3
        require_field(self, "fsq_levels", enough, "at least one level count, each 3 or more")
        # A single number, normalized, would be a constant.
        wide = self.latent_dim >= 2 or not self.normalize_latent
        require_field(self, "latent_dim", wide, "at least 2 with `normalize_latent`")
        self._validate_prediction()

    def _validate_prediction(self) -> None:
        divisor = f"a divisor of `image_size`, {self.image_size}"
        require_field(self, "fdm_patch_size", self.image_size % self.fdm_patch_size == 0, divisor)
        grid = self.image_size // self.fdm_patch_size
        multiple = f"a multiple of `image_size` / `fdm_patch_size`, {grid}"
        require_field(self, "prediction_size", self.prediction_size % grid == 0, multiple)
        predicts = self.reconstruction_loss_weight > 0 or self.feature_loss_weight > 0
        above = "above 0 if `feature_loss_weight` is 0: else there is nothing to predict"
        require_field(self, "reconstruction_loss_weight", predicts, above)
        if self.perceptual_loss_weight > 0:
            above = "above 0 for `perceptual_loss_weight`, which looks at predicted pixels"
            require_field(self, "reconstruction_loss_weight", self.reconstruction_loss_weight > 0, above)
            size = "at least 32 for `perceptual_loss_weight`"
            require_field(self, "prediction_size", self.prediction_size >= 32, size)
