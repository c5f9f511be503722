"""Self-contained HTML pages from the templates beside this file."""

import base64
import functools
from typing import Any

import jinja2


def render_template(name: str, **variables: Any) -> str:
    """Renders a template; text is escaped, and a variable that it lacks is an error.

    Args:
        name: File in `templates/`.
        variables: What the template names.
    """
    return _environment().get_template(name).render(variables)


def data_uri(content: bytes, kind: str = "png") -> str:
    """An image that needs no file: for the `src` of an <img>.

    Args:
        content: The encoded image.
        kind: "png" or "jpeg".
    """
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("lerobot_lara.evaluation"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
