"""States and actions by joint group: known numbers, and the way back."""

import math

import pytest
import torch

from lerobot_lara.groot_n16.normalization import (
    ActionEncoding,
    JointGroup,
    StateEncoding,
    decode_actions,
    relative_statistics,
)


def test_states_are_encoded_group_by_group() -> None:
    encoding = StateEncoding.of(
        [
            JointGroup("arm", "range", {"min": [0.0, 5.0], "max": [4.0, 5.0]}),
            JointGroup("wrist", "sin_cos", {"min": [-3.0, -3.0], "max": [3.0, 3.0]}),
            JointGroup("height", "mean_std", {"mean": [1.0, 7.0], "std": [0.5, 0.0]}),
            JointGroup("free", "range", {"min": [0.0], "max": [1.0]}, clip=False),
        ]
    )
    assert encoding.raw_size == 7
    state = torch.tensor([[3.0, 5.0, 0.0, math.pi / 2, 2.0, 3.0, 2.0], [9.0, 6.0, 0.0, 0.0, 1.0, 0.0, 0.0]])
    expected = [
        # A constant dimension is 0; sines come before cosines; one without spread stays as it is.
        [0.5, 0.0, 0.0, 1.0, 1.0, 0.0, 2.0, 3.0, 3.0],
        [1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, -1.0],
    ]
    torch.testing.assert_close(encoding.encode(state), torch.tensor(expected))


def make_actions() -> ActionEncoding:
    return ActionEncoding.of(
        [
            JointGroup("gripper", "range", {"min": [0.0], "max": [2.0]}),
            JointGroup(
                "arm", "range", {"min": [[-1.0], [-2.0], [-3.0]], "max": [[1.0], [2.0], [3.0]]}, relative_to=1
            ),
            JointGroup("height", "mean_std", {"mean": [1.0], "std": [2.0]}),
        ],
        horizon=3,
    )


def test_relative_actions_count_from_the_state_and_scale_with_the_step() -> None:
    encoding, state = make_actions(), torch.tensor([[50.0, 10.0]])
    actions = torch.tensor([[[2.0, 11.0, 3.0], [1.0, 11.0, 1.0], [0.0, 7.0, 9.0]]])
    references = encoding.references(state, 1)
    assert references.tolist() == [[[0.0, 10.0, 0.0]]]
    normalized = encoding.encode(actions, references)
    torch.testing.assert_close(
        normalized, torch.tensor([[[1.0, 1.0, 1.0], [0.0, 0.5, 0.0], [-1.0, -1.0, 4.0]]])
    )
    decoded = decode_actions(normalized, *encoding.decoder(references), encoding.bound)
    torch.testing.assert_close(decoded, actions)
    # A chunk may be shorter.
    torch.testing.assert_close(encoding.encode(actions[:, :2], references), normalized[:, :2])


def test_decoded_actions_stay_in_the_range_of_the_data() -> None:
    encoding = make_actions()
    references = encoding.references(torch.zeros(1, 2), 1)
    decoded = decode_actions(torch.full((1, 3, 3), 5.0), *encoding.decoder(references), encoding.bound)
    assert decoded[0].tolist() == [[2.0, 1.0, 11.0], [2.0, 2.0, 11.0], [2.0, 3.0, 11.0]]


def test_encodings_are_read_back_as_they_were_saved() -> None:
    encoding = make_actions()
    again = ActionEncoding.from_dict(encoding.to_dict("action"), "action")
    for name, value in encoding.to_dict("a").items():
        assert torch.equal(again.to_dict("a")[name], value)


def test_more_steps_than_statistics_are_refused() -> None:
    group = JointGroup("arm", "range", {"min": [[0.0]] * 2, "max": [[1.0]] * 2})
    with pytest.raises(
        ValueError, match=r"`chunk_size` is 3; it must be at most 2.*'arm'.*--policy.chunk_size=2"
    ):
        ActionEncoding.of([group], horizon=3)


def test_relative_statistics_never_look_into_the_next_episode() -> None:
    states = torch.tensor([[0.0], [10.0], [0.0], [100.0], [100.0]])
    actions = torch.tensor([[1.0], [12.0], [3.0], [104.0], [105.0]])
    found = relative_statistics(states, actions, torch.tensor([0, 0, 0, 1, 1]), horizon=4)
    assert found["min"] == [[1.0], [-7.0], [3.0], [3.0]]
    assert found["max"] == [[5.0], [12.0], [3.0], [3.0]]
    assert found["mean"][0][0] == pytest.approx((1 + 2 + 3 + 4 + 5) / 5)
    assert set(found) == {"min", "max", "mean", "std", "q01", "q99"}
