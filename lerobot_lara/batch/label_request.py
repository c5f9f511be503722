"""What a policy wants of latent labels, latent actions that were computed before training."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LabelRequest:
    """What the data is to add to each sample.

    Args:
        code_steps: T, for the codes of the pairs at t, t + K, ...; 0 for the latent action of the pair at t.
        relative: Latent actions relative to those of no motion.
        random_shift: Largest shift in pixels of the policy's training images, which the labels must have seen too.
    """

    code_steps: int = 0
    relative: bool = False
    random_shift: int = 0
