"""LeRobot's asynchronous inference server, with the policy types of this package.

`python -m lerobot_lara.serving.async_server --port=8080` takes the flags of
`python -m lerobot.async_inference.policy_server`, which refuses types that are not in LeRobot's own list.
"""

import draccus
from lerobot.async_inference import policy_server
from lerobot.async_inference.constants import SUPPORTED_POLICIES
from lerobot.configs import PreTrainedConfig

import lerobot_lara
from lerobot_lara.serving.address import bind

# Trained on video alone, without actions.
WITHOUT_ACTIONS = {"lara_lam"}


def accept_own_policies() -> None:
    """Adds the policy types of this package to those that the server accepts."""
    for name, config in sorted(PreTrainedConfig.get_known_choices().items()):
        is_own = config.__module__.startswith(f"{lerobot_lara.__name__}.")
        if is_own and name not in {*SUPPORTED_POLICIES, *WITHOUT_ACTIONS}:
            SUPPORTED_POLICIES.append(name)


def main() -> None:
    """Serves until the process is stopped.

    Raises:
        ValueError: The port is in use: gRPC would share it, and each client would get one of the servers by chance.
    """
    accept_own_policies()
    config = draccus.parse(policy_server.PolicyServerConfig)
    bind(config.host, config.port).close()
    policy_server.serve(config)


if __name__ == "__main__":
    main()
