"""What holds the distribution together: discovery by LeRobot, module boundaries, pins, set-up, command line."""

import ast
import importlib
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from lerobot_lara import cli
from lerobot_lara.cli import doctor

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lerobot_lara"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
POLICY_TYPES = {
    "lara_lam": "LaraLAM",
    "lara_dit": "LaraDiT",
    "lara": "Lara",
    "groot_n16": "GrootN16",
    "moto_gpt": "MotoGPT",
    "lara_smolvla": "LaraSmolVLA",
    "lara_pi0": "LaraPI0",
    "lara_pi05": "LaraPI05",
    "lara_groot": "LaraGroot",
    "lara_groot_n16": "LaraGrootN16",
    "lara_multi_task_dit": "LaraMultiTaskDiT",
    "lara_xvla": "LaraXVLA",
    "lara_vla_jepa": "LaraVLAJEPA",
    "lara_evo1": "LaraEvo1",
    "lara_wall_x": "LaraWallX",
}
# What each folder of the package may import from the others (itself always); the files at the top import anything.
LAYERS = {
    "files": set(),
    "batch": set(),
    "backbones": set(),
    "training": set(),
    "cluster": set(),
    "envs": {"files"},
    "policy": {"files", "batch", "training"},
    "lam": {"files", "batch", "backbones", "training", "policy"},
    "dit": {"files", "batch", "backbones", "training", "policy"},
    "alignment": {"files", "batch", "backbones", "training", "policy", "lam", "groot_n16"},
    "groot_n16": {"files", "training", "policy"},
    "moto_gpt": {"files", "batch", "backbones", "training", "policy", "lam", "dit"},
    "data": {"files", "batch", "training", "policy", "envs"},
    "labeling": {
        "files",
        "batch",
        "training",
        "policy",
        "lam",
        "alignment",
        "data",
        "evaluation",
        "cluster",
        "",
    },
    "serving": {"files", "policy", "envs"},
    "publish": {"files", "batch", "backbones", "policy", "lam", "dit", "alignment", ""},
    "evaluation": {
        "files",
        "batch",
        "backbones",
        "training",
        "policy",
        "lam",
        "dit",
        "alignment",
        "data",
        "envs",
        "cluster",
        "",
    },
}
# Folders of plain PyTorch, with the files in them that meet LeRobot.
PURE = {
    "files": set(),
    "batch": set(),
    "backbones": set(),
    "training": {"config.py"},
    "lam": {"configuration_lara_lam.py", "modeling_lara_lam.py", "processor_lara_lam.py"},
    "dit": {
        "configuration_lara_dit.py",
        "modeling_lara_dit.py",
        "processor_lara_dit.py",
        "networks.py",
        "vlm_settings.py",
    },
    "alignment": {
        "attachment.py",
        "checkpoint_lam.py",
        "config.py",
        "mixin.py",
        *(
            f"bases/{path.name}"
            for path in (PACKAGE / "alignment" / "bases").glob("*.py")
            if path.stem != "weights"
        ),
    },
    "moto_gpt": {"configuration_moto_gpt.py", "modeling_moto_gpt.py", "processor_moto_gpt.py"},
    "groot_n16": {
        "configuration_groot_n16.py",
        "modeling_groot_n16.py",
        "processor_groot_n16.py",
        "action_head.py",
        "model.py",
        "release.py",
        "robot.py",
    },
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def pure_modules() -> list[Path]:
    return [
        path
        for folder, adapters in PURE.items()
        for path in sorted((PACKAGE / folder).rglob("*.py"))
        if path.relative_to(PACKAGE / folder).as_posix() not in adapters
    ]


def imported_names(path: Path) -> set[str]:
    """Returns every absolute module and `module.name` that a file imports, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(ROOT).parent.parts
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            module = ".".join([*base, *(node.module.split(".") if node.module else [])])
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return names


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


# Discovery


def test_distribution_is_named_as_discovery_asks() -> None:
    # LeRobot compares the raw name from the metadata: a hyphen in it, and the plugin is never found.
    assert importlib.metadata.distribution("lerobot_policy_lara").metadata["Name"] == "lerobot_policy_lara"


@pytest.mark.e2e
def test_discovery_alone_registers_all_types() -> None:
    program = """
import sys
from lerobot.utils.import_utils import register_third_party_plugins
assert "lerobot_lara" not in sys.modules
register_third_party_plugins()
from lerobot.configs.policies import PreTrainedConfig
from lerobot.envs.configs import EnvConfig
sys.stdout.write("registered: " + " ".join([*PreTrainedConfig.get_known_choices(), *EnvConfig.get_known_choices()]))
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    registered = result.stdout.split("registered: ")[1].split()
    assert {*POLICY_TYPES, "metaworld_fast", "simpler", "libero_fast", "vla_eval"} <= set(registered)


@pytest.mark.parametrize(("type_name", "class_stem"), POLICY_TYPES.items())
def test_names_follow_from_the_type(type_name: str, class_stem: str) -> None:
    from lerobot.configs.policies import PreTrainedConfig
    from lerobot.policies.factory import get_policy_class

    config_class = PreTrainedConfig.get_choice_class(type_name)
    assert config_class.__name__ == f"{class_stem}Config"
    policy_class = get_policy_class(type_name)
    assert policy_class.__name__ == f"{class_stem}Policy"
    assert policy_class.name == type_name
    assert policy_class.config_class is config_class
    processor = importlib.import_module(config_class.__module__.replace("configuration_", "processor_"))
    assert callable(getattr(processor, f"make_{type_name}_pre_post_processors"))


# Module boundaries


def imports_matching(pattern: str, paths: list[Path]) -> dict[str, list[str]]:
    found = {path: sorted(name for name in imported_names(path) if re.match(pattern, name)) for path in paths}
    return {relative(path): names for path, names in found.items() if names}


def test_pure_modules_know_neither_lerobot_nor_adapters() -> None:
    adapters = "|".join(
        rf"{folder}\.{name.removesuffix('.py').replace('/', '.')}"
        for folder, names in PURE.items()
        for name in names
    )
    forbidden = rf"lerobot(\.|$)|draccus|lerobot_lara\.({adapters}|policy\.base)(\.|$)"
    assert imports_matching(forbidden, pure_modules()) == {}
    assert all((PACKAGE / folder / name).is_file() for folder, names in PURE.items() for name in names)


def test_every_folder_has_its_place_in_the_import_direction() -> None:
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders == {*LAYERS, "cli"}


@pytest.mark.parametrize("folder", LAYERS)
def test_imports_run_one_way(folder: str) -> None:
    allowed = {folder, *LAYERS[folder]}
    upwards = {}
    for path in sorted((PACKAGE / folder).rglob("*.py")):
        names = [name.split(".") for name in imported_names(path) if name.startswith("lerobot_lara.")]
        # `lerobot_lara.modeling_lara` is a file at the top: the folder "".
        places = {parts[1] if (PACKAGE / parts[1]).is_dir() else "" for parts in names}
        if places - allowed:
            upwards[relative(path)] = sorted(places - allowed)
    assert upwards == {}


def test_package_imports_nothing_that_is_not_installed_with_it() -> None:
    assert imports_matching(r"(benchmarks|hub|tests|scripts|support|conftest)(\.|$)", modules()) == {}


def test_relative_imports_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    module = tmp_path / "lerobot_lara" / "lam" / "probe.py"
    module.parent.mkdir(parents=True)
    module.write_text(
        "def f():\n    from .configuration_lara_lam import A\n    from ..dit import modeling_lara_dit\n"
    )
    assert imported_names(module) == {
        "lerobot_lara.lam.configuration_lara_lam",
        "lerobot_lara.lam.configuration_lara_lam.A",
        "lerobot_lara.dit",
        "lerobot_lara.dit.modeling_lara_dit",
    }


def test_package_does_not_print() -> None:
    nodes = [(path, node) for path in modules() for node in ast.walk(ast.parse(path.read_text()))]
    prints = [
        f"{relative(path)}:{node.lineno}"
        for path, node in nodes
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert prints == []


def test_files_are_written_through_one_module() -> None:
    """So that a kill leaves no half of one; the exceptions write into a folder that is moved when it is whole."""
    allowed = {
        "files/atomic.py",
        "data/upgrade/legacy_conversion.py",
        "data/video/assemble.py",
        "data/video/stage_clip.py",
        "evaluation/study/jobs.py",  # the logs of its children
        "evaluation/show_data/pairs.py",  # into memory
    }
    writing = re.compile(
        r"\.write_text\(|\.write_bytes\(|json\.dump\(|\bopen\([^)]*[\"'][wax]b?\+?[\"']|"
        r"(savefig|save_file|savez|to_parquet|write_table)\((?!partial\b|file\b)|\.save\([^)]*[\"'](PNG|JPEG)"
    )
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in modules()
        for line in path.read_text().splitlines()
        if writing.search(line) and "partial" not in line
    }
    assert found - allowed == set()


# Tracked files


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def test_no_tracked_file_names_a_package_host(tracked: list[Path]) -> None:
    # The brackets keep this file from naming one itself.
    hosts = re.compile(rb"p[y]pi[.]org|p[y]thonhosted[.]org|d[e]b[.]debian[.]org|r[e]gistry[.]npmjs[.]org")
    assert not [relative(path) for path in tracked if hosts.search(path.read_bytes())]


def test_no_tracked_file_is_large(tracked: list[Path]) -> None:
    assert not [relative(path) for path in tracked if path.stat().st_size > 5_000_000]


def test_lock_pins_every_dependency_within_its_range_and_no_host() -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    assert not [line for line in lines if line.startswith("-") or "://" in line]
    pins = {requirement.name: requirement for requirement in map(Requirement, filter(None, lines))}
    asked = [
        *PROJECT["dependencies"],
        *(one for extra in PROJECT["optional-dependencies"].values() for one in extra),
    ]
    for requirement in map(Requirement, asked):
        pin = pins[requirement.name.lower()]
        version = str(pin.specifier).removeprefix("==")
        assert version in requirement.specifier, f"{pin} does not satisfy {requirement}"


def test_license_is_the_one_declared() -> None:
    assert PROJECT["license"] == "Apache-2.0"
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License\n                           Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text and "[yyyy]" not in text


# Set-up


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with the set-up script, and on its PATH nothing but shims that do not run and an imitation of uv."""
    clone, shims = tmp_path / "clone", tmp_path / "bin"
    (clone / "scripts").mkdir(parents=True)
    shims.mkdir()
    for name in ("scripts/setup.sh", "requirements.lock", "pyproject.toml"):
        (clone / name).write_bytes((ROOT / name).read_bytes())
    for name in ("python", "python3", "python3.12", "python3.13", "uv"):
        _executable(shims / name, "exit 127")
    return clone


def _executable(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def _imitate_uv(clone: Path) -> None:
    _executable(
        clone.parent / "bin" / "uv",
        f"""echo "$@" >>"{clone.parent}/calls"
case "$*" in
  venv*) mkdir -p .venv/bin; ln -s "{sys.executable}" .venv/bin/python ;;
  *"-e ."*) echo "#!$PWD/.venv/bin/python" >.venv/bin/lara; chmod +x .venv/bin/lara ;;
esac""",
    )


def _set_up(clone: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": f"{clone.parent / 'bin'}:/usr/bin:/bin",
        "HOME": str(clone.parent),
        "LARA_NO_APT": "1",
        **environment,
    }
    command = ["bash", "scripts/setup.sh"]
    return subprocess.run(
        command, cwd=clone, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )


def _calls(clone: Path) -> list[str]:
    """Returns the calls of the imitated uv since the last look."""
    path = clone.parent / "calls"
    calls = path.read_text().splitlines() if path.exists() else []
    path.write_text("")
    return [call for call in calls if call != "--version"]


def test_setup_says_what_it_needs_when_no_python_runs(clone: Path) -> None:
    result = _set_up(clone)
    assert result.returncode != 0
    assert "Python 3.12 or 3.13" in result.stderr and "PYTHON=" in result.stderr
    assert not (clone / ".venv").exists()


def test_setup_lets_uv_fetch_a_python_when_none_runs(clone: Path) -> None:
    _imitate_uv(clone)
    assert _set_up(clone).returncode == 0
    assert _calls(clone)[0] == "venv --quiet --python 3.12 .venv"


def test_setup_installs_once_and_again_when_pins_change_or_the_folder_moves(clone: Path) -> None:
    _imitate_uv(clone)
    _executable(clone.parent / "bin" / "python3.13", f'exec "{sys.executable}" "$@"')
    install = [
        "pip install --quiet --no-deps -r requirements.lock",
        "pip install --quiet --no-deps --no-build-isolation -e .",
    ]

    first = _set_up(clone)
    assert first.returncode == 0, first.stderr
    calls = _calls(clone)
    assert calls[0].startswith("venv ") and sys.executable in calls[0] and calls[1:] == install
    assert "ready" in first.stderr

    second = _set_up(clone)
    assert second.returncode == 0 and _calls(clone) == [] and "ready" not in second.stderr

    with (clone / "requirements.lock").open("a") as lock:
        lock.write("# changed\n")
    assert _set_up(clone).returncode == 0
    assert _calls(clone) == install

    moved = clone.rename(clone.parent / "moved")
    result = _set_up(moved)
    assert result.returncode == 0 and "creating it again" in result.stderr
    assert [call.split()[0] for call in _calls(moved)] == ["venv", "pip", "pip"]

    (moved / ".venv/bin/python").unlink()
    assert "creating it again" in _set_up(moved).stderr


# Command line


def test_help_lists_every_subcommand(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--help"])
    listed = capsys.readouterr().out
    assert {
        "doctor",
        "label",
        "fit-decoder",
        "bases",
        "benchmark",
        "collect-demos",
        "import-video",
        "export-lam",
        "export-base",
        "demo",
        "oxe-mixture",
        "probe",
        "serve",
        "show-data",
        "upgrade-dataset",
    } == set(cli.SUBCOMMANDS)
    assert not [name for name in cli.SUBCOMMANDS if not re.search(rf"^ +{name}\b", listed, re.MULTILINE)]


@pytest.mark.parametrize("name", cli.SUBCOMMANDS)
def test_every_subcommand_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main([name, "--help"])
    assert f"usage: lara {name}" in capsys.readouterr().out


# Doctor


def test_doctor_reports_a_healthy_core(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor"]) == 0
    report = capsys.readouterr().out
    for name in (*POLICY_TYPES, "metaworld_fast", "lerobot ", "torch ", "torchcodec", "MiniLM", "GPU"):
        assert name in report
    assert "FAILED" not in report


@pytest.mark.parametrize(("required", "status", "mark"), [(True, 1, "FAILED"), (False, 0, "missing")])
def test_doctor_fails_for_required_parts_only(
    required: bool,
    status: int,
    mark: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    broken = doctor.Check("widget", lambda: doctor.Finding(False, "no widget", "fetch a widget"), required)
    fine = doctor.Check("gadget", lambda: doctor.Finding(True, "1.0"), required=True)
    monkeypatch.setattr(doctor, "sections", lambda: [("Parts", [broken, fine])])
    assert cli.main(["doctor"]) == status
    report = capsys.readouterr().out
    assert re.search(rf"{mark} +widget +no widget\n +-> fetch a widget\n", report)


def test_doctor_names_the_extra_of_a_missing_part() -> None:
    for finding in (
        doctor.look_for_file("no_such_module", "*"),
        doctor.look_for_file("packaging", "*.weights"),
    ):
        assert not finding.ok and "[offline]" in finding.remedy
    finding = doctor.look_for_modules("eval", "packaging", "no_such_module")
    assert not finding.ok and "no_such_module" in finding.detail and "packaging" not in finding.detail
    assert "[eval]" in finding.remedy


def test_doctor_refuses_a_version_out_of_range(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.look_for_distribution("lerobot").ok
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.7.0")
    finding = doctor.look_for_distribution("lerobot")
    assert not finding.ok and "<0.7" in finding.remedy
    monkeypatch.undo()
    finding = doctor.look_for_distribution("no-such-package")
    assert not finding.ok and "no-such-package" in finding.detail


def test_doctor_sees_a_plugin_that_discovery_misses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "lerobot_policy_lara", raising=False)
    monkeypatch.setattr(importlib.metadata, "distributions", list)
    finding = doctor.look_for_discovery()
    assert not finding.ok and "make setup" in finding.remedy


def test_doctor_tells_why_a_policy_does_not_import(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.look_for_policy("no_such_type").detail == "not registered"
    monkeypatch.setitem(sys.modules, "lerobot_lara.processor_lara", None)
    finding = doctor.look_for_policy("lara")
    assert not finding.ok and "processor_lara" in finding.detail


@pytest.mark.skipif(sys.platform != "linux", reason="EGL is Linux's way to render without a display")
def test_doctor_tries_to_render(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "MUJOCO_GL", "egl")
    monkeypatch.setitem(os.environ, "__EGL_VENDOR_LIBRARY_FILENAMES", "/no/such/driver.json")
    finding = doctor.look_for_rendering()
    assert not finding.ok and "apt-get install libegl1" in finding.remedy


@pytest.mark.skipif(sys.platform != "linux", reason="the software renderer is Linux's")
def test_doctor_tries_to_render_through_vulkan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "VK_ICD_FILENAMES", "/no/such/driver.json")
    finding = doctor.look_for_vulkan()
    assert not finding.ok and "VK_ICD_FILENAMES" in finding.remedy


def test_doctor_says_how_to_fetch_the_files_of_simpler(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(os.environ, "MS_ASSET_DIR", str(tmp_path))
    finding = doctor.look_for_simpler_files()
    assert not finding.ok and "download_asset bridge_v2_real2sim -y" in finding.remedy
