"""Every trained parameter is in one group, in whatever form a base lists its own."""

import pytest
import torch
from torch import nn

from lerobot_lara.alignment.optimizer_groups import with_lam_group


class Policy(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk, self.head = nn.Linear(2, 2), nn.Linear(2, 2)
        self.lam, self.alignment = nn.Linear(2, 2), nn.Linear(2, 2)


def own(policy):
    """What a base lists that knows its own parts only."""
    return [*policy.trunk.parameters(), *policy.head.parameters()]


FORMS = {
    "all, as a generator": lambda policy: policy.parameters(),
    "its own, as a list": own,
    "groups": lambda policy: [
        {"params": list(policy.trunk.parameters()), "lr": 0.1},
        {"params": policy.head.parameters()},
    ],
    "groups with all": lambda policy: [{"params": policy.parameters()}],
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
@pytest.mark.parametrize("lam_lr", [None, 1e-5])
def test_each_parameter_is_in_one_group(form, lam_lr):
    policy = Policy()
    groups = with_lam_group(form(policy), policy.lam, policy.alignment, lam_lr=lam_lr)
    listed = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(listed) == sorted(id(parameter) for parameter in policy.parameters())
    assert {id(parameter) for parameter in policy.alignment.parameters()} <= set(map(id, groups[0]["params"]))
    assert set(map(id, groups[-1]["params"])) == set(map(id, policy.lam.parameters()))
    assert groups[-1].get("lr") == lam_lr
    torch.optim.AdamW(groups, lr=1e-3)


def test_a_groups_own_settings_stay():
    policy = Policy()
    groups = with_lam_group(FORMS["groups"](policy), policy.lam, policy.alignment, lam_lr=None)
    assert [group.get("lr") for group in groups] == [0.1, None, None]


def test_a_frozen_lam_has_no_group():
    policy = Policy()
    policy.lam.requires_grad_(False)
    groups = with_lam_group(own(policy), policy.lam, policy.alignment, lam_lr=None)
    assert len(groups) == 1 and len(groups[0]["params"]) == 6


def test_an_optimizer_that_goes_by_name_gets_all_by_name():
    policy = Policy()
    parameters = dict(policy.named_parameters())
    found = with_lam_group(
        {name: p for name, p in parameters.items() if name.startswith(("trunk", "head"))},
        policy.lam,
        policy.alignment,
        lam_lr=None,
    )
    assert found.keys() == parameters.keys()
    with pytest.raises(ValueError, match=r"`lam_lr` is 0\.1, but this policy's optimizer chooses"):
        with_lam_group({}, policy.lam, policy.alignment, lam_lr=0.1)
