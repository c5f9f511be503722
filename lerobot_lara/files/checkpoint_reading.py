"""Reads files of checkpoints that somebody else may have written: nothing in them is trusted before it is checked."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

# Far above what a configuration needs.
MAX_JSON_BYTES = 8 << 20
LFS_POINTER = b"version https://git-lfs"
FLOATS = ("F16", "BF16", "F32")
# Sizes up to these are built whatever the weight file holds; what does not fit is then found tensor by tensor.
SMALL_WIDTH, SMALL_DEPTH = 1024, 64
WIDTHS = re.compile(r"(width|latent_dim|num_latent_tokens|codebook_size|max_state_dim|max_action_dim)$")
DEPTHS = re.compile(r"num_layers$")


def read_json_object(file: Path) -> dict[str, Any]:
    """Reads a JSON file with an object.

    Raises:
        ValueError: It is too large, is a Git LFS pointer, is no JSON, holds NaN or infinity, is nested too deeply, or
            holds something else than an object; begins with the path.
    """
    size = file.stat().st_size
    if size > MAX_JSON_BYTES:
        raise ValueError(
            f"{file} has {size} bytes; a file of its kind has at most {MAX_JSON_BYTES}. Copy or download it again."
        )
    content = file.read_bytes()
    if content.startswith(LFS_POINTER):
        raise ValueError(f"{file} is a Git LFS pointer. Run `git lfs pull` in its folder.")
    try:
        loaded = json.loads(content.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError(f"{file} is nested too deeply. Copy or download it again.") from error
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON ({error}). Copy or download it again.") from error
    if not isinstance(loaded, dict):
        raise ValueError(
            f"{file} holds {type(loaded).__name__}; it must be an object with the fields of a configuration. Copy or "
            "download it again."
        )
    return loaded


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number in JSON")


@dataclass(frozen=True)
class WeightHeader:
    """What a safetensors file says of its tensors, without reading them.

    Args:
        file: The file.
        shapes: Name of a tensor -> its shape.
        dtypes: Name of a tensor -> its type, such as "F32".
    """

    file: Path
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]

    @classmethod
    def read(cls, file: Path) -> "WeightHeader":
        """Reads the header of a file.

        Raises:
            ValueError: The file is cut off, damaged, or a Git LFS pointer.
        """
        with file.open("rb") as opened:
            if opened.read(len(LFS_POINTER)) == LFS_POINTER:
                raise ValueError(f"{file} is a Git LFS pointer. Run `git lfs pull` in its folder.")
        try:
            with safe_open(file, framework="pt") as opened:
                slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
                return cls(
                    file,
                    {name: tuple(each.get_shape()) for name, each in slices.items()},
                    {name: each.get_dtype() for name, each in slices.items()},
                )
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"Corrupted checkpoint: {file} cannot be read ({error}). Copy or download it again."
            ) from error

    def check_sizes(self, fields: Mapping[str, Any]) -> None:
        """Refuses sizes that no network with these weights has, before one is built.

        Args:
            fields: Of config.json.

        Raises:
            ValueError: A width is larger than every dimension in the file, or a depth than its number of tensors.
        """
        widest = max((max(shape, default=0) for shape in self.shapes.values()), default=0)
        for name, value in fields.items():
            if isinstance(value, bool) or not isinstance(value, int):
                continue
            for kind, largest, small in (
                (WIDTHS, widest, SMALL_WIDTH),
                (DEPTHS, len(self.shapes), SMALL_DEPTH),
            ):
                if kind.search(name) and value > max(largest, small):
                    raise ValueError(
                        f"`{name}` is {value}, but {self.file} holds {len(self.shapes)} tensors of at most {widest} "
                        "numbers across, which belong to a smaller network. Restore config.json."
                    )

    def check_types(self, state_dict: Mapping[str, Tensor]) -> None:
        """Refuses weights of a type that would be converted in silence.

        Args:
            state_dict: Of the network that takes the weights.

        Raises:
            ValueError: A tensor is of whole numbers where the network has fractions, or the reverse, or is not of 16
                or 32 bits.
        """
        for name, dtype in self.dtypes.items():
            own = state_dict.get(name)
            if own is None:  # named when the weights are loaded
                continue
            fits = dtype in FLOATS if own.dtype.is_floating_point else not dtype.startswith(("F", "BF"))
            if not fits:
                raise ValueError(
                    f"{self.file}: {name} is of type {dtype}; it must be of the type of "
                    f"{str(own.dtype).removeprefix('torch.')}. Copy or download the checkpoint again."
                )
