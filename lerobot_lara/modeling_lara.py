"""`lara`: `lara_dit` trained jointly with a latent action model. To act it is `lara_dit` and nothing else."""

from lerobot_lara.alignment.mixin import LatentAlignmentMixin
from lerobot_lara.configuration_lara import LaraConfig
from lerobot_lara.dit.modeling_lara_dit import LaraDiTPolicy


class LaraPolicy(LatentAlignmentMixin, LaraDiTPolicy):
    """The DiT policy of the paper's stages 2 and 3; see `LatentAlignmentMixin` for what training adds."""

    config_class = LaraConfig
    name = "lara"
