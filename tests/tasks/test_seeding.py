import numpy as np
import pytest
import torch

from fedmeta.tasks import many_streams, stream, torch_generator
from fedmeta.tasks.seeding import random_order


@pytest.mark.parametrize("words", [[0], [5, 0, 2**32 - 1], [2**32], [2**63 - 1, 7], [1, 2**40, 3]])
def test_a_stream_is_that_of_numpys_seed_sequence_of_the_same_words(words: list[int]) -> None:
    expected = np.random.default_rng(np.random.SeedSequence(words))
    assert stream(*words).bit_generator.state == expected.bit_generator.state


@pytest.mark.parametrize(
    "path", [[0], [5, 0], [2**32 - 1, 1, 2, 3], [7, 2**40], [3, 0xCBF43926, 1, 2, 4]]
)
@pytest.mark.parametrize(
    "last", [range(3), range(100), range(2**32 - 50, 2**32), range(2**32 - 9, 2**32 + 40)]
)
def test_many_streams_are_those_of_numpys_seed_sequences(path: list[int], last: range) -> None:
    for number, one in zip(last, many_streams(*path, last=last), strict=True):
        expected = np.random.default_rng(np.random.SeedSequence([*path, number]))
        assert one.bit_generator.state == expected.bit_generator.state


def test_a_name_in_a_path_counts_as_its_checksum() -> None:
    # The CRC-32 of "123456789" is the check value of its specification.
    expected = np.random.default_rng([3, 0xCBF43926, 1])
    assert stream(3, "123456789", 1).integers(2**62) == expected.integers(2**62)


def test_streams_of_different_paths_differ_and_those_of_one_path_agree() -> None:
    draws = [stream(0, *path).integers(2**62) for path in [("a", 1), ("a", 2), ("b", 1), ("a", 1)]]
    assert draws[0] == draws[3]
    assert len(set(draws)) == 3


def test_torch_generators_follow_the_same_paths() -> None:
    one, same, other = (torch_generator(0, "init", part) for part in (1, 1, 2))
    assert torch.equal(torch.rand(4, generator=one), torch.rand(4, generator=same))
    assert not torch.equal(torch.rand(4, generator=same), torch.rand(4, generator=other))


def test_no_number_of_a_path_is_negative() -> None:
    with pytest.raises((ValueError, OverflowError)):
        stream(0, -1)


def test_equal_random_keys_keep_their_order_on_any_processor() -> None:
    # Few values, so that most keys have an equal one; NumPy's stable sort uses no vectors.
    keys = np.random.default_rng(0).integers(0, 40, (50, 300)).astype(np.float32) / 8
    keys[:, ::7] = np.inf
    assert np.array_equal(random_order(keys), keys.argsort(axis=-1, kind="stable"))
