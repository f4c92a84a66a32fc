"""The codec writes what np.save writes, reads what np.load reads, and refuses everything else."""

import io
import pickle

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedmeta.federation.codec import Codec, CodecError

DTYPES = [np.float16, np.float32, np.float64, np.int32, np.int64, np.uint8, np.bool_]
ARRAYS = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
)


def saved(values: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, values, version=version, allow_pickle=False)
    return buffer.getvalue()


def as_array(values: np.ndarray, data: bytes) -> Array:
    return Array(str(values.dtype), values.shape, "numpy.ndarray", data)


WEIGHTS = np.arange(6, dtype=np.float32).reshape(2, 3) - 2.5
CODEC = Codec({"w": torch.from_numpy(WEIGHTS)})


@given(ARRAYS)
@settings(max_examples=60, deadline=None)
def test_encodes_exactly_what_flower_and_numpy_write(values: np.ndarray) -> None:
    tensor = torch.from_numpy(values.copy())
    ours = Codec({"x": tensor}).encode({"x": tensor})["x"]
    theirs = Array(values)
    assert ours.data == saved(values)
    assert (ours.dtype, ours.shape, ours.stype) == (theirs.dtype, theirs.shape, theirs.stype)
    assert ours == theirs
    assert ours.object_id == theirs.object_id


@given(ARRAYS)
@settings(max_examples=60, deadline=None)
def test_decodes_what_numpy_reads(values: np.ndarray) -> None:
    tensor = torch.from_numpy(values.copy())
    decoded = Codec({"x": tensor}).decode(ArrayRecord({"x": Array(values)}))["x"]
    expected = np.load(io.BytesIO(saved(values)))
    assert decoded.numpy().tobytes() == expected.tobytes()
    assert decoded.numpy().shape == expected.shape


def test_decoded_tensors_own_their_memory() -> None:
    record = CODEC.encode({"w": torch.from_numpy(WEIGHTS)})
    CODEC.decode(record)["w"].zero_()
    np.testing.assert_array_equal(record["w"].numpy(), WEIGHTS)


def test_rows_of_a_stack_are_read_like_records_and_may_hold_an_empty_tensor() -> None:
    template = {"w": torch.zeros(2), "none": torch.zeros(0, 3), "b": torch.zeros(1, 2)}
    codec = Codec(template)
    rows = [{key: torch.rand_like(value) for key, value in template.items()} for _ in range(3)]
    stacks = codec.flat_stacks({key: torch.stack([r[key] for r in rows]).numpy() for key in template})
    assert stacks is not None
    for row, one in enumerate(rows):
        found, expected = np.empty(4), np.empty(4)
        codec.read_row(stacks, row, found)
        codec.read_into(codec.encode(one), expected)
        assert np.array_equal(found, expected)


def test_the_flat_vector_keeps_the_order_of_the_template() -> None:
    template = {"b": torch.tensor([1.0, 2.0]), "a": torch.tensor([[3.0], [4.0]], dtype=torch.float64)}
    codec = Codec(template)
    vector = np.empty(codec.size)
    codec.read_into(codec.encode(template), vector)
    np.testing.assert_array_equal(vector, [1, 2, 3, 4])
    back = codec.split(vector)
    assert {k: (v.dtype, v.tolist()) for k, v in back.items()} == {
        k: (v.dtype, v.tolist()) for k, v in template.items()
    }


@pytest.mark.parametrize(
    "data",
    [
        saved(np.asfortranarray(WEIGHTS)),
        saved(WEIGHTS, version=(2, 0)),
    ],
    ids=["fortran order", "format version 2"],
)
def test_other_valid_encodings_of_the_same_array_are_read(data: bytes) -> None:
    assert data != saved(WEIGHTS)
    decoded = CODEC.decode(ArrayRecord({"w": as_array(WEIGHTS, data)}))
    np.testing.assert_array_equal(decoded["w"].numpy(), WEIGHTS)


def test_big_endian_values_are_read() -> None:
    swapped = Array("float32", (2, 3), "numpy.ndarray", saved(WEIGHTS.astype(">f4")))
    np.testing.assert_array_equal(CODEC.decode(ArrayRecord({"w": swapped}))["w"].numpy(), WEIGHTS)


def pickled() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"evil": 1}] * 6, dtype=object).reshape(2, 3), allow_pickle=True)
    return buffer.getvalue()


def claims_too_much() -> bytes:
    buffer = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": (10**12,)}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue()


GOOD = as_array(WEIGHTS, saved(WEIGHTS))


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({}, "'w' is missing"),
        ({"w": GOOD, "v": GOOD}, "unexpected key 'v'"),
        ({"w": Array(WEIGHTS.T.copy())}, r"'w' has shape \(3, 2\), not \(2, 3\)"),
        (
            {"w": as_array(WEIGHTS, saved(WEIGHTS.reshape(3, 2)))},
            r"'w' holds shape \(3, 2\), not \(2, 3\)",
        ),
        ({"w": Array(WEIGHTS.astype(np.float64))}, "'w' has dtype float64, not float32"),
        (
            {"w": as_array(WEIGHTS, saved(WEIGHTS.astype(np.int32)))},
            "'w' holds dtype int32, not float32",
        ),
        ({"w": as_array(WEIGHTS, saved(WEIGHTS)[:-1])}, "'w' is 151 bytes long, not 152"),
        ({"w": as_array(WEIGHTS, saved(WEIGHTS) + b"x")}, "'w' is 153 bytes long, not 152"),
        ({"w": as_array(WEIGHTS, b"")}, "'w' cannot be decoded"),
        ({"w": as_array(WEIGHTS, b"\x80\x04nonsense")}, "'w' cannot be decoded"),
        ({"w": as_array(WEIGHTS, pickle.dumps(WEIGHTS))}, "'w' cannot be decoded"),
        ({"w": as_array(WEIGHTS, pickled())}, "'w' holds dtype object, not float32"),
        ({"w": as_array(WEIGHTS, claims_too_much())}, "'w' holds shape"),
        ({"w": as_array(WEIGHTS, saved(WEIGHTS) + bytes(10**5))}, "'w' is 100152 bytes long"),
        ({"w": Array("float32", (2, 3), "pickle", b"x")}, "'w' is serialized as 'pickle'"),
    ],
)
def test_refuses_with_one_short_reason(record: dict[str, Array], reason: str) -> None:
    with pytest.raises(CodecError, match=reason) as caught:
        CODEC.decode(ArrayRecord(record))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 160


@given(st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_arbitrary_bytes_are_refused_without_a_crash(noise: bytes) -> None:
    with pytest.raises(CodecError):
        CODEC.decode(ArrayRecord({"w": as_array(WEIGHTS, saved(WEIGHTS)[:40] + noise)}))
