"""How commands end: one paragraph for what the user can mend, a traceback and a request for a bug."""

import argparse
import errno
import importlib
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
from huggingface_hub.errors import OfflineModeIsEnabled, RepositoryNotFoundError

from lerobot_lara import cli
from lerobot_lara.cli import endings


@pytest.fixture
def run_with(monkeypatch, capsys):
    """Returns `run(error, subcommand) -> (status, stderr)`: the end of a command that raises the error."""

    def run(error, subcommand="oxe-mixture"):
        def fail(args):
            raise error

        module = types.SimpleNamespace(add_arguments=lambda parser: None, run=fail)
        with monkeypatch.context() as patch:
            patch.setattr(importlib, "import_module", lambda name: module)
            status = cli.main([subcommand])
        return status, capsys.readouterr().err

    return run


def os_error(number, path="/data/file"):
    return OSError(number, os.strerror(number), path)


@pytest.mark.parametrize(
    ("number", "cause"),
    [
        (errno.ENOSPC, "the disk is full. Free some space"),
        (errno.EROFS, "the file system is read-only. Choose a place"),
        (errno.EACCES, "permission is denied. Change the permissions"),
        (errno.ENOTDIR, "a part of the path is a file"),
        (errno.EISDIR, "it is a folder where a file is needed"),
        (errno.ENAMETOOLONG, "the name is too long"),
        (errno.EIO, "the disk reports an input/output error"),
        (errno.ENOENT, "there is no such file or folder"),
    ],
)
def test_what_the_system_refuses_is_said_with_path_cause_and_remedy(run_with, number, cause):
    status, text = run_with(os_error(number))
    assert status == 2
    assert text.startswith(f"lara oxe-mixture: /data/file: {cause}")
    assert text.count("\n") == 1 and "Traceback" not in text


def test_a_full_disk_is_found_behind_the_errors_of_libraries(run_with):
    wrapped = RuntimeError("writing failed")
    wrapped.__cause__ = os_error(errno.ENOSPC)
    assert run_with(wrapped)[0] == 2
    while_closing = RuntimeError("closing failed")
    while_closing.__context__ = os_error(errno.EIO)
    assert run_with(while_closing)[0] == 2
    status, text = run_with(RuntimeError("I/O error: No space left on device (os error 28)"))  # safetensors
    assert status == 2 and "the disk is full" in text


def test_a_file_that_was_missing_before_does_not_hide_a_bug(run_with):
    bug = KeyError("fps")
    bug.__context__ = os_error(errno.ENOENT)
    status, text = run_with(bug)
    assert status == 70 and "KeyError: 'fps'" in text


def test_a_value_error_is_one_paragraph(run_with):
    assert run_with(ValueError("`fps` is 0.\n\nIt must be 1.\n")) == (
        2,
        "lara oxe-mixture: `fps` is 0.\nIt must be 1.\n",
    )


@pytest.mark.parametrize(
    "error",
    [OfflineModeIsEnabled("no network"), ConnectionResetError("reset"), TimeoutError("slow")],
)
def test_a_network_that_fails_is_said(run_with, error):
    status, text = run_with(error)
    assert status == 2 and "go online" in text and type(error).__name__ in text


def test_errors_of_the_hub_are_those_of_the_network():
    error = RepositoryNotFoundError.__new__(RepositoryNotFoundError)
    assert "go online" in (endings.mendable(error) or "")


def test_full_memory_is_said(run_with):
    status, text = run_with(MemoryError("Unable to allocate 9 TiB"))
    assert status == 2 and "memory is full (Unable to allocate 9 TiB)" in text


@pytest.mark.parametrize("name", cli.SUBCOMMANDS)
def test_ctrl_c_ends_in_one_line_that_says_how_to_go_on(run_with, name):
    status, text = run_with(KeyboardInterrupt(), name)
    assert status == 130 and text.count("\n") == 1
    assert text.startswith(f"lara {name}: interrupted. Run the same command")


@pytest.mark.parametrize("name", cli.RESUME)
def test_the_advice_after_ctrl_c_names_flags_that_exist(name):
    parser = argparse.ArgumentParser()
    importlib.import_module(f"lerobot_lara.cli.{name.replace('-', '_')}").add_arguments(parser)
    named = {word.strip(",.") for word in cli.RESUME[name].split() if word.startswith("--")}
    assert named <= set(parser._option_string_actions)


def test_a_bug_keeps_its_traceback_and_asks_for_a_report(run_with, monkeypatch):
    status, text = run_with(AttributeError("'NoneType' object has no attribute 'shape'"))
    assert status == 70
    assert "Traceback (most recent call last)" in text and "in fail" in text
    paragraph = text.split("\n\n")[-1]
    for part in (
        "this is a bug of lerobot_lara",
        "issue tracker",
        "lerobot_policy_lara 0.",
        "torch 2",
        "python 3.",
    ):
        assert part in paragraph
    described = types.SimpleNamespace(get_all=lambda name: ["Issues, https://example.org/issues"])
    monkeypatch.setattr(endings.metadata, "metadata", lambda name: described)
    assert "https://example.org/issues" in run_with(AttributeError("x"))[1]


@pytest.mark.parametrize(
    ("error", "explanation"),
    [
        (
            ModuleNotFoundError("No module named 'matplotlib.pyplot'", name="matplotlib.pyplot"),
            "The package 'matplotlib.pyplot' is missing. Install it with `pip install -e '.[eval]'`.",
        ),
        (ModuleNotFoundError("No module named 'peft'", name="peft"), "'.[vlm]'"),
        (ImportError("'metaworld' is required but not installed."), "'metaworld' is required"),
        (ModuleNotFoundError("No module named 'lerobot_lara.gone'", name="lerobot_lara.gone"), None),
        (ModuleNotFoundError("No module named 'packaging'", name="packaging"), None),
        (ImportError("cannot import name 'x' from 'y'", name="y"), None),
    ],
)
def test_a_missing_extra_is_said_and_a_broken_package_is_not_hidden(monkeypatch, capsys, error, explanation):
    def fail(name):
        raise error

    monkeypatch.setattr(importlib, "import_module", fail)
    assert cli.main(["demo"]) == (70 if explanation is None else 2)
    text = capsys.readouterr().err
    assert ("Traceback" in text) if explanation is None else (explanation in text and "Traceback" not in text)


def test_a_subcommand_after_a_separator_is_run_like_any_other(capsys):
    assert cli.main(["--", "oxe-mixture", "no_such_mixture", "x.yaml"]) == 2
    assert "`name` is 'no_such_mixture'" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize(("redirection", "status"), [("> /dev/full", 2), ("| true", 141)])
def test_output_that_cannot_be_written_ends_without_a_traceback(redirection, status):
    program = (
        "import sys; from lerobot_lara.cli import main, doctor\n"
        "fine = doctor.Check('widget', lambda: doctor.Finding(True, 'x' * 100000))\n"
        "doctor.sections = lambda: [('Parts', [fine] * 10)]\n"
        "sys.exit(main(['doctor']))"
    )
    ended = subprocess.run(
        ["bash", "-c", f'"$0" -c "$1" {redirection}; exit ${{PIPESTATUS[0]}}', sys.executable, program],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == status
    assert "Traceback" not in ended.stderr
