"""The common style of all figures, and how they are saved. Imports matplotlib without a display."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from lerobot_lara.files.atomic import replaced_file

DPI = 130
# Color of error bars.
ERROR_BAR = "#333"

plt.rcParams.update(
    {
        "font.size": 9,
        "axes.titlesize": 9.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": "#777",
        "axes.grid": True,
        "grid.color": "#e4e7ea",
        "axes.axisbelow": True,
        "figure.constrained_layout.use": True,
        "legend.frameon": False,
    }
)


def save_figure(figure: Figure, path: Path) -> Path:
    """Writes a figure as a PNG, creates its folder if necessary, and closes the figure.

    Returns:
        `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced_file(path) as partial:
        figure.savefig(partial, dpi=DPI, format=path.suffix.removeprefix("."))
    plt.close(figure)
    return path
