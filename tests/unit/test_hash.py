"""The hashes of the core against what others compute."""

import google_crc32c
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioaccel._core import _hash

KEY = bytes(range(16))


@given(st.binary(max_size=2000), st.binary(max_size=2000))
def test_crc32c_continues_like_google_crc32c(head: bytes, tail: bytes) -> None:
    crc = _hash.crc32c(head)
    assert crc == google_crc32c.value(head)
    assert _hash.crc32c(tail, crc) == google_crc32c.extend(crc, tail) == google_crc32c.value(head + tail)


# Around the strides of the three interleaved streams (3 * 256, 3 * 4096), and a span and a block.
@pytest.mark.parametrize("size", [767, 768, 769, 12287, 12288, 12289, 65536, 4 << 20])
def test_crc32c_of_large_buffers(size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    assert _hash.crc32c(data) == google_crc32c.value(data)


def test_crc32c_takes_any_contiguous_buffer() -> None:
    data = np.arange(1000, dtype=np.int64)
    expected = google_crc32c.value(data.tobytes())
    assert _hash.crc32c(data) == expected
    assert _hash.crc32c(memoryview(data.tobytes())) == expected
    assert _hash.crc32c(bytearray(data.tobytes())) == expected
    with pytest.raises((BufferError, ValueError), match="contiguous"):
        _hash.crc32c(data[::2])
    with pytest.raises(TypeError, match="bytes-like"):
        _hash.crc32c("text")  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [-1, 1 << 32])
def test_crc32c_value_has_32_bits(value: int) -> None:
    with pytest.raises(OverflowError):
        _hash.crc32c(b"", value)


def test_crc32c_implementation_is_one_that_we_know() -> None:
    assert _hash.crc32c_implementation() in {"sse4.2+pclmul", "armv8-crc+pmull", "table"}


# The published vectors are in tests/c/test_siphash.c; these show the order of the bytes.
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "a3817f04ba25a8e66df67214c7550293"),
        (bytes(range(15)), "5493e99933b0a8117e08ec0f97cfc3d9"),
    ],
)
def test_siphash128_returns_the_published_bytes(data: bytes, expected: str) -> None:
    assert _hash.siphash128(KEY, data).hex() == expected


@pytest.mark.parametrize("size", [0, 15, 17])
def test_siphash128_key_has_16_bytes(size: int) -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        _hash.siphash128(bytes(size), b"data")
