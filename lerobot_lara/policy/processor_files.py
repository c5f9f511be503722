"""Checks the processors of a checkpoint before LeRobot builds them: LeRobot calls whatever class they name."""

import importlib
import inspect
from typing import Any

from lerobot.processor import ProcessorStep, ProcessorStepRegistry
from lerobot.utils.constants import POLICY_POSTPROCESSOR_DEFAULT_NAME, POLICY_PREPROCESSOR_DEFAULT_NAME

from lerobot_lara.files.checkpoint_reading import read_json_object
from lerobot_lara.policy.checkpoint_files import Checkpoint

PROCESSOR_FILES = (f"{POLICY_PREPROCESSOR_DEFAULT_NAME}.json", f"{POLICY_POSTPROCESSOR_DEFAULT_NAME}.json")
PACKAGES = ("lerobot", "lerobot_lara")
REMEDY = "Nothing of it was run. Use a checkpoint that you trust, or write the file again by training."


def check_processors(checkpoint: Checkpoint) -> None:
    """Refuses processors that could run code of the checkpoint, or read files outside of it.

    Args:
        checkpoint: May have no processors.

    Raises:
        ValueError: A file is damaged, or a step is not a registered one or a step class of LeRobot or this package,
            asks for remote code, or has a state file that is not in the checkpoint; begins with the file.
    """
    for name in PROCESSOR_FILES:
        try:
            file = checkpoint.file(name)
        except ValueError:  # offline and not in the cache, so LeRobot cannot read it either
            continue
        if file is None:
            continue
        steps = read_json_object(file).get("steps")
        if not isinstance(steps, list):
            raise ValueError(f"{file}: `steps` is {_short(steps)}; it must be a list of steps. {REMEDY}")
        for number, step in enumerate(steps):
            if problem := _problem(step):
                raise ValueError(f"{file}: step {number} {problem} {REMEDY}")


def check_loaded_processors(checkpoint: Checkpoint, config: Any) -> None:
    """`check_processors` for all that LeRobot may build with a policy: of a low-rank adapter, the adapter's own.

    Args:
        checkpoint: What the policy's weights are loaded from.
        config: Given configuration, whose `pretrained_path` names the adapter if there is one; None for the
            checkpoint's.

    Raises:
        ValueError: As `check_processors`.
    """
    check_processors(checkpoint)
    adapter = getattr(config, "pretrained_path", None)
    if adapter is not None and str(adapter) != checkpoint.path:
        check_processors(Checkpoint(str(adapter), getattr(config, "pretrained_revision", None)))


def _problem(step: Any) -> str | None:
    """What is wrong with an entry of `steps`; None if nothing is."""
    if not isinstance(step, dict):
        return f"is {_short(step)}; it must be an object."
    registered, config, state_file = step.get("registry_name"), step.get("config", {}), step.get("state_file")
    if not isinstance(config, dict):
        return f"has the `config` {_short(config)}; it must be an object."
    if state_file is not None and not _is_plain_name(state_file):
        return f"has the `state_file` {_short(state_file)}; it must be a .safetensors file of the checkpoint."
    if "registry_name" in step:
        if not isinstance(registered, str) or registered not in ProcessorStepRegistry.list():
            return f"has the `registry_name` {_short(registered)}, which no installed package has registered."
        step_class: Any = ProcessorStepRegistry.get(registered)
    else:
        step_class = _step_class(step.get("class"))
        if step_class is None:
            return (
                f"names the class {_short(step.get('class'))}; it must be a step of LeRobot or lerobot_lara."
            )
    # Some steps load a tokenizer with its code unless told otherwise.
    default = inspect.signature(step_class).parameters.get("trust_remote_code")
    if config.get("trust_remote_code", default is not None and default.default):
        return f"({registered or step['class']}) would run code of a tokenizer (`trust_remote_code`)."
    return None


def _step_class(path: Any) -> type | None:
    """The class that a step names; None if it is none of `PACKAGES`'."""
    module, _, name = path.rpartition(".") if isinstance(path, str) else ("", "", "")
    if module.split(".")[0] not in PACKAGES:
        return None
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None
    is_step = inspect.isclass(found) and issubclass(found, ProcessorStep)
    return found if is_step and found.__module__.split(".")[0] in PACKAGES else None


def _is_plain_name(state_file: Any) -> bool:
    return (
        isinstance(state_file, str)
        and state_file.endswith(".safetensors")
        and not any(part in state_file for part in ("/", "\\", "\0"))
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
