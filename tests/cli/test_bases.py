"""`lara bases`."""

from lerobot_lara import cli
from lerobot_lara.alignment.bases import BASES
from lerobot_lara.cli import bases


def test_the_table_has_a_row_for_each_base(capsys):
    assert cli.main(["bases"]) == 0
    lines = capsys.readouterr().out.splitlines()
    listed = [line.split()[0] for line in lines[1 : 1 + len(BASES)]]
    assert len(listed) == 10 and all(name.startswith("lara_") for name in listed)
    assert "alignment_layer" in lines[12]


def test_what_works_is_read_from_the_policies():
    rows = {row[0]: row for row in bases.table()}
    assert rows["lara_smolvla"][5:] == ("yes", "yes", "yes", "yes")
    assert rows["lara_pi05"][5:] == ("no", "yes", "yes", "yes")
    assert rows["lara_multi_task_dit"][5] == "flag" and rows["lara_xvla"][5:] == ("no", "no", "no", "no")
    assert rows["lara_groot"][1:3] == ("groot", "1536 x 32")


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(bases, "find_spec", lambda name: None)
    rows = {row[0]: row for row in bases.table()}
    assert rows["lara_wall_x"][4] == "torchdiffeq (missing), qwen-vl-utils (missing)"
