"""What the refinement study compares: its tokenizers, consumers and sizes, as registered in README.md."""

from dataclasses import dataclass

TASKS = ("button-press-topdown-v3", "coffee-button-v3", "window-close-v3")
SEEDS = (0, 1, 2, 3, 4)
NUM_VIDEOS = 25
NUM_LABELED = 10
NUM_HELD_OUT = 6
NUM_SCENES = 25
FIRST_SCENE = 1000
EPISODE_LENGTH = 200
IMAGE_SIZE = 64
CODEBOOK_SIZE = 32
REFINING_STEPS = 400
VIDEO_STEPS = 300
ACTION_STEPS = 700

JOINT = ("--policy.alignment_target=joint",)
RELATIVE = ("--policy.alignment_loss=contrastive", "--policy.alignment_relative=true")


@dataclass(frozen=True)
class Tokenizer:
    """How a latent action model (LAM) goes on after its training on the videos.

    Args:
        flags: Of the training within `lara` on the labeled demonstrations.
        permuted: Whether each sample gets the actions of another one.
    """

    flags: tuple[str, ...]
    permuted: bool = False


VANILLA = "vanilla"  # the LAM as it is
TOKENIZERS = {
    "control": Tokenizer(("--policy.alignment_target=stop",)),
    "joint": Tokenizer(JOINT),
    "joint_relative": Tokenizer((*JOINT, *RELATIVE)),
    "placebo": Tokenizer(JOINT, permuted=True),
}
# Codes of the vanilla LAM for pairs (o_t, o_t), which know of no motion.
NO_MOTION = "no_motion"
IDS = (VANILLA, *TOKENIZERS, NO_MOTION)
# Suffix of ids that belong to another pair.
OF_OTHERS = "_shuffled"
SHUFFLED = VANILLA + OF_OTHERS
NONE = "none"
CONSUMERS = (VANILLA, *TOKENIZERS, SHUFFLED, NONE)
