"""Random streams: independent, reproducible, and with the bits that published figures were made with."""

from itertools import combinations

import numpy as np
import pytest

from data.sampler import EpochSampler
from utils.system.rng import PURPOSES, stream

POSITIONS = {
    "whole": [(image,) for image in (1, 2, 3, 4)],
    "holdout": [()],
    "test_holdout": [()],
    "order": [(epoch,) for epoch in range(6)],
    "pool": [(number, seen) for number in range(3) for seen in range(6)],
    "sample": [(epoch, index) for epoch in range(6) for index in range(6)],
}


def test_every_purpose_is_tried() -> None:
    assert POSITIONS.keys() == PURPOSES.keys()


@pytest.mark.parametrize("seed", [0, 1, 7, 2**31 - 1])
def test_no_two_purposes_or_positions_share_a_stream(seed: int) -> None:
    draws = {
        (purpose, position): stream(seed, purpose, *position).integers(0, 2**63, 4).tolist()  # type: ignore[arg-type]
        for purpose, positions in POSITIONS.items()
        for position in positions
    }
    shared = [(a, b) for a, b in combinations(draws, 2) if draws[a] == draws[b]]
    assert not shared


def test_a_stream_is_a_function_of_its_arguments() -> None:
    assert np.array_equal(stream(3, "sample", 1, 2).random(5), stream(3, "sample", 1, 2).random(5))
    assert not np.array_equal(stream(3, "sample", 1, 2).random(5), stream(4, "sample", 1, 2).random(5))


def test_the_order_of_an_epoch_is_not_a_sample_of_the_one_before() -> None:
    """They were one stream: [seed, epoch + 1, 1]."""
    sampler = EpochSampler(size=50, batch_size=1, seed=5)
    sampler.start_at(1, 0)
    order = [index for _, index in sampler]
    assert sorted(order) == list(range(50))
    assert order != stream(5, "sample", 0, 0).permutation(50).tolist()


@pytest.mark.parametrize(
    ("purpose", "position", "words"), [("whole", (3,), [11, 0, 3]), ("holdout", (), [11, 2])]
)
def test_test_noise_and_held_out_images_keep_their_bits(
    purpose: str, position: tuple[int, ...], words: list[int]
) -> None:
    """Figures on degraded images, and the images that older runs held out, depend on these."""
    kept = np.random.default_rng(words).random(8)
    assert np.array_equal(stream(11, purpose, *position).random(8), kept)  # type: ignore[arg-type]
