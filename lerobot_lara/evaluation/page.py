"""Renders self-contained HTML pages from the templates in `templates/`."""

import base64
import functools
from pathlib import Path
from typing import Any

import jinja2


def render_template(name: str, **variables: Any) -> str:
    """Renders a template. Text is escaped, and an undefined variable is an error.

    Args:
        name: File in `templates/`.
        variables: Variables of the template, by name.

    Returns:
        The page.
    """
    return _environment().get_template(name).render(variables)


def data_uri(content: bytes, kind: str = "png") -> str:
    """Embeds an image for the `src` attribute of an <img>.

    Args:
        content: The encoded image.
        kind: "png" or "jpeg".

    Returns:
        A data URI.
    """
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def video_source(video: Path, link: str, *, largest: int = 2_000_000) -> str:
    """Embeds an MP4 for the `src` attribute of a <video>.

    Args:
        video: The video.
        link: Its path relative to the page.
        largest: Bytes above which the page links to the video instead.

    Returns:
        A data URI, or the link.
    """
    content = video.read_bytes()
    return link if len(content) > largest else f"data:video/mp4;base64,{base64.b64encode(content).decode()}"


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("lerobot_lara.evaluation"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
