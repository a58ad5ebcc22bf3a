"""CRC-32C and SipHash-2-4-128 as the core computes them: for tests, tools and `ioaccel doctor`."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef extern from "ia_crc32c.h" nogil:
    uint32_t ia_crc32c(uint32_t crc, const void *data, size_t len)

    struct ia_crc32c_implementation_t "ia_crc32c_implementation":
        const char *name
    const ia_crc32c_implementation_t *ia_crc32c_implementation(unsigned n)

cdef extern from "ia_siphash.h" nogil:
    void ia_siphash128(const uint8_t *key, const void *data, size_t len, uint64_t *out)


def crc32c(data, uint32_t value=0):
    """The CRC-32C of ``data``, or, given the CRC ``value`` of what stands before it, of both."""
    cdef Py_buffer view
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        with nogil:
            value = ia_crc32c(value, view.buf, <size_t>view.len)
    finally:
        PyBuffer_Release(&view)
    return value


def crc32c_implementation():
    """The name of the implementation that this CPU runs."""
    return ia_crc32c_implementation(0).name.decode()


def siphash128(bytes key not None, data):
    """The 16 bytes of SipHash-2-4-128 of ``data`` under a ``key`` of 16 bytes."""
    cdef Py_buffer view
    cdef uint64_t[2] out
    if len(key) != 16:
        raise ValueError(f"a SipHash key has 16 bytes, not {len(key)}")
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        ia_siphash128(key, view.buf, <size_t>view.len, out)
    finally:
        PyBuffer_Release(&view)
    return (<char *>out)[:sizeof(out)]
