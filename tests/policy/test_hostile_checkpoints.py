"""Checkpoints with every kind of damage: they load as they were, or a ValueError names the file or the field."""

import json
import random
import shutil
import struct
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from lerobot_lara.dit.modeling_lara_dit import LaraDiTPolicy
from lerobot_lara.lam.latent_action_model import LatentActionModel
from lerobot_lara.modeling_lara import LaraPolicy

VALUES = [
    None, True, "big", "", -1, 0, 0.5, 1e9, 10**8, 10**12, 10**400, -(10**9), [], {}, [1], {"a": {"b": []}}, "../../x",
    [[[]]], "\ud800".encode("utf-8", "surrogatepass").hex(), 1e308,
]  # fmt: skip
# Fields of LeRobot, and descriptions that decide nothing; whatever they hold, the networks stay the same.
LOADERS = {
    "lara_dit": LaraDiTPolicy.from_pretrained,
    "lara": LaraPolicy.from_pretrained,
    "lara_lam": LatentActionModel.from_pretrained,
}


def attempt(folder, kind):
    """Loads a checkpoint; returns whether it loaded, or else the message. Anything but a ValueError is a failure."""
    started = time.monotonic()
    try:
        LOADERS[kind](folder)
    except ValueError as error:
        return str(error)
    finally:
        assert time.monotonic() - started < 20
    return None


def mutated(config, generator):
    """A configuration with one value replaced, at the top or inside; and the name of the top field."""
    changed = json.loads(json.dumps(config))
    name = generator.choice(sorted(changed))
    value = generator.choice(VALUES)
    inner = changed[name]
    if isinstance(inner, dict) and inner and generator.random() < 0.5:
        inner[generator.choice(sorted(inner))] = value
    elif generator.random() < 0.1:
        changed.pop(name)
    elif generator.random() < 0.1:
        changed[f"{name}_unknown"] = value
    else:
        changed[name] = value
    return changed, name


@pytest.mark.parametrize("kind", LOADERS)
def test_mutated_configurations(saved, kind, record_property):
    folder, generator = saved / kind, random.Random(kind)
    original = (folder / "config.json").read_text()
    config, counts = json.loads(original), {"tried": 0, "loaded": 0, "clear": 0}
    for _ in range(120):
        changed, name = mutated(config, generator)
        try:
            (folder / "config.json").write_text(json.dumps(changed))
        except ValueError:  # Python writes no integer of 400 digits
            continue
        counts["tried"] += 1
        message = attempt(folder, kind)
        if message is None:
            counts["loaded"] += 1
            continue
        assert name in message or "config.json" in message or str(folder) in message, (changed[name], message)
        counts["clear"] += 1
    record_property("counts", counts)
    assert counts["clear"] > 40
    (folder / "config.json").write_text(original)
    assert attempt(folder, kind) is None


@pytest.mark.parametrize("kind", LOADERS)
def test_mutated_weight_files(saved, kind):
    folder, generator = saved / kind, random.Random(kind)
    file = folder / "model.safetensors"
    original = file.read_bytes()
    header = struct.unpack("<Q", original[:8])[0] + 8
    refused = 0
    for number in range(60):
        content = bytearray(original)
        if number % 3 == 0:
            content = content[: generator.randrange(len(content))]
        else:
            for _ in range(generator.choice([1, 8])):
                content[generator.randrange(header)] ^= 1 << generator.randrange(8)
        file.write_bytes(content)
        message = attempt(folder, kind)
        if message is not None:
            assert "model.safetensors" in message, message
            refused += 1
    assert refused > 50
    file.write_bytes(original)
    assert attempt(folder, kind) is None


@pytest.mark.parametrize("kind", LOADERS)
def test_files_that_are_missing_or_stand_for_others(saved, kind, tmp_path):
    folder = saved / kind
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    for name, content, message in (
        ("model.safetensors", pointer, "Git LFS pointer"),
        ("model.safetensors", "", "cannot be read"),
        ("config.json", pointer, "Git LFS pointer"),
        ("config.json", '{"a":' * 100_000, "nested too deeply"),
        ("config.json", " " * (9 << 20), "9437184 bytes"),
        ("config.json", '{"type": "lara_dit", "width": NaN}', "NaN"),
        ("config.json", "{}", "type"),
    ):
        copy = tmp_path / "copy"
        shutil.copytree(folder, copy)
        (copy / name).write_text(content)
        text = attempt(copy, kind)
        assert text is not None and name in text.replace(str(copy), "copy ") + name and message in text, text
        shutil.rmtree(copy)
    for name in ("config.json", "model.safetensors"):
        copy = tmp_path / "copy"
        shutil.copytree(folder, copy)
        (copy / name).unlink()
        (copy / "README.md").write_text("# Nothing here")
        assert name in attempt(copy, kind)
        shutil.rmtree(copy)


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("dtype", [torch.int8, torch.float64, torch.int64, torch.bool])
def test_weights_of_another_type_are_refused(saved, kind, dtype):
    file = saved / kind / "model.safetensors"
    weights = load_file(file)
    name = next(name for name, value in weights.items() if value.is_floating_point())
    save_file(weights | {name: weights[name].to(dtype)}, file)
    assert f"{name} is of type" in attempt(saved / kind, kind)


@pytest.mark.parametrize("kind", LOADERS)
def test_half_precision_weights_load(saved, kind):
    file = saved / kind / "model.safetensors"
    weights = load_file(file)
    save_file(
        {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}, file
    )
    assert attempt(saved / kind, kind) is None


def test_a_lara_as_lam_path_names_its_folder(saved):
    with pytest.raises(ValueError, match=r"of type 'lara'.*in the folder `lam`"):
        LatentActionModel.from_pretrained(saved / "lara")
