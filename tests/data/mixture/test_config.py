from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
import yaml

from lerobot_lara.data.mixture.config import load_mixture, require_roots

ENTRY = {"name": "a", "repo_id": "org/a"}


def load(tmp_path: Path, content, name="mixture.yaml"):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return load_mixture(path)


def test_defaults_and_relative_roots(tmp_path):
    config = load(
        tmp_path,
        {
            "entries": [
                ENTRY | {"root": "../data/a", "weight": 2},
                {
                    "name": "b",
                    "repo_id": "org/b",
                    "action_free": True,
                    "action": {"key": "action", "dims": [0, 2]},
                },
            ]
        },
    )
    first, second = config.entries
    assert first.root == str(tmp_path.parent / "data" / "a")
    assert (first.weight, second.weight, second.root) == (2.0, 1.0, None)
    assert second.action.dims == [0, 2]
    assert config.reference_entry is first
    assert config.embodiments == ["default"]


def test_configurations_do_not_change_once_they_are_checked(tmp_path):
    config = load(tmp_path, {"entries": [ENTRY | {"action": {"key": "action"}}]})
    for part, name in ((config, "reference"), (config.entries[0], "root"), (config.entries[0].action, "key")):
        with pytest.raises(FrozenInstanceError):
            setattr(part, name, "other")


def test_the_reference_dataset_is_the_first_with_actions_and_its_embodiment_the_first(tmp_path):
    entries = [
        {"name": "v", "repo_id": "org/v", "action_free": True},
        ENTRY | {"embodiment": "so100"},
        {"name": "h", "repo_id": "org/h", "action_free": True, "embodiment": "human"},
    ]
    config = load(tmp_path, {"entries": entries})
    assert config.reference_entry.name == "a"
    assert [config.embodiment_of(entry) for entry in config.entries] == ["so100", "so100", "human"]
    assert config.embodiments == ["so100", "human"]


def test_entries_of_weight_0_are_left_out(tmp_path):
    config = load(tmp_path, {"entries": [ENTRY | {"weight": 0}, {"name": "b", "repo_id": "org/b"}]})
    assert [entry.name for entry in config.used_entries] == ["b"]
    assert config.reference_entry.name == "b"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"entries": []}, r"`entries` is empty"),
        ({"entrys": [ENTRY]}, r"`entrys` is an unknown key in the mixture; it must be one of .*entries"),
        ({"entries": [ENTRY | {"wieght": 1}]}, r"`wieght` is an unknown key in entry 'a'.*weight"),
        (
            {"entries": [ENTRY | {"action": {"dim": [1]}}]},
            r"`dim` is an unknown key in `action` of entry 'a'",
        ),
        ({"entries": [ENTRY | {"weight": -1}]}, r"`weight` of entry 'a' is -1"),
        ({"entries": [ENTRY | {"weight": float("nan")}]}, r"`weight` of entry 'a' is nan"),
        ({"entries": [ENTRY | {"weight": 0}]}, r"`weight` is 0 in all `entries`"),
        ({"entries": [ENTRY, ENTRY]}, r"the name 'a' twice"),
        ({"entries": [ENTRY | {"frame_gap_s": 0}]}, r"`frame_gap_s` of entry 'a' is 0"),
        ({"entries": [ENTRY], "frame_gap_s": -1}, r"`frame_gap_s` is -1"),
        ({"entries": [ENTRY | {"episodes": []}]}, r"`episodes` of entry 'a' is \[\]"),
        ({"entries": [ENTRY | {"episodes": [-1]}]}, r"`episodes` of entry 'a' is \[-1\]"),
        (
            {"entries": [ENTRY | {"cameras": {}}]},
            r"`cameras` of entry 'a' is \{\}; it must be a mapping of at least one",
        ),
        ({"entries": [ENTRY | {"cameras": {"x": "c", "y": "c"}}]}, r"must not map two cameras to one"),
        ({"entries": [ENTRY], "weights": "shares"}, r"`weights` is 'shares'; it must be one of"),
        ({"entries": [ENTRY], "statistics": "all"}, r"`statistics` is 'all'"),
        ({"entries": [ENTRY], "reference": "b"}, r"`reference` is 'b'; it must be the name of an entry"),
        ({"entries": [ENTRY], "image_size": [64]}, r"`image_size` is \[64\]"),
        ({"entries": [{"name": "a"}]}, r"`repo_id` is missing in entry 'a'"),
        (
            {"entries": [ENTRY | {"weight": "much"}]},
            r"`weight` of entry 'a' is 'much'; it must be 0, or a number",
        ),
        ({"entries": ["org/a"]}, r"`entries` holds 'org/a'"),
        ({"entries": 5}, r"`entries` is 5; it must be a list"),
        ([ENTRY], r"mixture.yaml is \[.*; it must be a mapping with `entries"),
        ("entries: [", r"is not YAML"),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path, content, message):
    with pytest.raises(ValueError, match=message) as error:
        load(tmp_path, content)
    assert "mixture.yaml" in str(error.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.yaml does not exist"):
        load_mixture(tmp_path / "absent.yaml")


def test_a_missing_root_is_refused_where_its_entry_is_in_use(tmp_path):
    (tmp_path / "here").mkdir()
    path = tmp_path / "mixture.yaml"

    def written(weight):
        entries = [{"name": "here", "root": "here"}, {"name": "absent", "root": "absent", "weight": weight}]
        path.write_text(yaml.safe_dump({"entries": [{"repo_id": "local/x"} | entry for entry in entries]}))
        return load_mixture(path)

    require_roots(written(weight=0), path)
    with pytest.raises(
        ValueError, match=r"mixture.yaml: `root` of entry 'absent' is .*absent, which does not"
    ):
        require_roots(written(weight=1), path)
