"""NVIDIA's released layout of GR00T N1.6: config.json, processor_config.json, statistics.json, embodiment_id.json and
safetensors in shards."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from lerobot_lara.groot_n16.configuration_groot_n16 import GrootN16Config
from lerobot_lara.groot_n16.geometry import head_config
from lerobot_lara.groot_n16.normalization import JointGroup
from lerobot_lara.policy.checkpoint_files import Checkpoint

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
# Weights that a release may leave out: one that is the embedding, and one that only hidden states need.
TIED, MASK_TOKEN = "backbone.model.language_model.lm_head.weight", "action_head.mask_token"
# Fields of the policy that config.json and processor_config.json name alike.
NETWORK_FIELDS = (
    "action_horizon",
    "max_state_dim",
    "max_action_dim",
    "select_layer",
    "num_inference_timesteps",
)
DATA_FIELDS = ("shortest_image_edge", "crop_fraction", "formalize_language")
REMEDY = {
    "N1.5": "Start from nvidia/GR00T-N1.6-3B, or use the last LeRobot with N1.5 (pip install 'lerobot==0.5.1').",
    "N1.7": "Use LeRobot's own policy: --policy.type=groot --policy.base_model_path={path}.",
}


def generation(config: Mapping[str, Any]) -> str | None:
    """The generation of GR00T that a config.json in NVIDIA's layout is of, such as "N1.6"; None if it is of none."""
    names = [config.get("model_type"), *(config.get("architectures") or [])]
    for name in names:
        found = re.fullmatch(r"gr00tn1[d5](\d)?", re.sub(r"[-_.]", "", str(name).lower()))
        if found:
            return f"N1.{found.group(1) or 5}"
    return None


@dataclass(frozen=True)
class Release:
    """A checkpoint in NVIDIA's layout.

    Args:
        checkpoint: Where it lies.

    Raises:
        ValueError: It is of another generation, or of something else.
    """

    checkpoint: Checkpoint

    def __post_init__(self) -> None:
        path, found = self.checkpoint.path, generation(self.checkpoint.config)
        if found != "N1.6":
            what = f"GR00T {found}" if found else f"type {self.checkpoint.config.get('model_type')!r}"
            remedy = REMEDY.get(found or "", "Name nvidia/GR00T-N1.6-3B, or a folder with its files.")
            raise ValueError(f"{path} is of {what}; it must be of GR00T N1.6. {remedy.format(path=path)}")

    @cached_property
    def processor(self) -> dict[str, Any]:
        """How data is prepared: `processor_kwargs` of processor_config.json."""
        return self._json("processor_config.json").get("processor_kwargs", {})

    @cached_property
    def embodiment_ids(self) -> dict[str, int]:
        """Row of the per-embodiment weights by robot."""
        return self._json("embodiment_id.json")

    def configure(self, config: GrootN16Config) -> None:
        """Sets what the release says of a policy's configuration, in place.

        Raises:
            ValueError: A field contradicts it.
        """
        network, data = self.checkpoint.config, self.processor
        values = {name: network[name] for name in NETWORK_FIELDS if name in network}
        values |= {name: data[name] for name in DATA_FIELDS if data.get(name) is not None}
        if network.get("state_dropout_prob"):
            values["state_dropout_prob"] = network["state_dropout_prob"]
        sizes = head_config() | config.head_config
        values["head_config"] = {name: network.get(name, size) for name, size in sizes.items()}
        values["embodiment_ids"] = config.embodiment_ids | self.embodiment_ids
        for name, value in values.items():
            setattr(config, name, value)
        config.check_sizes()

    def knows(self, tag: str) -> bool:
        """Whether it has joint groups and statistics of a robot."""
        return tag in self._statistics and tag in self.processor.get("modality_configs", {})

    def cameras(self, tag: str) -> list[str]:
        """Names of a robot's cameras, in order."""
        return list(self._modality(tag, "video")["modality_keys"])

    def horizon(self, tag: str) -> int:
        """Steps of a robot's action chunks."""
        return len(self._modality(tag, "action")["delta_indices"])

    def state_groups(self, tag: str) -> list[JointGroup]:
        """A robot's state, which is these groups one after the other."""
        modality = self._modality(tag, "state")
        angles = self._names(modality, "sin_cos_embedding_keys")
        if not self.processor.get("apply_sincos_state_encoding", False):
            angles = []
        return [
            self._group(tag, "state", name, "sin_cos" if name in angles else self._mode(modality, name))
            for name in modality["modality_keys"]
        ]

    def action_groups(self, tag: str) -> list[JointGroup]:
        """A robot's actions, which are these groups one after the other.

        Raises:
            ValueError: A group is relative in a way that is no difference of vectors.
        """
        modality = self._modality(tag, "action")
        names = modality["modality_keys"]
        rules = modality.get("action_configs") or [{}] * len(names)
        starts, start = {}, 0
        for group in self.state_groups(tag):
            starts[group.name] = start
            start += group.size
        groups = []
        for name, rule in zip(names, rules, strict=True):
            relative = _word(rule.get("rep")) == "relative" and self.processor.get(
                "use_relative_action", False
            )
            mode = self._mode(modality, name)
            if not relative:
                groups.append(self._group(tag, "action", name, mode))
                continue
            reference = rule.get("state_key") or name
            if _word(rule.get("type")) == "eef" or reference not in starts:
                raise ValueError(
                    f"{self.checkpoint.path} has actions {name!r} of {tag!r} that are relative as {rule}; they must be "
                    f"joints relative to a part of the state, one of {sorted(starts)}. Choose another "
                    "--policy.embodiment_tag."
                )
            groups.append(self._group(tag, "relative_action", name, mode, relative_to=starts[reference]))
        return groups

    def load_weights(self, model: nn.Module) -> None:
        """Reads all shards into a model, which has to have exactly the release's parameters.

        Raises:
            ValueError: A file is missing or damaged, or names or shapes differ.
        """
        files = self._weight_files()
        parameters = model.state_dict()
        stored: dict[str, Path] = {}
        for file in files:
            with _opened(file) as tensors:
                for name in tensors.keys():  # noqa: SIM118  not a dict
                    stored[name] = file
                    self._check_shape(file, name, tensors.get_slice(name).get_shape(), parameters)
        missing = sorted(set(parameters) - set(stored) - {TIED, MASK_TOKEN})
        if missing:
            raise ValueError(
                f"{self.checkpoint.path} lacks {len(missing)} weights of GR00T N1.6, such as {missing[0]!r}. Copy or "
                "download it again."
            )
        for file in files:
            with _opened(file) as tensors, torch.no_grad():
                for name in tensors.keys():  # noqa: SIM118
                    parameters[name].copy_(tensors.get_tensor(name))

    def _check_shape(self, file: Path, name: str, shape: list[int], parameters: Mapping[str, Any]) -> None:
        if name not in parameters:
            raise ValueError(
                f"{file} has the weight {name!r}, which GR00T N1.6 does not have. Name a checkpoint of GR00T N1.6."
            )
        if list(parameters[name].shape) != shape:
            raise ValueError(
                f"{file} has {name!r} of shape {shape}; it must be {list(parameters[name].shape)}, as config.json "
                "says. Leave out --policy.vision_config, .text_config and .head_config, or copy the files again."
            )

    def _weight_files(self) -> list[Path]:
        index = self.checkpoint.file(INDEX)
        names = [SINGLE] if index is None else sorted(set(_read_json(index).get("weight_map", {}).values()))
        files = {name: self.checkpoint.file(name) for name in names}
        missing = [name for name, file in files.items() if file is None]
        if missing or not files:
            raise ValueError(
                f"{self.checkpoint.path} has no {', '.join(missing) or SINGLE}. Copy or download it again."
            )
        return [file for file in files.values() if file is not None]

    @cached_property
    def _statistics(self) -> dict[str, Any]:
        return self._json("statistics.json")

    def _modality(self, tag: str, name: str) -> dict[str, Any]:
        return self.processor["modality_configs"][tag][name]

    def _group(
        self, tag: str, kind: str, name: str, mode: str, *, relative_to: int | None = None
    ) -> JointGroup:
        statistics = self._statistics[tag].get(kind, {}).get(name)
        # Percentiles are for absolute values alone: relative statistics are used as they are.
        percentiles = self.processor.get("use_percentiles", False) and kind != "relative_action"
        low, high = ("q01", "q99") if percentiles else ("min", "max")
        wanted = ("mean", "std") if mode == "mean_std" else (low, high)
        if statistics is None or any(one not in statistics for one in wanted):
            raise ValueError(
                f"statistics.json of {self.checkpoint.path} lacks {' or '.join(wanted)} of {kind} {name!r} of {tag!r}. "
                "Copy or download it again."
            )
        kept = {"min": statistics.get(low), "max": statistics.get(high)}
        kept |= {one: statistics.get(one) for one in ("mean", "std")}
        return JointGroup(
            name, mode, kept, clip=self.processor.get("clip_outliers", True), relative_to=relative_to
        )

    def _mode(self, modality: Mapping[str, Any], name: str) -> str:
        return "mean_std" if name in self._names(modality, "mean_std_embedding_keys") else "range"

    @staticmethod
    def _names(modality: Mapping[str, Any], key: str) -> list[str]:
        return modality.get(key) or []

    def _json(self, name: str) -> dict[str, Any]:
        file = self.checkpoint.file(name)
        if file is None:
            raise ValueError(
                f"{self.checkpoint.path} has no {name}, which NVIDIA's release has. Copy or download it again."
            )
        return _read_json(file)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON ({error}). Copy or download it again.") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{file} holds {type(content).__name__}; it must be an object. Copy or download it again."
        )
    return content


def _opened(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} cannot be read ({error}). Copy or download it again.") from error


def _word(value: Any) -> str:
    """The release writes its enumerations in capitals, with underscores."""
    return str(value or "").lower()
