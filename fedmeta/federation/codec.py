"""Converts tensors to Flower arrays and back, byte for byte as `np.save` writes them but faster."""

import hashlib
import io
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray
from torch import Tensor

from fedmeta.federation.flower import NUMPY_STYPE, fill, numpy_array
from fedmeta.federation.refusal import RefusalCode, RefusedError
from fedmeta.learning import Tensors

_LONG = 4096
"""Number of values from which a call into torch pays off."""
_SPARE_HEADER = 4096
"""Bytes by which a foreign but valid ``.npy`` header may exceed ours."""


class CodecError(RefusedError):
    """An array record does not hold what was expected."""


@lru_cache(maxsize=1024)
def npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """Return the header that `np.save` writes for a C-ordered array."""
    buffer = io.BytesIO()
    # Version 1.0 holds any header below 64 KiB; np.save picks it as well.
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
    )
    return buffer.getvalue()


@dataclass(frozen=True)
class Slot:
    """One tensor of a template: the format of its array, and its place in a flat vector."""

    key: str
    dtype: np.dtype[Any]
    dtype_name: str
    shape: tuple[int, ...]
    start: int
    stop: int
    header: bytes
    total_bytes: int

    def pack(self, values: NDArray[Any]) -> Array:
        """Serialize an array in C order; equal to ``flwr.app.Array(values)``."""
        ordered = values if values.flags.c_contiguous else np.ascontiguousarray(values)
        data = b"".join((self.header, ordered.data if values.size else b""))
        return numpy_array(self.dtype_name, self.shape, data)


class Codec:
    """Reads and writes array records that have exactly the keys, shapes and dtypes of a template.

    Args:
        template: The meta-learned state, or tensors of the same form.
    """

    def __init__(self, template: Mapping[str, Tensor]) -> None:
        self.slots = tuple(_slots(template))
        self._by_key = {slot.key: slot for slot in self.slots}
        self._titles = [
            (slot, _title(slot.key, slot.dtype, slot.shape))
            for slot in sorted(self.slots, key=lambda slot: slot.key)
        ]
        self.size = sum(slot.stop - slot.start for slot in self.slots)
        self.total_bytes = sum(slot.total_bytes for slot in self.slots)

    def encode(self, tensors: Mapping[str, Tensor]) -> ArrayRecord:
        """Serialize tensors, in the template's order."""
        return self.encode_arrays({k: v.detach().cpu().numpy() for k, v in tensors.items()})

    def encode_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> ArrayRecord:
        """Serialize arrays, in the template's order."""
        return fill(ArrayRecord(), {slot.key: slot.pack(arrays[slot.key]) for slot in self.slots})

    def decode(self, record: ArrayRecord) -> Tensors:
        """Decode a record into tensors that own their memory.

        Raises:
            CodecError: If keys, shapes, dtypes or bytes are not those of the template.
        """
        self._check_keys(record)
        return {
            s.key: torch.from_numpy(_values(record[s.key], s).reshape(s.shape).copy())
            for s in self.slots
        }

    def read_into(self, record: ArrayRecord, vector: NDArray[np.float64]) -> None:
        """Read all values into a flat vector ``[size]``, one tensor after the other.

        Raises:
            CodecError: If keys, shapes, dtypes or bytes are not those of the template.
        """
        self._check_keys(record)
        for slot in self.slots:
            _widen(_values(record[slot.key], slot), vector[slot.start : slot.stop])

    def flat_stacks(self, arrays: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]] | None:
        """Return stacked tensors ``[C, ...]`` as ``[C, n]`` each, in the template's order.

        None if their keys, shapes or dtypes are not those of the template.
        """
        if arrays.keys() != self._by_key.keys() or not arrays:
            return None
        for slot in self.slots:
            stack = arrays[slot.key]
            if stack.dtype != slot.dtype or stack.shape[1:] != slot.shape:
                return None
        stacks = [(arrays[slot.key], slot.stop - slot.start) for slot in self.slots]
        return [stack.reshape(len(stack), size) for stack, size in stacks]

    def read_row(self, stacks: Sequence[NDArray[Any]], row: int, vector: NDArray[np.float64]) -> None:
        """Read a row of `flat_stacks` into a flat vector ``[size]``, as `read_into` does."""
        for slot, stack in zip(self.slots, stacks, strict=True):
            _widen(stack[row], vector[slot.start : slot.stop])

    def digest(self, record: ArrayRecord) -> bytes:
        """Return the SHA-256 of a record's values: `tensors_digest` of what it decodes to.

        Raises:
            CodecError: If keys, shapes, dtypes or bytes are not those of the template.
        """
        self._check_keys(record)
        digest = hashlib.sha256()
        for slot, title in self._titles:
            digest.update(title)
            digest.update(_raw(record[slot.key], slot))
        return digest.digest()

    def split(self, vector: NDArray[np.float64]) -> Tensors:
        """Return a flat vector ``[size]`` as tensors of the template's shapes and dtypes."""
        return {
            slot.key: torch.from_numpy(
                vector[slot.start : slot.stop].astype(slot.dtype).reshape(slot.shape)
            )
            for slot in self.slots
        }

    def _check_keys(self, record: ArrayRecord) -> None:
        if record.keys() == self._by_key.keys():
            return
        for key in self._by_key:
            if key not in record:
                raise CodecError(RefusalCode.MISSING_KEY, key=key)
        extra = sorted(str(key) for key in record if key not in self._by_key)
        raise CodecError(RefusalCode.EXTRA_KEY, key=extra[0])


def tensors_digest(tensors: Mapping[str, Tensor]) -> bytes:
    """Return the SHA-256 of named tensors, such as a state.

    For each key in sorted order it takes ``key NUL dtype NUL shape NUL values``: the dtype as NumPy
    writes it (``<f4``), the shape as ``3,4``, the values little-endian and C-ordered.
    """
    digest = hashlib.sha256()
    for key in sorted(tensors):
        array = tensors[key].detach().cpu().contiguous().numpy()
        digest.update(_title(key, array.dtype, array.shape))
        digest.update(array.reshape(-1).data)
    return digest.digest()


def _title(key: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    sizes = ",".join(str(size) for size in shape)
    return b"\0".join((key.encode(), dtype.str.encode(), sizes.encode(), b""))


def _widen(values: NDArray[Any], into: NDArray[np.float64]) -> None:
    """Copy values into a float64 vector; torch casts long ones twice as fast as NumPy does."""
    if values.size < _LONG:
        into[:] = values
    else:
        torch.from_numpy(into).copy_(torch.from_numpy(values))


with warnings.catch_warnings():
    # Torch warns about the first read-only array only; ours are never written to.
    warnings.simplefilter("ignore")
    torch.from_numpy(np.frombuffer(bytes(8)))


def _slots(template: Mapping[str, Tensor]) -> Iterator[Slot]:
    start = 0
    for key, tensor in template.items():
        dtype = np.dtype(str(tensor.dtype).removeprefix("torch."))
        shape = tuple(tensor.shape)
        stop = start + math.prod(shape)
        header = npy_header(dtype.name, shape)
        total = len(header) + (stop - start) * dtype.itemsize
        yield Slot(key, dtype, dtype.name, shape, start, stop, header, total)
        start = stop


def _values(array: Array, slot: Slot) -> NDArray[Any]:
    """Return the values of `array` as a flat read-only view of its bytes."""
    if _is_ours(array, slot):
        return np.frombuffer(array.data, slot.dtype, offset=len(slot.header))
    return _foreign_values(array, slot)


def _raw(array: Array, slot: Slot) -> memoryview:
    """Return the bytes of `_values`; much faster where the array is small."""
    if _is_ours(array, slot):
        return memoryview(array.data)[len(slot.header) :]
    return _foreign_values(array, slot).data


def _is_ours(array: Array, slot: Slot) -> bool:
    data = array.data
    return (
        array.dtype == slot.dtype_name
        and array.shape == slot.shape
        and array.stype == NUMPY_STYPE
        and len(data) == slot.total_bytes
        and data.startswith(slot.header)
    )


def _foreign_values(array: Array, slot: Slot) -> NDArray[Any]:
    """Read an array that another encoder wrote, or raise what is wrong with it.

    Only the header is parsed, never a pickle, and no memory is allocated for sizes that it claims.
    """
    if array.stype != NUMPY_STYPE or not isinstance(array.data, bytes):
        raise _wrong(RefusalCode.SERIALIZATION, slot, array.stype, NUMPY_STYPE)
    if tuple(array.shape) != slot.shape:
        raise _wrong(RefusalCode.WRONG_SHAPE, slot, _short(tuple(array.shape)), _short(slot.shape))
    if array.dtype != slot.dtype_name:
        raise _wrong(RefusalCode.WRONG_DTYPE, slot, array.dtype, slot.dtype_name)
    shape, fortran, dtype, start = _read_header(array.data, slot)
    if shape != slot.shape:
        raise _wrong(RefusalCode.HELD_SHAPE, slot, _short(shape), _short(slot.shape))
    if dtype.newbyteorder("=") != slot.dtype:
        raise _wrong(RefusalCode.HELD_DTYPE, slot, dtype.name, slot.dtype_name)
    if len(array.data) != start + (slot.stop - slot.start) * slot.dtype.itemsize:
        raise _wrong(RefusalCode.WRONG_LENGTH, slot, len(array.data), slot.total_bytes)
    flat = np.frombuffer(array.data, dtype, offset=start)
    ordered = flat.reshape(shape, order="F" if fortran else "C").astype(slot.dtype)
    return np.ascontiguousarray(ordered).reshape(-1)


def _wrong(code: RefusalCode, slot: Slot, found: object, expected: int | str) -> CodecError:
    return CodecError(code, key=slot.key, found=str(found), expected=expected)


def _read_header(data: bytes, slot: Slot) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    if len(data) > slot.total_bytes + _SPARE_HEADER:
        raise _wrong(RefusalCode.WRONG_LENGTH, slot, len(data), slot.total_bytes)
    buffer = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(buffer)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, fortran, dtype = read(buffer)
    except Exception:
        # The bytes are untrusted; how exactly they fail to parse does not matter.
        raise CodecError(RefusalCode.UNDECODABLE, key=slot.key) from None
    return shape, fortran, dtype, buffer.tell()


def _short(shape: tuple[int, ...]) -> str:
    text = str(shape)
    return text if len(text) <= 60 else text[:57] + "..."
