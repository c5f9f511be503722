import numpy as np
import pytest
import torch
from lerobot.configs import FeatureType, NormalizationMode, PolicyFeature
from lerobot.processor import NormalizerProcessorStep

from lerobot_lara.data.mixture.normalization import select_stats, unit_conversion

OWN, REFERENCE = (
    np.random.default_rng(seed).normal(3 * seed, 1 + seed, (500, dim)) for seed, dim in ((1, 6), (2, 4))
)
MODES = [mode for mode in NormalizationMode if mode is not NormalizationMode.IDENTITY]


def stats_of(values):
    quantiles = {f"q{q:02d}": np.quantile(values, q / 100, axis=0) for q in (1, 10, 50, 90, 99)}
    return {
        "min": values.min(0),
        "max": values.max(0),
        "mean": values.mean(0),
        "std": values.std(0),
        "count": np.array([len(values)]),
    } | quantiles


def normalize(values, stats, mode):
    """LeRobot's own step."""
    step = NormalizerProcessorStep(
        features={"action": PolicyFeature(FeatureType.ACTION, (values.shape[-1],))},
        norm_map={FeatureType.ACTION: mode},
        stats={"action": stats},
    )
    return step._normalize_action(torch.as_tensor(values, dtype=torch.float32), inverse=False).numpy()


@pytest.mark.parametrize("mode", MODES)
def test_lerobots_normalizer_undoes_the_reference_half(mode):
    """What LeRobot normalizes by the reference dataset's statistics comes out normalized by the dataset's own."""
    convert = unit_conversion(stats_of(OWN), stats_of(REFERENCE), mode, "x")
    known, extra = convert(OWN[:20])
    assert (known.shape, extra.shape) == ((20, 4), (20, 2))
    expected = normalize(OWN[:20], stats_of(OWN), mode)
    np.testing.assert_allclose(normalize(known, stats_of(REFERENCE), mode), expected[:, :4], atol=1e-4)
    np.testing.assert_allclose(extra, expected[:, 4:], atol=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_missing_dimensions_are_0_once_normalized(mode):
    convert = unit_conversion(stats_of(REFERENCE), stats_of(OWN), mode, "x")
    known, rest = convert(REFERENCE[:20])
    assert (known.shape, rest.shape) == ((20, 6), (20, 0))
    np.testing.assert_allclose(normalize(known, stats_of(OWN), mode)[:, 4:], 0, atol=1e-4)


def test_the_reference_datasets_own_values_do_not_change():
    convert = unit_conversion(stats_of(REFERENCE), stats_of(REFERENCE), NormalizationMode.MIN_MAX, "x")
    assert np.array_equal(convert(REFERENCE)[0], REFERENCE.astype(np.float32))


def test_identity_leaves_units_alone():
    convert = unit_conversion(stats_of(OWN), stats_of(REFERENCE), NormalizationMode.IDENTITY, "x")
    assert np.array_equal(convert(OWN)[0], OWN[:, :4].astype(np.float32))


def test_a_constant_dimension_stays_finite():
    constant = OWN.copy()
    constant[:, 0] = 5
    known, _ = unit_conversion(stats_of(constant), stats_of(REFERENCE), NormalizationMode.MEAN_STD, "x")(
        constant
    )
    np.testing.assert_allclose(known[:, 0], REFERENCE[:, 0].mean(), rtol=1e-6)


def test_statistics_of_picked_and_mirrored_dimensions():
    """They are the statistics of the picked and mirrored values."""
    picked = OWN.copy()
    picked[:, 5] = OWN[:, 5].min() + OWN[:, 5].max() - OWN[:, 5]
    expected = stats_of(picked[:, [5, 0]])
    for name, value in select_stats(stats_of(OWN), [5, 0], [5]).items():
        np.testing.assert_allclose(value, expected[name], atol=1e-6, err_msg=name)


def test_missing_statistics():
    stats = {name: value for name, value in stats_of(OWN).items() if not name.startswith("q")}
    with pytest.raises(
        ValueError, match=r"x has the statistics .*; it must also have \['q01', 'q99'\].*QUANTILES"
    ):
        unit_conversion(stats, stats, NormalizationMode.QUANTILES, "x")


def test_the_reference_datasets_own_values_do_not_change_where_its_statistics_say_that_nothing_moves():
    stats = stats_of(REFERENCE)
    stats["std"] = np.zeros(4)
    convert = unit_conversion(stats, stats, NormalizationMode.MEAN_STD, "x")
    assert np.array_equal(convert(REFERENCE)[0], REFERENCE.astype(np.float32))
