"""Whether this machine can render with MuJoCo, found out without the code under test."""

import functools

import pytest


def skip_without_rendering() -> None:
    """Skips a test where Meta-World is not installed or MuJoCo has no way to draw."""
    if problem := _rendering_problem():
        pytest.skip(problem)


@functools.cache
def _rendering_problem() -> str | None:
    pytest.importorskip("metaworld", reason="Meta-World is not installed")
    import mujoco

    try:
        context = mujoco.GLContext(8, 8)
        context.make_current()
        context.free()
    except Exception as error:
        return f"MuJoCo cannot render here ({type(error).__name__}: {error}); MUJOCO_GL=egl needs libegl1"
    return None
