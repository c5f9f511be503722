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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": True}, "`weight` of entry 'a' is True; it must be 0, or a number from"),
        ({"weight": "1"}, "`weight` of entry 'a' is '1'"),
        ({"weight": 1e308}, "`weight` of entry 'a' is 1e[+]308"),
        ({"weight": float("inf")}, "`weight` of entry 'a' is inf"),
        ({"name": 5}, "`name` of entry 5 is 5; it must be text on one line [(]in quotes"),
        ({"repo_id": "other.yaml"}, "`repo_id` of entry 'a' is the mixture file other.yaml"),
        ({"action_free": "no"}, "`action_free` of entry 'a' is 'no'; it must be true or false"),
        ({"episodes": [0.5]}, "`episodes` of entry 'a' is .*a list of episode numbers"),
        ({"state": "observation.state"}, "`state` of entry 'a' is 'observation.state'; it must be a mapping"),
        (
            {"action": {"key": "action", "dims": "0"}},
            "`action` of entry 'a': `dims` of the column 'action' is '0'",
        ),
        ({"cameras": {"x": 1}}, "`cameras` of entry 'a' is"),
    ],
)
def test_fields_of_entries(tmp_path, change, message):
    with pytest.raises(ValueError, match=f"mixture.yaml: .*{message}"):
        load(tmp_path, {"entries": [ENTRY | change]})


@pytest.mark.parametrize("size", [[10**9, 64], [0, 64], [64.0, 64], [True, 64], [64, 64, 3], "64", "1e9", 64])
def test_sizes_of_images(tmp_path, size):
    with pytest.raises(
        ValueError, match=r"`image_size` is .*; it must be \[height, width\] in pixels, from 1 to"
    ):
        load(tmp_path, {"entries": [ENTRY], "image_size": size})


def test_all_faults_are_said_at_once(tmp_path):
    entries = [ENTRY | {"weight": -1, "wieght": 2}, {"name": "b", "repos": "x"}]
    with pytest.raises(ValueError) as error:
        load(tmp_path, {"entries": entries, "image_sizes": [1, 2]})
    for part in ("`image_sizes` is", "`wieght` is", "`repos` is", "`repo_id` is missing in entry 'b'"):
        assert part in str(error.value)
    entries = [ENTRY | {"weight": -1, "frame_gap_s": 0}, {"name": "b", "repo_id": "org/b", "episodes": "all"}]
    with pytest.raises(ValueError) as error:
        load(tmp_path, {"entries": entries})
    for part in ("`weight` of entry 'a'", "`frame_gap_s` of entry 'a'", "`episodes` of entry 'b'"):
        assert part in str(error.value)
    entries = [{"name": f"e{number}", "repo_id": "x", "weight": -1} for number in range(1000)]
    with pytest.raises(ValueError, match="There are 980 more problems") as error:
        load(tmp_path, {"entries": entries})
    assert str(error.value).count("\n") == 20
