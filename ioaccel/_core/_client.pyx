"""The reader's half of the core: views, batches and their buffers. Used by clients.

The way of a batch: a ``Request`` hashes the URLs and looks the blocks up; what is missing is asked
of the engine and resolved from its answer; then the pieces are copied into a ``Buffer`` with the
GIL released. Nothing here talks to the engine.
"""

from cpython.buffer cimport PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer, PyBUF_WRITABLE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.errno cimport ESTALE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset
from posix.unistd cimport close

import os

from ioaccel._core.ia cimport *

cdef extern from "sys/mman.h" nogil:
    void *mmap(void *addr, size_t length, int prot, int flags, int fd, long offset)
    int munmap(void *addr, size_t length)
    int madvise(void *addr, size_t length, int advice)
    int PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS, MADV_HUGEPAGE
    void *MAP_FAILED

BLOCK_SIZE = IA_BLOCK_SIZE
HIT = IA_HIT
MISS = IA_MISS
PAST_END = IA_PAST_END

# "The rest of the object", for a length.
cdef uint64_t TO_END = <uint64_t>-1


# ---- buffers ------------------------------------------------------------------------------------

# A fresh 7 MB buffer costs as much in page faults as the copy into it, so buffers are used again.
# At most this many wait, of at most this many bytes each: a few batches, and no hoard.
cdef enum:
    SPARES = 4
    SPARE_BYTES = 64 << 20
    HUGE_PAGE = 2 << 20

cdef (void *)[SPARES] spare_address
cdef size_t[SPARES] spare_size


cdef class Buffer:
    """``size`` writable bytes, exported by the buffer protocol; not initialised.

    The memory goes back to the process's pool when the last view of it is gone.
    """

    cdef void *address
    cdef size_t capacity
    cdef readonly size_t size

    def __cinit__(self, size_t size):
        cdef size_t want = (max(size, 1) + HUGE_PAGE - 1) // HUGE_PAGE * HUGE_PAGE if size > 65536 else 65536
        self.size = size
        for i in range(SPARES):
            if spare_address[i] != NULL and want <= spare_size[i] <= 4 * want:
                self.address, self.capacity = spare_address[i], spare_size[i]
                spare_address[i] = NULL
                return
        self.address = mmap(NULL, want, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        if self.address == MAP_FAILED:
            self.address = NULL
            raise MemoryError(f"{size} bytes for a batch")
        self.capacity = want
        if want >= HUGE_PAGE:
            madvise(self.address, want, MADV_HUGEPAGE)

    def __dealloc__(self):
        if self.address == NULL:
            return
        if self.capacity <= SPARE_BYTES:
            for i in range(SPARES):
                if spare_address[i] == NULL:
                    spare_address[i], spare_size[i] = self.address, self.capacity
                    return
        munmap(self.address, self.capacity)

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.address, self.size, 0, flags)

    def __len__(self):
        return self.size


# ---- names --------------------------------------------------------------------------------------

cdef enum:
    MAX_SCHEMES = 32

cdef class Keyring:
    """The identity of the store behind each scheme, and with it the key of a URL."""

    cdef list kept  # the bytes that prefix points into
    cdef (const char *)[MAX_SCHEMES] prefix
    cdef Py_ssize_t[MAX_SCHEMES] length
    cdef uint8_t[MAX_SCHEMES][16] identity
    cdef int count

    def __cinit__(self):
        self.kept = []

    def add(self, str scheme not None, bytes identity not None):
        """URLs that begin with ``scheme://`` belong to the store ``identity`` (16 bytes)."""
        if len(identity) != 16:
            raise ValueError(f"an identity has 16 bytes, not {len(identity)}")
        if self.count == MAX_SCHEMES:
            raise ValueError(f"more than {MAX_SCHEMES} URL schemes in one cache")
        cdef bytes prefix = scheme.encode() + b"://"
        self.kept.append(prefix)
        memcpy(self.identity[self.count], PyBytes_AS_STRING(identity), 16)
        self.prefix[self.count] = PyBytes_AS_STRING(prefix)
        self.length[self.count] = len(prefix)
        self.count += 1

    cdef int find(self, const char *url, Py_ssize_t length, uint64_t *key) noexcept:
        """Whether the scheme is known; then the URL's key."""
        for i in range(self.count):
            if length > self.length[i] and memcmp(url, self.prefix[i], self.length[i]) == 0:
                ia_siphash128(self.identity[i], url, length, key)
                return 1
        return 0

    def key(self, str url not None):
        """The 16 bytes of the key, or None if the scheme was not added."""
        cdef uint64_t[2] key
        cdef Py_ssize_t length
        cdef const char *text = PyUnicode_AsUTF8AndSize(url, &length)
        if not self.find(text, length, key):
            return None
        return PyBytes_FromStringAndSize(<const char *>key, 16)


def version_hash(str version not None):
    """What the index keeps of a version string."""
    cdef bytes data = version.encode()
    return ia_version_hash(PyBytes_AS_STRING(data), len(data))


# ---- views --------------------------------------------------------------------------------------

cdef int check(int result, str what) except -1:
    if result < 0:
        raise OSError(-result, f"{os.strerror(-result)}: {what}")
    return result


cdef enum:
    MAX_INDEXES = 40  # doubling from 4 MiB, more than any address space holds


cdef class View:
    """One process's maps and descriptors of one engine's cache.

    Takes ownership of every descriptor given. ``shards`` may hold -1 for one that cannot be read.
    """

    cdef ia_view view
    cdef (ia_index_map *)[MAX_INDEXES] indexes  # the last one is current
    cdef int index_count

    def __cinit__(self, int control, int index, int page, shards):
        for i in range(64):
            self.view.fd[i] = -1
        if len(shards) > 64:
            raise ValueError(f"{len(shards)} shards: at most 64")
        for i, fd in enumerate(shards):
            self.view.fd[i] = fd
        try:
            check(ia_control_map(control, &self.view.control), "the engine's control page")
            check(ia_client_page_map(page, &self.view.page), "the client's page")
            self.remap(index)
        finally:
            os.close(control)
            os.close(page)

    def __dealloc__(self):
        for i in range(64):
            if self.view.fd[i] >= 0:
                close(self.view.fd[i])  # not os.close: at the end of the interpreter there is no os
        for i in range(self.index_count):
            ia_index_unmap(self.indexes[i])
        ia_client_page_unmap(self.view.page)
        ia_control_unmap(self.view.control)

    def remap(self, int index):
        """Goes over to the engine's new index, and takes ownership of its descriptor.

        Other threads may be reading the old one, so it stays mapped until the view goes; each is at
        most half as large as the next.
        """
        cdef ia_index_map *fresh = NULL
        try:
            if self.index_count == MAX_INDEXES:
                raise OSError(f"more than {MAX_INDEXES} indexes of one engine")
            check(ia_index_map_fd(index, &fresh), "the engine's index")
        finally:
            os.close(index)
        self.indexes[self.index_count] = fresh
        self.index_count += 1
        self.view.index = fresh

    @property
    def alive(self):
        """Whether the engine is; one load."""
        return ia_owner_alive(self.view.control) == 1

    @property
    def current(self):
        """Whether the engine is alive and still writes the index that is mapped here; two loads."""
        return (ia_owner_alive(self.view.control) == 1
                and ia_current_epoch(self.view.control) == ia_index_epoch(self.view.index))

    def add_direct(self, uint64_t count):
        """Counts bytes that this client read from the source itself."""
        ia_client_page_add(self.view.page, IA_DIRECT_BYTES, count)


cdef int copy_now(View view, ia_pieces *pieces, uint32_t threads) noexcept nogil:
    """Copies; 0 if every byte is right."""
    cdef uint32_t failed = ia_copy(&view.view, pieces.piece, pieces.count, threads)
    if failed == 0:
        ia_account(&view.view, pieces.piece, pieces.count)
    return failed != 0


def read(View view not None, Keyring ring not None, str url not None, uint64_t offset, length,
         uint64_t oldest_ms, uint64_t version=0):
    """The bytes of one cached extent; MISS or PAST_END when it cannot be served.

    ``length`` is None for the rest of the object. ``oldest_ms``: a version that was last checked
    earlier does not count. ``version``: nor does any but this, if it is not 0.
    """
    cdef ia_want want
    cdef ia_pieces pieces
    cdef Py_ssize_t url_len
    cdef const char *text = PyUnicode_AsUTF8AndSize(url, &url_len)
    cdef bytes result
    cdef uint8_t *to
    cdef int status
    memset(&want, 0, sizeof(want))
    memset(&pieces, 0, sizeof(pieces))
    want.offset = offset
    want.version = version
    want.length = TO_END if length is None else length
    if not ring.find(text, url_len, want.key):
        return MISS
    try:
        with nogil:
            status = ia_resolve(&view.view, &want, 0, oldest_ms, &pieces)
        if check(status, url) != IA_HIT:
            return status
        result = PyBytes_FromStringAndSize(NULL, want.length)
        to = <uint8_t *>PyBytes_AS_STRING(result)
        with nogil:
            ia_place(&want, 1, &pieces, to)
            status = copy_now(view, &pieces, 1)
        return result if status == 0 else MISS
    finally:
        ia_pieces_free(&pieces)


def read_into(View view not None, Keyring ring not None, str url not None, uint64_t offset, target,
              uint64_t oldest_ms, uint64_t version=0):
    """Fills the writable buffer ``target`` from ``offset`` on; HIT, MISS or PAST_END."""
    cdef ia_want want
    cdef ia_pieces pieces
    cdef Py_buffer buffer
    cdef Py_ssize_t url_len
    cdef const char *text = PyUnicode_AsUTF8AndSize(url, &url_len)
    cdef int status
    memset(&want, 0, sizeof(want))
    memset(&pieces, 0, sizeof(pieces))
    want.offset = offset
    want.version = version
    if not ring.find(text, url_len, want.key):
        return MISS
    PyObject_GetBuffer(target, &buffer, PyBUF_WRITABLE)
    want.length = buffer.len
    try:
        with nogil:
            status = ia_resolve(&view.view, &want, 0, oldest_ms, &pieces)
            if status == IA_HIT:
                ia_place(&want, 1, &pieces, <uint8_t *>buffer.buf)
                if copy_now(view, &pieces, 1) != 0:
                    status = IA_MISS
        return check(status, url)
    finally:
        ia_pieces_free(&pieces)
        PyBuffer_Release(&buffer)


# ---- batches ------------------------------------------------------------------------------------

# Below this a helper thread costs more (15 us to start) than it saves.
cdef enum:
    BYTES_A_THREAD = 1 << 20

cdef class Request:
    """A batch of extents on its way: each is a URL or ``(url, offset, length or None)``.

    ``canonical(url)`` is asked about what is not a URL with a known scheme; it returns one and has
    seen to it that the keyring knows the scheme, or raises. A ``version`` that is not 0 is the only
    one that will do.
    """

    cdef View view
    cdef list urls
    cdef ia_want *wants
    cdef uint64_t *asked
    cdef ia_pieces pieces
    cdef uint32_t count
    cdef readonly list unreadable
    cdef readonly uint64_t pinned

    def __cinit__(self, extents, Keyring ring not None, canonical, uint64_t version=0):
        cdef Py_ssize_t length
        cdef const char *text
        cdef ia_want *want
        cdef list items = extents if type(extents) is list else list(extents)
        self.count = <uint32_t>len(items)
        self.pinned = version
        self.urls = [None] * self.count
        self.unreadable = []
        self.wants = <ia_want *>calloc(self.count + 1, sizeof(ia_want))
        self.asked = <uint64_t *>calloc(self.count + 1, sizeof(uint64_t))
        if self.wants == NULL or self.asked == NULL:
            raise MemoryError(f"a batch of {self.count} extents")
        for i in range(self.count):
            want = &self.wants[i]
            item = items[i]
            want.length = TO_END
            if type(item) is not str:
                if isinstance(item, (tuple, list)):
                    item = self._unpack(item, want)
                if type(item) is not str:
                    item = canonical(item)
            text = PyUnicode_AsUTF8AndSize(item, &length)
            if not ring.find(text, length, want.key):
                item = canonical(item)
                text = PyUnicode_AsUTF8AndSize(item, &length)
                if not ring.find(text, length, want.key):
                    raise ValueError(f"unknown URL scheme: {item}")
            self.urls[i] = item
            self.asked[i] = want.length
            want.status = IA_MISS

    def __dealloc__(self):
        ia_pieces_free(&self.pieces)
        free(self.wants)
        free(self.asked)

    cdef object _unpack(self, item, ia_want *want):
        if len(item) != 3:
            raise ValueError(f"an extent is a URL or (url, offset, length), not {item!r}")
        url, offset, length = item
        if offset < 0 or (length is not None and length < 0):
            raise ValueError(f"offset and length cannot be negative: {item!r}")
        want.offset = offset
        if length is not None:
            want.length = length
        return url

    def __len__(self):
        return self.count

    def lookup(self, View view not None, uint64_t oldest_ms, unreadable=()):
        """Looks every extent up, but those that a disk could not give; how many are missing."""
        cdef uint32_t missing = 0
        cdef uint32_t i
        self.view = view
        self.pieces.count = 0
        for i in range(self.count):
            self.wants[i].status = IA_HIT
        for i in unreadable:
            self.wants[i].status = IA_MISS
        with nogil:
            for i in range(self.count):
                self.wants[i].length = self.asked[i]
                self.wants[i].version = self.pinned
                if self.wants[i].status == IA_HIT:
                    ia_resolve(&self.view.view, &self.wants[i], i, oldest_ms, &self.pieces)
                missing += self.wants[i].status != IA_HIT
        return missing

    def unresolve(self):
        """Forgets which versions were found: the extents are read in another way."""
        for i in range(self.count):
            self.wants[i].version = self.pinned

    def skip(self, uint32_t i):
        """Leaves extent ``i`` out: no bytes of it are copied."""
        self.wants[i].status = IA_HIT
        self.wants[i].piece_count = 0
        self.wants[i].length = 0

    def extents(self):
        """``(url, offset, length or None)`` of every extent, with canonical URLs."""
        return [(self.urls[i], self.wants[i].offset, None if self.asked[i] == TO_END else self.asked[i])
                for i in range(self.count)]

    def missing(self):
        """The positions of the extents that are not resolved."""
        return [i for i in range(self.count) if self.wants[i].status != IA_HIT]

    def object_size(self, uint32_t i):
        """The size of the object that resolved extent ``i`` is of."""
        return self.wants[i].object_size

    def version(self, uint32_t i):
        """The hash of the version that resolved extent ``i`` is of."""
        return self.wants[i].version

    def resolve(self, uint32_t i, uint64_t object_size, uint64_t version, bytes locations not None):
        """Resolves extent ``i`` from the engine's answer; HIT or PAST_END."""
        cdef ia_want *want = &self.wants[i]
        if i >= self.count or len(locations) % sizeof(ia_location):
            raise ValueError(f"extent {i}: not an answer of the engine")
        want.object_size = object_size
        want.version = version
        want.length = self.asked[i]
        return check(ia_resolve_at(&self.view.view, want, i,
                                   <const ia_location *>PyBytes_AS_STRING(locations),
                                   len(locations) // sizeof(ia_location), &self.pieces),
                     self.urls[i])

    def offsets(self, int64_t[::1] out):
        """Writes where each extent begins in the batch, and the total, into ``out`` (count + 1)."""
        cdef int64_t at = 0
        cdef uint32_t i
        for i in range(self.count):
            out[i] = at
            at += self.wants[i].length
        out[self.count] = at
        return at

    def copy(self, uint8_t[::1] target, uint32_t threads):
        """Copies every extent into ``target``, back to back; whether every byte is right.

        If not (a segment was reused meanwhile, a disk failed), look up again; ``unreadable`` then
        tells which extents no disk could give.
        """
        cdef uint32_t failed, i
        cdef uint32_t helpers = 1 + <uint32_t>(target.shape[0] // BYTES_A_THREAD)
        cdef uint8_t *to = &target[0] if target.shape[0] else NULL
        with nogil:
            ia_place(self.wants, self.count, &self.pieces, to)
            failed = ia_copy(&self.view.view, self.pieces.piece, self.pieces.count,
                             min(helpers, threads))
            if failed == 0:
                ia_account(&self.view.view, self.pieces.piece, self.pieces.count)
        if failed == 0:
            return True
        self.unreadable = sorted({self.pieces.piece[i].want for i in range(self.pieces.count)
                                  if self.pieces.piece[i].status not in (0, -ESTALE)})
        return False
