"""The Open X-Embodiment table and the mixture files that are made of it."""

import itertools
from pathlib import Path

import pytest
import yaml

from lerobot_lara.cli import main
from lerobot_lara.data.mixture.config import load_mixture
from lerobot_lara.data.oxe import make_oxe_mixture, oxe_datasets, oxe_mixtures, write_oxe_mixture

ROOT = Path(__file__).parents[2]
COMMITTED = sorted((ROOT / "configs" / "mixtures").glob("*.yaml"))


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_committed_files_are_what_the_command_writes(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = path.relative_to(ROOT)
    assert main(["oxe-mixture", path.stem, str(name)]) == 0
    assert (tmp_path / name).read_text() == path.read_text()
    assert f"lara oxe-mixture {path.stem} {name}\n" in path.read_text()
    assert "upgrade" in path.read_text().split("weights:")[0]


def test_the_soups_are_committed():
    assert {"oxe_magic_soup", "oxe_magic_soup_plus", "octo_magic_soup"} <= {path.stem for path in COMMITTED}


@pytest.mark.parametrize("name", oxe_mixtures())
def test_mixture_files_load(name, tmp_path):
    config = load_mixture(write_oxe_mixture(name, tmp_path / "mixture.yaml", root="data"))
    assert config.weights == "per_frame" and config.reference == "bridge_orig"
    assert {entry.name: entry.weight for entry in config.entries} == oxe_mixtures()[name].weights
    for entry in config.entries:
        assert entry.root == str(tmp_path / "data" / entry.name)
        assert entry.cameras and set(entry.cameras.values()) <= set(config.cameras)


def test_weights_are_those_of_the_sources():
    """Differences between the weight sets that a slip would hide; figures of OpenVLA and Octo."""
    soup, plus, minus, rtx, octo = (
        oxe_mixtures()[name].weights
        for name in (
            "oxe_magic_soup",
            "oxe_magic_soup_plus",
            "oxe_magic_soup_plus_minus",
            "rtx",
            "octo_magic_soup",
        )
    )
    assert (len(soup), len(plus), len(minus), len(rtx), len(octo)) == (23, 27, 25, 10, 25)
    assert soup["fractal20220817_data"] == 0.54087122203 and soup["kuka"] == 0.8341046294
    assert sum(soup.values()) == pytest.approx(29.57497585143)
    assert plus == soup | {"bc_z": 0.2, "fmb_dataset": 1.0, "dobbe": 0.2, "droid": 0.06}
    dropped = {name: weight for name, weight in plus.items() if name not in ("language_table", "droid")}
    assert minus == dropped | {"fractal20220817_data": 1.0}
    assert octo == soup | {"nyu_door_opening_surprising_effectiveness": 1.0, "bc_z": 0.2}
    changed = {name: weight for name, weight in rtx.items() if soup[name] != weight}
    assert changed == {
        "jaco_play": 2.0,
        "berkeley_cable_routing": 3.0,
        "roboturk": 1.0,
        "berkeley_autolab_ur5": 1.0,
    }


def test_table_is_consistent():
    datasets = oxe_datasets()
    assert set(datasets) == set(itertools.chain(*(mixture.weights for mixture in oxe_mixtures().values())))
    for dataset in datasets.values():
        assert dataset.fps > 0 and (dataset.primary or dataset.wrist)
        assert dataset.state in ("eef_euler", "eef_axis_angle", "eef_quaternion", "joints", "none", None)
        assert {dataset.state_gripper, dataset.action_gripper} <= {"open", "closed", "none", None}
        assert dataset.revision is None or len(dataset.revision) == 40
    rates = {
        name: datasets[name].fps
        for name in ("fractal20220817_data", "bridge_orig", "language_table", "droid")
    }
    assert rates == {"fractal20220817_data": 3, "bridge_orig": 5, "language_table": 10, "droid": 15}
    assert datasets["bridge_orig"].repo_id == "IPEC-COMMUNITY/bridge_orig_lerobot"


def test_embodiments_share_the_meaning_of_their_state():
    datasets = oxe_datasets()
    meanings = {}
    for dataset in datasets.values():
        assert meanings.setdefault(dataset.embodiment, dataset.state) == dataset.state
    assert datasets["bridge_orig"].embodiment == "widowx"
    assert datasets["viola"].embodiment == "franka_joints" != datasets["taco_play"].embodiment


def test_grippers_and_states():
    entries = {entry["name"]: entry for entry in make_oxe_mixture("octo_magic_soup")["entries"]}
    assert entries["fractal20220817_data"]["state"] == {
        "key": "observation.state",
        "dims": None,
        "invert": [7],
    }
    assert entries["bridge_orig"]["state"]["invert"] is None
    assert entries["roboturk"]["state"]["key"] is None
    assert all(entry["action"]["invert"] is None for entry in entries.values())
    door = entries["nyu_door_opening_surprising_effectiveness"]
    assert door["cameras"] == {"observation.images.image": "observation.images.wrist"}
    assert entries["taco_play"]["cameras"] == {
        "observation.images.rgb_static": "observation.images.primary",
        "observation.images.rgb_gripper": "observation.images.wrist",
    }


def test_options(tmp_path):
    path = tmp_path / "mixtures" / "two.yaml"
    command = [
        "oxe-mixture",
        "oxe_magic_soup",
        str(path),
        "--only=viola,kuka",
        "--frame-gap-s=0.5",
        "--root=../oxe",
    ]
    assert main(command) == 0
    config = load_mixture(path)
    assert [entry.name for entry in config.entries] == ["kuka", "viola"]  # the table's order
    assert config.frame_gap_s == 0.5 and config.reference == "kuka"
    assert config.entries[0].root == str(tmp_path / "oxe" / "kuka")
    assert "--only=viola,kuka --frame-gap-s=0.5 --root=../oxe" in path.read_text()


def test_bad_options(tmp_path, capsys):
    path = tmp_path / "mixture.yaml"
    for options, message in (
        (["soup", str(path)], "`name` is 'soup'; it must be one of oxe_magic_soup"),
        (
            ["oxe_magic_soup", str(path), "--only=viola,droid"],
            "`only` has droid; it must name datasets",
        ),
        (["oxe_magic_soup", str(path), "--frame-gap-s=0"], "`frame_gap_s` is 0.0"),
    ):
        assert main(["oxe-mixture", *options]) == 2
        assert message in capsys.readouterr().err
    assert not path.exists()


def test_a_file_that_says_something_else_is_kept(tmp_path):
    path = write_oxe_mixture("rtx", tmp_path / "mixture.yaml")
    write_oxe_mixture("rtx", path)
    path.write_text("entries: []  # edited by hand\n")
    with pytest.raises(ValueError, match=r"mixture\.yaml exists with other content"):
        write_oxe_mixture("rtx", path)
    assert "by hand" in path.read_text()
    write_oxe_mixture("rtx", path, overwrite=True)
    assert len(yaml.safe_load(path.read_text())["entries"]) == 10
