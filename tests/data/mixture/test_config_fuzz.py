"""Mixture files that are wrong in random ways: each is a mixture, or an error that names the file and the field."""

import copy
import logging
import os
import random

import pytest
import yaml

from lerobot_lara.data.mixture.config import MixtureConfig, load_mixture

logger = logging.getLogger(__name__)

CONTENT = {
    "weights": "share",
    "reference": "robot",
    "cameras": ["observation.image", "observation.images.wrist"],
    "image_size": [64, 64],
    "frame_gap_s": 0.4,
    "statistics": "dataset",
    "on_broken_video": "skip",
    "entries": [
        {
            "name": "robot",
            "repo_id": "org/robot",
            "root": "robot",
            "weight": 2.0,
            "episodes": [0, 1],
            "state": {"key": "observation.state", "dims": [0, 1], "invert": [0]},
            "embodiment": "arm",
            "language_key": "task",
        },
        {
            "name": "video",
            "repo_id": "org/video",
            "revision": "main",
            "weight": 1,
            "cameras": {"observation.images.cam": "observation.image"},
            "frame_gap_s": 1.5,
            "instruction": "pick up the cup",
            "action_free": True,
        },
    ],
}
ODD = (
    *(None, True, False, 0, -1, 1, 10**9, 10**30, 1e308, 1e-308, -0.0, 0.5),
    *(
        float("nan"),
        float("inf"),
        float("-inf"),
        "",
        " ",
        "x",
        "1",
        "1e9",
        "nan",
        "\x07",
        "a\nb",
        "\U0001f916",
    ),
    *(
        [],
        {},
        [[]],
        [None],
        [1, "x"],
        [True],
        [-1, 2],
        [10**9, 10**9],
        ["a", "a"],
        {"a": 1},
        {1: "a"},
        {"": ""},
    ),
    *("x" * 10_000, "../../etc/passwd", "other.yaml", list(range(2_000))),
)
COUNT = int(os.environ.get("LARA_FUZZ", "500"))


def places(value, path=()):
    """Yields the paths of all values in a nested content."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        yield (*path, key)
        yield from places(child, (*path, key))


def mutate(content, generator):
    """Replaces, removes or adds one value; returns the names that an error may give it."""
    path = generator.choice(list(places(content)))
    parent = content
    for key in path[:-1]:
        parent = parent[key]
    kind = generator.choice(("replace", "replace", "replace", "remove", "add"))
    if kind == "remove":
        del parent[path[-1]]
    elif kind == "add" and isinstance(parent, dict):
        parent["extra"] = generator.choice(ODD)
        return {*path, "extra"}
    else:
        parent[path[-1]] = copy.deepcopy(generator.choice(ODD))
    return set(path)


def damage(data, generator):
    """Changes, removes or repeats some bytes."""
    data = bytearray(data)
    for _ in range(generator.randint(1, 6)):
        at = generator.randrange(len(data)) if data else 0
        kind = generator.randrange(4)
        if kind == 0:
            data[at : at + 1] = bytes([generator.randrange(256)])
        elif kind == 1:
            del data[at : at + generator.randint(1, 40)]
        elif kind == 2:
            data[at:at] = generator.choice(
                (b"[", b"{", b"&a ", b"*a ", b"\t", b"- ", b": ", b"\n", b"!!x ", b"<<: ")
            )
        else:
            data[at:at] = data[at : at + 60]
    return bytes(data)


@pytest.mark.parametrize("seed", [0])
def test_values_that_are_wrong_are_named(tmp_path, seed):
    generator, path, counts = random.Random(seed), tmp_path / "mixture.yaml", {"mixture": 0, "refused": 0}
    for _ in range(COUNT):
        content = copy.deepcopy(CONTENT)
        names = set()
        for _ in range(generator.randint(1, 3)):
            if list(places(content)):
                names |= mutate(content, generator)
        path.write_text(yaml.safe_dump(content, allow_unicode=True))
        try:
            assert isinstance(load_mixture(path), MixtureConfig)
            counts["mixture"] += 1
        except ValueError as error:
            message = str(error)
            assert message.startswith(str(path)) and len(message) < 10_000
            related = names | {"name", "reference", "entries"}  # a changed name is one that `reference` lacks
            assert any(f"`{name}" in message for name in map(str, related)), message
            counts["refused"] += 1
    assert min(counts.values()) > COUNT / 50, counts
    logger.info("%d tried: %s", COUNT, counts)


@pytest.mark.parametrize("seed", [1])
def test_bytes_that_are_wrong_never_end_in_another_error(tmp_path, seed):
    generator, path, counts = random.Random(seed), tmp_path / "mixture.yaml", {"mixture": 0, "refused": 0}
    data = yaml.safe_dump(CONTENT).encode()
    for _ in range(COUNT):
        path.write_bytes(damage(data, generator))
        try:
            assert isinstance(load_mixture(path), MixtureConfig)
            counts["mixture"] += 1
        except ValueError as error:
            assert str(error).startswith(str(path)) and len(str(error)) < 10_000
            counts["refused"] += 1
    assert min(counts.values()) > COUNT / 100, counts
    logger.info("%d tried: %s", COUNT, counts)
