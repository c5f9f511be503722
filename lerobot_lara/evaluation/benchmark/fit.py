"""Whether a policy can be evaluated in an environment: cameras and vectors have to be the same."""

from collections.abc import Mapping

from lerobot.configs import FeatureType
from lerobot.configs.policies import PreTrainedConfig
from lerobot.envs import make_env_pre_post_processors
from lerobot.envs.configs import EnvConfig, LiberoEnv
from lerobot.envs.utils import env_to_policy_features
from lerobot.utils.constants import ACTION, OBS_STATE

LIBERO_STATE_DIM = 8  # hand's position and rotation vector, two fingers


def check_fit(policy: PreTrainedConfig, env: EnvConfig, rename_map: Mapping[str, str]) -> None:
    """Compares what a policy was trained on with what an environment has.

    Args:
        policy: Configuration of the policy.
        env: Configuration of the environment.
        rename_map: The environment's names -> the policy's, as in `--rename_map`.

    Raises:
        ValueError: Something differs; the message lists everything that does, and the flags that mend it.
    """
    features = env_to_policy_features(env)
    offered = {rename_map.get(name, name): tuple(feature.shape) for name, feature in features.items()}
    action = offered.pop(ACTION, None)
    asked = policy.input_features or {}
    before, after = make_env_pre_post_processors(env_cfg=env, policy_cfg=policy)
    if isinstance(env, LiberoEnv):
        # Its own step makes one vector of several.
        offered[OBS_STATE] = (LIBERO_STATE_DIM,)
    rearranged = bool(before.steps)
    problems = []
    # Empty cameras are filled by the policy, as some of LeRobot's do.
    cameras = {
        name
        for name, feature in asked.items()
        if feature.type is FeatureType.VISUAL and "empty_camera" not in name
    }
    lacking = sorted(cameras - offered.keys())
    if lacking:
        spare = sorted(
            name
            for name, feature in features.items()
            if feature.type is FeatureType.VISUAL and rename_map.get(name, name) not in cameras
        )
        rename = ", ".join(f'"{old}": "{new}"' for old, new in zip(spare, lacking, strict=False))
        mend = f" (mend it with --rename_map='{{{rename}}}' if they show the same)" if rename else ""
        problems.append(f"it needs the camera {' and '.join(lacking)}, and there is {_listed(spare)}{mend}")
    for name, feature in asked.items():
        if feature.type not in (FeatureType.STATE, FeatureType.ENV):
            continue
        if name not in offered and rearranged:
            continue
        if name not in offered:
            problems.append(f"it needs {name}, which the environment does not have")
        elif tuple(feature.shape) != offered[name]:
            problems.append(f"{name} has {feature.shape[0]} numbers, and here {offered[name][0]}")
    wanted = (policy.output_features or {}).get(ACTION)
    converted = bool(after.steps)  # such as X-VLA's actions, which are wider
    if wanted is not None and action is not None and tuple(wanted.shape) != action and not converted:
        problems.append(f"its actions have {wanted.shape[0]} numbers, and here {action[0]}")
    if problems:
        raise ValueError(
            f"The policy ({policy.type}) was trained on other data than `{env.type}` gives: {'; '.join(problems)}. "
            "Choose a checkpoint that was trained on this robot, or another --suite."
        )


def compare_rates(policy: PreTrainedConfig, env: EnvConfig) -> str | None:
    """What there is to say of the rate at which a policy acts; None if it is that of its data, or not known.

    It is no error, as the rate in a dataset's metadata is often nominal: public copies of LIBERO say 10 frames per
    second, and were recorded at 20.
    """
    trained = getattr(policy, "fps", None)
    if trained is None or trained == env.fps:
        return None
    return (
        f"The policy ({policy.type}) was trained on data of {trained:g} frames per second, and `{env.type}` takes "
        f"{env.fps:g} actions per second. If both are true, its movements are {env.fps / trained:.2g} times as fast as "
        "in the data."
    )


def _listed(names: list[str]) -> str:
    return " and ".join(names) if names else "no other"
