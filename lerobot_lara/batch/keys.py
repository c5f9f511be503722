"""Keys of LeRobot's batches, and those that this package adds for mixtures and vision-language models.

LeRobot's preprocessor keeps `observation.*` and `*_is_pad` and drops other keys, hence the names.
"""

# LeRobot's own (`lerobot.utils.constants`).
ACTION = "action"
STATE = "observation.state"
LANGUAGE_TOKENS = "observation.language.tokens"
LANGUAGE_MASK = "observation.language.attention_mask"

# (B,) int64: row of the policy's state and action projections.
EMBODIMENT_ID = "observation.embodiment_id"
# (B,) int64: entry of the mixture.
DATASET_INDEX = "observation.dataset_index"
# (B, S') and (B, T, A'), normalized: dimensions beyond those of the robot that the policy is for.
STATE_EXTRA = "observation.state_extra"
ACTION_EXTRA = "observation.action_extra"
# (B, A' + A) bool: dimensions that a sample's robot does not have.
ACTION_DIM_IS_PAD = "action_dim_is_pad"
# (B, 2, 3, H, W): frames for the latent action model, apart from the observations of a policy that must not see the
# second; `<key>_is_pad` is (B, 2) bool. No processor may touch it, hence not `observation.images`.
FRAME_PAIR = "observation.frame_pair"
FRAME_PAIR_IS_PAD = f"{FRAME_PAIR}_is_pad"

# (B, Z) float32: latent action of each sample's pair of frames, where it was computed before; (B,) bool, True where the
# pair crosses its episode's end.
LATENT_ACTION = "observation.latent_action"
LATENT_ACTION_IS_PAD = f"{LATENT_ACTION}_is_pad"
# (B, 2) int64: pixels (down, right) by which the frames were shifted that the latent action is of.
LATENT_SHIFT = "observation.latent_shift"
# (B, T, L) int64 codes of the pairs at t, t + K, ...; (B, T) bool, True where there are none.
LATENT_CODES = "observation.latent_codes"
LATENT_CODES_IS_PAD = f"{LATENT_CODES}_is_pad"

# Prefix, before a camera's key, of its encoded images (B, P, D), where they are known already; set behind the
# preprocessor.
IMAGE_TOKENS = "image_tokens."
# Prefix of (B, S) inputs of a vision-language model beside its token ids and mask.
PROMPT = "observation.language.prompt."
