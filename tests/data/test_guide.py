"""The data guide: its mixture file loads, its commands parse, and its links lead somewhere."""

import argparse
import importlib
import re
import shlex
from pathlib import Path

import pytest

from lerobot_lara.data.mixture.config import load_mixture

GUIDE = Path(__file__).parents[2] / "lerobot_lara" / "data" / "README.md"
TEXT = GUIDE.read_text()
COMMANDS = [
    line
    for block in re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
    for line in block.replace("\\\n", "").splitlines()
    if line.startswith("lara ")
]


def parser_of(name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    importlib.import_module(f"lerobot_lara.cli.{name.replace('-', '_')}").add_arguments(parser)
    return parser


def test_the_mixture_file_loads(tmp_path):
    (block,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    path = tmp_path / "mixture.yaml"
    path.write_text(block)
    mixture = load_mixture(path)
    assert mixture.reference_entry.name == "mine"
    assert mixture.embodiments == ["default", "widowx"]
    assert [entry.weight for entry in mixture.entries] == [2, 1, 1]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command):
    _, name, *arguments = shlex.split(command, comments=True)
    parser_of(name).parse_args(arguments)


def test_every_kind_of_command_is_shown():
    assert {command.split()[1] for command in COMMANDS} == {
        "collect-demos",
        "import-video",
        "oxe-mixture",
        "show-data",
        "upgrade-dataset",
    }


def test_options_of_the_table_exist():
    known = parser_of("import-video").format_help()
    options = re.findall(r"^\| `(--[\w-]+)", TEXT, re.MULTILINE)
    assert len(options) >= 9 and all(option in known for option in options)


def test_links_lead_somewhere():
    headings = {heading.lower().replace(" ", "-") for heading in re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE)}
    for link in re.findall(r"\]\((?!http)([^)]+)\)", TEXT):
        assert (
            link.removeprefix("#") in headings if link.startswith("#") else (GUIDE.parent / link).exists()
        ), link
