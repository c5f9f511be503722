"""The data guide: its mixture file loads, and it shows every command and option."""

import argparse
import importlib
import re
from pathlib import Path

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
