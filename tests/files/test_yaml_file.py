"""YAML that is damaged, endless or enormous is refused at once, by the file's name."""

import time

import pytest

from lerobot_lara.files.yaml_file import read_yaml

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)
MERGE_BOMB = "a0: &a0 {k: x}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is not YAML"),
        ("a: 1\n---\nb: 2\n", "is not YAML"),
        ("a: !!python/object/apply:os.system [ls]", "is not YAML"),
        ("a: *missing", "is not YAML"),
        ("a: \x00", "is not YAML"),
        (b"\xff\xfe\x00\x01", "not text in UTF-8"),
        (b"\x89PNG\r\n\x1a\n\x00", "not text in UTF-8"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointers"),
        ("a: &a [*a]", r"line 1: \*a stands for itself"),
        ("a: &a {b: {c: *a}}", r"\*a stands for itself"),
        (BOMB, "more than 2000000 values, with its aliases written out"),
        (MERGE_BOMB, "more than 2000000 values"),
        ("[" * 500_000, "nested more than 32 levels deep"),
        ("{a: " * 5000, "nested more than 32 levels deep"),
        ("- " * 5000, "nested more than 32 levels deep"),
        ("a: 1\nb: 2\na: 3\n", r"line 3: `a` is there twice"),
        ("x:\n- {a: {b: 1}, c: 2, a: 3}", r"`a` is there twice"),
        ("a: " + "1" * 5000, "cannot be read: Exceeds the limit"),
        ("a: 2001-99-99", "cannot be read: month must be"),
        ("? [1, {a: 2}]\n: 3", "is not YAML"),
        ("a: " + "x" * (16 * 2**20), "it must have at most"),
    ],
)
def test_what_cannot_be_read_is_refused_at_once(tmp_path, text, message):
    path = tmp_path / "file.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    start = time.monotonic()
    with pytest.raises(ValueError, match=message) as error:
        read_yaml(path)
    assert str(error.value).startswith(str(path))
    assert time.monotonic() - start < 30


def test_links_and_missing_files(tmp_path):
    loop = tmp_path / "loop.yaml"
    loop.symlink_to(loop)
    (tmp_path / "other.yaml").symlink_to(tmp_path / "nowhere.yaml")
    for path, message in (
        (loop, "loop.yaml is a link that leads nowhere, or in a circle"),
        (tmp_path / "other.yaml", "other.yaml is a link that leads nowhere"),
        (tmp_path / "absent.yaml", "absent.yaml does not exist"),
        (tmp_path, "does not exist"),
    ):
        with pytest.raises(ValueError, match=message):
            read_yaml(path)


def test_anchors_merges_and_a_byte_order_mark_are_read(tmp_path):
    path = tmp_path / "file.yaml"
    path.write_bytes(b"\xef\xbb\xbfbase: &b {x: 1}\nmore: {<<: *b, y: 2}\nlist: [*b, *b]\n")
    assert read_yaml(path) == {"base": {"x": 1}, "more": {"x": 1, "y": 2}, "list": [{"x": 1}, {"x": 1}]}
    path.write_text("")
    assert read_yaml(path) is None
