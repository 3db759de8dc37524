"""Familiarity: statistics of known images, a fit that tells strangers, damaged files."""

import numpy as np
import pytest

from owled_ros.driving.familiarity import (
    DIMENSIONS,
    FILE_NAME,
    MIN_IMAGES,
    fit_familiarity,
    fit_statistics,
    image_statistics,
    read_familiarity,
    write_familiarity,
)
from owled_ros.errors import OwledError


def known(seed):
    """White noise of varying strength on a grey of varying brightness."""
    random = np.random.default_rng(seed)
    noise = random.normal(random.uniform(80, 160), random.uniform(5, 25), (48, 48, 3))
    return noise.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def fitted():
    return fit_familiarity([known(seed) for seed in range(2 * MIN_IMAGES)])


def test_an_even_image_has_only_quiet_bands():
    values = image_statistics(np.full((48, 48, 3), 118, np.uint8))
    assert values.shape == (DIMENSIONS,)
    # |band| = 0 everywhere: mean, mean square and mean root are the floor q, so the three numbers are
    # log q, log q^2 - 2 log q = 0 and 2 log q - log q = log q
    assert values[0] == pytest.approx(np.log(0.05), abs=1e-3)
    assert values[1] == pytest.approx(0.0, abs=1e-2)


def test_new_images_of_the_kind_are_familiar_and_others_are_not(fitted):
    assert min(fitted.of(known(10_000 + seed)) for seed in range(50)) > 0.5
    ramp = np.broadcast_to(np.linspace(0, 255, 48)[None, :, None], (48, 48, 3)).astype(np.uint8)
    assert fitted.of(ramp) < 0.01
    assert fitted.of(np.zeros((48, 48, 3), np.uint8)) < 0.01


def test_it_is_written_and_read(fitted, tmp_path):
    write_familiarity(tmp_path, fitted)
    again = read_familiarity(tmp_path)
    assert again is not None
    assert again.distance(known(1)) == pytest.approx(fitted.distance(known(1)), rel=1e-4)
    assert read_familiarity(tmp_path / "elsewhere") is None


@pytest.mark.parametrize("text", ["", "{}", '{"format_version": 1, "limit": NaN, "softness": 1, "mean": []}'])
def test_a_damaged_file_is_refused(tmp_path, text):
    (tmp_path / FILE_NAME).write_text(text)
    with pytest.raises(OwledError, match="restore it"):
        read_familiarity(tmp_path)


def test_too_few_images_are_refused():
    with pytest.raises(OwledError, match="too few"):
        fit_familiarity([known(0)] * (MIN_IMAGES - 1))


def test_what_is_familiar_is_measured_on_other_drives():
    """Images of one drive are copies of one, nearly: each drive is strange to the others, and the next one will be too."""
    random = np.random.default_rng(3)

    def drive():
        return random.normal(0.0, 1.0, DIMENSIONS) + random.normal(0.0, 0.05, (60, DIMENSIONS))

    rows, others = np.concatenate([drive() for _ in range(8)]), [drive() for _ in range(20)]
    alone = fit_statistics(list(rows))
    apart = fit_statistics(list(rows), [number // 60 for number in range(len(rows))])
    far = [np.linalg.norm(alone.whitening @ (other[0] - alone.mean)) for other in others]
    assert np.mean([distance > alone.limit for distance in far]) > 0.9  # copies made it narrow
    assert np.mean([distance > apart.limit for distance in far]) < 0.3
    quarters = fit_statistics(list(rows), ["only"] * len(rows))
    assert quarters.limit > alone.limit
