"""Every guide: its links lead somewhere, and its commands and flags exist."""

import argparse
import importlib
import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest

from lerobot_lara import GrootN16Config, LaraConfig, LaraLAMConfig, MotoGPTConfig, cli
from lerobot_lara.alignment.bases import BASES

ROOT = Path(__file__).parents[1]
HIDDEN = {".venv", ".git", "outputs", "node_modules"}
# Names what there was.
CHANGELOG = ROOT / "CHANGELOG.md"
GUIDES = sorted(path for path in ROOT.rglob("*.md") if not HIDDEN & set(path.relative_to(ROOT).parts))
FIELDS = {
    field.name
    for config in (LaraConfig, LaraLAMConfig, GrootN16Config, MotoGPTConfig, *BASES)
    for field in fields(config)
}


def text_of(guide: Path) -> str:
    return guide.read_text()


def anchors(guide: Path) -> set[str]:
    """Names by which the headings of a guide are linked, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", text_of(guide), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(guide: Path, program: str) -> list[list[str]]:
    blocks = re.findall(r"```bash\n(.*?)```", text_of(guide), re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    words = [shlex.split(line, comments=True) for line in lines if program in line]
    return [line[line.index(program) :] for line in words if program in line]


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(guide: Path) -> None:
    for link in re.findall(r"\]\((?!http)([^)\s]+)\)", text_of(guide)):
        name, _, anchor = link.partition("#")
        target = (guide.parent / name).resolve() if name else guide
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: str(path.relative_to(ROOT)))
def test_lara_commands_parse(guide: Path) -> None:
    for _, name, *arguments in commands(guide, "lara"):
        assert name in cli.SUBCOMMANDS, name
        parser = argparse.ArgumentParser()
        importlib.import_module(f"lerobot_lara.cli.{name.replace('-', '_')}").add_arguments(parser)
        parser.parse_args(arguments)


@pytest.mark.parametrize(
    "guide",
    [guide for guide in GUIDES if guide != CHANGELOG],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_flags_of_policies_exist(guide: Path) -> None:
    flags = re.findall(r"--policy\.(\w+)", text_of(guide))
    assert [flag for flag in flags if flag not in FIELDS | {"type", "path"}] == []


def test_commands_of_the_guides_are_found() -> None:
    found = [command for guide in GUIDES for command in commands(guide, "lara")]
    assert len(found) >= 10 and len(GUIDES) >= 9
    assert sum(len(commands(guide, "lerobot-train")) for guide in GUIDES) >= 8
