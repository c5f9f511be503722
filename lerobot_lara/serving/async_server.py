"""LeRobot's own server for asynchronous inference on robots, with this package's policies.

LeRobot's `lerobot.async_inference.policy_server` loads no plugins, and its list of policies is closed.
"""

from lerobot.configs.policies import PreTrainedConfig
from lerobot.utils.import_utils import register_third_party_plugins

from lerobot_lara.serving.port import bind


def serve_for_robots(*, host: str = "127.0.0.1", port: int = 8080, fps: int = 30) -> None:
    """Starts LeRobot's server; the robot's client names the checkpoint.

    LeRobot's protocol has pickles in it, so that whoever reaches the server can run code on this machine.

    Args:
        host: Address to listen at.
        port: Port.
        fps: Control steps per second of the robot.

    Raises:
        ValueError: The port is taken.
    """
    from lerobot.async_inference import policy_server
    from lerobot.async_inference.configs import PolicyServerConfig

    register_third_party_plugins()
    allow_all_policies()
    bind(host, port).close()  # two of LeRobot's servers would share a port
    policy_server.serve(PolicyServerConfig(host=host, port=port, fps=fps))


def allow_all_policies() -> None:
    """Lets LeRobot's server load every policy type that is registered."""
    from lerobot.async_inference import policy_server

    known = policy_server.SUPPORTED_POLICIES
    known.extend(sorted(set(PreTrainedConfig.get_known_choices()) - set(known)))
