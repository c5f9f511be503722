"""What the label-efficiency study compares: its arms, tasks and sizes, as registered in README.md."""

from dataclasses import dataclass, field

TASKS = (
    "button-press-topdown-v3",
    "coffee-button-v3",
    "faucet-open-v3",
    "plate-slide-v3",
    "window-close-v3",
)
VALIDATION_TASKS = ("drawer-close-v3", "window-open-v3", "handle-press-v3")
LABELS = (2, 5, 10)
SEEDS = (0, 1, 2)
MORE_SEEDS = (3, 4)
NUM_VIDEOS = 50
NUM_SCENES = 50
FIRST_SCENE = 1000
EPISODE_LENGTH = 200
IMAGE_SIZE = 64
FPS = 80
FRAME_GAP = 16
# How many more steps `dit` takes in the time of `lara`, as measured before the first and before the second study.
LONGER = 1.8
STEP_RATIO = 2.2


@dataclass(frozen=True)
class Arm:
    """One way to train a policy.

    Args:
        config: Name of the configuration in `configs/demo`.
        lam: What the latent action model is trained on, "videos" or "labels"; None without a latent action model.
        mixed: Whether action-free samples are mixed into the policy's batches.
        flags: Further flags of the policy's `lerobot-train` command.
        frame_gap: K of the policy and of its latent action model, in frames.
        steps: Multiple of the steps in `config`.
        from_lam_encoder: Whether the policy's image encoder starts from that of the latent action model.
        more_seeds: Whether the arm belongs to the main comparison, which has more seeds.
    """

    config: str
    lam: str | None = None
    mixed: bool = False
    flags: tuple[str, ...] = ()
    frame_gap: int = FRAME_GAP
    steps: float = 1
    from_lam_encoder: bool = False
    more_seeds: bool = field(default=False, kw_only=True)


REFERENCE_LOSS = (
    "--policy.alignment_target=joint",
    "--policy.alignment_centering=false",
    "--policy.alignment_head=linear",
    "--policy.alignment_pooling=last",
)
ARMS = {
    "dit": Arm("dit", more_seeds=True),
    "dit_longer": Arm("dit", steps=LONGER),
    "dit_lam_encoder": Arm("dit", "videos", from_lam_encoder=True),
    "lara": Arm("lara", "videos", more_seeds=True),
    "lara_frozen": Arm("lara", "videos", flags=("--policy.freeze_lam=true",)),
    "lara_joint": Arm("lara", "videos", flags=("--policy.alignment_target=joint",)),
    "lara_reference": Arm("lara", "videos", flags=REFERENCE_LOSS),
    "lara_labeled": Arm("lara", "labels"),
    "lara_mixture": Arm("lara_mixture", "videos", mixed=True),
}
# The second study: three times the steps, and for `dit` also as many steps as fit into the time of `lara`.
FOLLOW_UP = {
    "dit_3x": Arm("dit", steps=3),
    "dit_3x_longer": Arm("dit", steps=3 * STEP_RATIO),
    "lara_3x": Arm("lara", "videos", steps=3),
    "lara_mixture_3x": Arm("lara_mixture", "videos", mixed=True, steps=3),
}
CONTRASTIVE = ("--policy.alignment_loss=contrastive",)
RELATIVE = (*CONTRASTIVE, "--policy.alignment_relative=true")
# For the validation tasks only.
REMEDIES = {
    "lara_contrastive": Arm("lara", "videos", flags=CONTRASTIVE),
    "lara_relative": Arm("lara", "videos", flags=RELATIVE),
    "lara_joint_relative": Arm("lara", "videos", flags=(*RELATIVE, "--policy.alignment_target=joint")),
    "lara_mixture_contrastive": Arm("lara_mixture", "videos", mixed=True, flags=CONTRASTIVE),
    "lara_weight_05": Arm("lara", "videos", flags=("--policy.alignment_loss_weight=0.5",)),
    "lara_weight_2": Arm("lara", "videos", flags=("--policy.alignment_loss_weight=2",)),
    "lara_layer_1": Arm("lara", "videos", flags=("--policy.alignment_layer=1",)),
    "lara_layer_4": Arm("lara", "videos", flags=("--policy.alignment_layer=4",)),
    "lara_last_token": Arm("lara", "videos", flags=("--policy.alignment_pooling=last",)),
    "lara_gap_32": Arm("lara", "videos", frame_gap=32),
    "lara_mixture_05": Arm(
        "lara_mixture", "videos", mixed=True, flags=("--policy.alignment_loss_weight=0.5",)
    ),
    "lara_mixture_2": Arm("lara_mixture", "videos", mixed=True, flags=("--policy.alignment_loss_weight=2",)),
}
ALL_ARMS = ARMS | FOLLOW_UP | REMEDIES
