"""One default in one place, the configurations: modules and their builders have none."""

import inspect
import pkgutil
from collections.abc import Callable, Iterator
from importlib import import_module

import pytest
from torch import nn

import lerobot_lara.backbones
import lerobot_lara.dit
import lerobot_lara.lam

# These are no hyperparameters: where tensors live, whether a frozen network passes gradients on to its input, and
# whether a check reads the values too.
ALLOWED = {"device", "dtype", "input_grad", "values"}
POLICY_FILES = ("configuration_", "modeling_", "processor_")


def leaf_modules() -> list[str]:
    packages = (lerobot_lara.backbones, lerobot_lara.dit, lerobot_lara.lam)
    names = [
        f"{package.__name__}.{found.name}"
        for package in packages
        for found in pkgutil.iter_modules(package.__path__)
    ]
    return [name for name in names if not name.rpartition(".")[2].startswith(POLICY_FILES)]


def constructors_and_functions(name: str) -> Iterator[tuple[str, Callable]]:
    for member in vars(import_module(name)).values():
        if getattr(member, "__module__", None) != name:
            continue
        if inspect.isclass(member) and issubclass(member, nn.Module):
            yield member.__qualname__, member.__init__
        elif inspect.isfunction(member):
            yield member.__qualname__, member


@pytest.mark.parametrize("name", leaf_modules())
def test_leaves_have_no_defaults_of_their_own(name: str) -> None:
    found = [
        f"{qualified}({parameter.name}={parameter.default!r})"
        for qualified, function in constructors_and_functions(name)
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default not in (inspect.Parameter.empty, None) and parameter.name not in ALLOWED
    ]
    assert found == [], "make it a required argument; the default belongs to the configuration"


def test_the_rule_sees_constructors_and_functions() -> None:
    seen = dict(constructors_and_functions("lerobot_lara.dit.alternating_head"))
    assert {"AlternatingActionHead", "AlternatingBlock", "discretize"} <= seen.keys()
    assert "width" in inspect.signature(seen["AlternatingBlock"]).parameters
    assert "build_image_encoder" in dict(constructors_and_functions("lerobot_lara.backbones.encoders"))
