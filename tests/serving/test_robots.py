"""What SIMPLER's robots send and want, against observations of the simulators' shapes."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from lerobot_lara.envs.simpler_conventions import STICKY_STEPS, StickyGripper, bridge_state, rotation_vector
from lerobot_lara.serving.robots import ROBOTS


def test_rotations_are_about_fixed_axes_roll_first():
    angles = (0.3, -0.4, 0.5)
    about = [Rotation.from_rotvec(np.eye(3)[axis] * angle) for axis, angle in enumerate(angles)]
    expected = (about[2] * about[1] * about[0]).as_rotvec()
    np.testing.assert_allclose(rotation_vector(np.array(angles)), expected, atol=1e-12)
    np.testing.assert_allclose(rotation_vector(np.array([angles, (0, 0, 1)]))[1], [0, 0, 1], atol=1e-12)


def test_bridge_states_are_zero_where_the_gripper_points_down():
    # Its x axis, along the fingers, points down; y as in the base.
    down = Rotation.from_matrix(np.array([[0, 0, 1], [0, 1, 0], [-1, 0, 0]]))
    state = bridge_state(np.array([0.3, 0, 0.1]), down.as_quat(scalar_first=True), 1.2)
    np.testing.assert_allclose(state, [0.3, 0, 0.1, 0, 0, 0, 0, 1], atol=1e-6)
    turned = Rotation.from_euler("z", 0.7) * down
    state = bridge_state(np.zeros(3), turned.as_quat(scalar_first=True), -0.1)
    np.testing.assert_allclose(state[3:], [0, 0, 0.7, 0, 0], atol=1e-6)


def test_widowx_is_served_in_the_form_of_bridge_data():
    robot = ROBOTS["simpler_widowx"]()
    quaternion = Rotation.from_euler("xyz", [0.1, 0.2, 0.3]).as_quat(scalar_first=True)
    sent = np.array([0.3, 0.1, 0.2, *quaternion, 0.5])
    np.testing.assert_array_equal(robot.state(sent), bridge_state(sent[:3], quaternion, 0.5))
    actions = robot.actions(np.array([[0.01, 0, 0, 0.1, 0.2, 0.3, 0.9]] * 2))
    assert actions.shape == (2, 7)
    np.testing.assert_allclose(actions[0, 3:6], rotation_vector(np.array([0.1, 0.2, 0.3])))
    assert (actions[:, 6] == 0.9).all() and (actions[:, 0] == 0.01).all()


def test_google_robot_is_served_in_the_form_of_fractal():
    robot = ROBOTS["simpler_google"]()
    state = robot.state(np.array([0.3, 0.1, 0.2, 0.9, 0.1, 0.2, 0.3, 0.75]))
    np.testing.assert_allclose(state, [0.3, 0.1, 0.2, 0.1, 0.2, 0.3, 0.9, 0.25], atol=1e-6)
    chunk = np.zeros((5, 7))
    chunk[:, 6] = [1, 1, 0, 0, 1]
    commands = robot.actions(chunk)[:, 6]
    np.testing.assert_allclose(commands, [0, 0, 1, 1, 1])
    # The command goes on over the chunks.
    later = np.concatenate([robot.actions(np.full((5, 7), 1.0))[:, 6] for _ in range(4)])
    assert later[:12].tolist() == [1] * 12 and not later[12:].any()


def test_small_changes_of_the_gripper_pass_and_large_ones_stick():
    gripper = StickyGripper()
    assert gripper.command(1.0) == 0
    assert gripper.command(0.8) == pytest.approx(0.2)
    assert gripper.command(1.0) == pytest.approx(-0.2)
    closing = [gripper.command(0.0) for _ in range(STICKY_STEPS)]
    assert closing == [1.0] * STICKY_STEPS
    assert gripper.command(0.0) == 0
    assert gripper.command(1.0) == -1


def test_each_episode_starts_with_a_gripper_of_its_own():
    first = ROBOTS["simpler_google"]()
    opened, closed = np.zeros((1, 7)), np.zeros((1, 7))
    opened[0, 6] = 1
    first.actions(opened)
    assert first.actions(closed)[0, 6] == 1
    assert ROBOTS["simpler_google"]().actions(closed)[0, 6] == 0
