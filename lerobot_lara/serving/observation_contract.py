"""What a policy needs to see, and whether an observation of a client has it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

STATE_KEYS = ("states", "state")


@dataclass(frozen=True)
class ObservationContract:
    """The observation that a policy was trained on, in the terms of vla-eval's protocol.

    Args:
        cameras: Height and width of each of the policy's cameras, by the name of its feature.
        state_dim: Size of the state; None for a policy that reads none.
        image_keys: Client's camera -> the policy's feature. A camera that is left out has the feature's own name, or
            its last part: `front` for `observation.images.front`.
        state_key: Key of the state in an observation; None takes `states`, or else `state`.
        any_size: Images of other sizes are accepted, as the server resizes them.

    Raises:
        ValueError: `image_keys` names a feature that the policy does not have, or one twice.
    """

    cameras: Mapping[str, tuple[int, int]]
    state_dim: int | None
    image_keys: Mapping[str, str]
    state_key: str | None
    any_size: bool

    def __post_init__(self) -> None:
        given = list(self.image_keys.values())
        problems = [
            f"{key}={feature}: the policy has no camera {feature}"
            for key, feature in self.image_keys.items()
            if feature not in self.cameras
        ]
        problems += sorted({f"{one} is given more than once" for one in given if given.count(one) > 1})
        if problems:
            raise ValueError(
                f"`image_keys` does not fit the policy: {'; '.join(problems)}. Its cameras are "
                f"{', '.join(self.cameras) or 'none'}. Pass --image-keys CLIENT_CAMERA=POLICY_CAMERA ..."
            )

    def client_cameras(self) -> dict[str, tuple[str, ...]]:
        """Names under which a client may send each camera, by feature."""
        given = {feature: (key,) for key, feature in self.image_keys.items()}
        return {
            feature: given.get(feature, (feature, feature.removeprefix("observation.images.").split(".")[-1]))
            for feature in self.cameras
        }

    def read(self, observation: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], np.ndarray | None, str]:
        """Takes what the policy needs from an observation; what else is in it is passed over.

        Args:
            observation: `images`, name -> (H, W, 3) uint8 RGB; the state, numbers; `task_description`, text.

        Returns:
            Images (H, W, 3) uint8 by feature, the state as it was sent (n,) float32 or None, and the instruction.

        Raises:
            ValueError: Something is missing or of another shape, type or size; names everything that is, and the flags
                of `lara serve` that mend it.
        """
        problems: list[str] = []
        images = self._images(observation.get("images"), problems)
        state = self._state(observation, problems)
        task = observation.get("task_description", "")
        if not isinstance(task, str):
            problems.append(f"`task_description` is of type {type(task).__name__}; it must be text")
        if problems:
            raise ValueError(f"The observation does not fit the policy: {'; '.join(problems)}.")
        return images, state, task

    def _images(self, sent: Any, problems: list[str]) -> dict[str, np.ndarray]:
        if not self.cameras:
            return {}
        if not isinstance(sent, Mapping):
            problems.append(
                f"`images` is of type {type(sent).__name__}; it must be a mapping of camera names to images"
            )
            return {}
        images, missing = {}, []
        for feature, names in self.client_cameras().items():
            name = next((name for name in names if name in sent), None)
            if name is None:
                missing.append(feature)
                continue
            image, size = sent[name], self.cameras[feature]
            is_array = isinstance(image, np.ndarray)
            if (
                not is_array
                or image.dtype != np.uint8
                or image.ndim != 3
                or image.shape[2] != 3
                or not image.size
            ):
                found = f"{image.dtype} {image.shape}" if is_array else f"of type {type(image).__name__}"
                problems.append(f"camera {name!r} is {found}; it must be uint8 RGB, (height, width, 3)")
            elif image.shape[:2] != size and not self.any_size:
                problems.append(
                    f"camera {name!r} is {image.shape[0]} x {image.shape[1]}; {feature} is {size[0]} x {size[1]} "
                    "(height x width): send that size, or start the server with --resize"
                )
            else:
                images[feature] = image
        if missing:
            unused = [
                str(name) for name in sent if not any(name in of for of in self.client_cameras().values())
            ]
            flags = " ".join(
                f"{unused[i] if i < len(unused) else 'CLIENT_CAMERA'}={feature}"
                for i, feature in enumerate(missing)
            )
            problems.append(
                f"no camera for {', '.join(missing)} among {', '.join(map(str, sent)) or 'none'}: start the server "
                f"with --image-keys {flags}"
            )
        return images

    def _state(self, observation: Mapping[str, Any], problems: list[str]) -> np.ndarray | None:
        if self.state_dim is None:
            return None
        keys = (self.state_key,) if self.state_key else STATE_KEYS
        key = next((key for key in keys if observation.get(key) is not None), None)
        if key is None:
            problems.append(
                f"no {' or '.join(f'`{key}`' for key in keys)} among {', '.join(map(str, observation)) or 'nothing'}: "
                "have the benchmark send its state (in vla-eval, --param send_state=true), or start the server with "
                "--state-key KEY"
            )
            return None
        try:
            state = np.asarray(observation[key], dtype=np.float32)
        except (TypeError, ValueError):
            problems.append(f"`{key}` is no vector of numbers; it must be {self.state_dim} numbers")
            return None
        if state.shape != (self.state_dim,):
            problems.append(
                f"`{key}` has shape {state.shape}; the policy's state is ({self.state_dim},): choose another key with "
                "--state-key, another --convention, or a policy that was trained on this robot"
            )
        elif not np.isfinite(state).all():
            problems.append(f"`{key}` is not finite at {np.flatnonzero(~np.isfinite(state)).tolist()}")
        return state
