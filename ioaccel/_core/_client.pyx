# cython: auto_pickle=False
"""The reader's half of the core: views, batches and their buffers. Used by clients.

The way of a batch: a ``Request`` hashes the URLs and looks the blocks up; what is missing is asked
of the engine and resolved from its answer; then the pieces are copied into a ``Buffer`` with the
GIL released. Nothing here talks to the engine.
"""

from cpython.buffer cimport PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer, PyBUF_WRITABLE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.number cimport PyNumber_Index
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

cdef extern from "Python.h":
    size_t PY_SSIZE_T_MAX

BLOCK_SIZE = IA_BLOCK_SIZE
HIT = IA_HIT
MISS = IA_MISS
PAST_END = IA_PAST_END
TOO_LONG = IA_PAST_END + 1  # `read` only: the extent is longer than the caller wants

# "The rest of the object", for a length.
cdef uint64_t TO_END = <uint64_t>-1


# ---- buffers ------------------------------------------------------------------------------------

# A fresh 7 MB buffer costs as much in page faults as the copy into it, so buffers are used again.
# At most this many wait, of at most this many bytes each: a few batches, and no hoard.
cdef enum:
    SPARES = 4
    SPARE_BYTES = 64 << 20
    HUGE_PAGE = 2 << 20
    SMALL = 64 << 10  # up to here a huge page would be waste

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
        cdef size_t want = SMALL
        cdef int i
        if size > PY_SSIZE_T_MAX - HUGE_PAGE:
            raise MemoryError(f"{size} bytes for a batch")
        if size > SMALL:
            want = (size + HUGE_PAGE - 1) & ~(<size_t>HUGE_PAGE - 1)
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
        cdef int i
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


cdef class _IndexMap:
    """A mapped index. Who reads it without the GIL holds a reference."""

    cdef ia_index_map *map

    def __cinit__(self, int fd):
        check(ia_index_map_fd(fd, &self.map), "the engine's index")

    def __dealloc__(self):
        ia_index_unmap(self.map)


cdef class View:
    """One process's maps and descriptors of one engine's cache.

    Takes ownership of every descriptor given. ``shards`` may hold -1 for one that cannot be read.
    """

    cdef ia_view view
    cdef _IndexMap index  # what view.index points to

    def __cinit__(self, int control, int index, int page, list shards not None):
        cdef int i
        for i in range(IA_MAX_SHARDS):
            self.view.fd[i] = -1
        try:
            if len(shards) > IA_MAX_SHARDS:
                for fd in shards:
                    close(fd)
                raise ValueError(f"{len(shards)} shards: at most {IA_MAX_SHARDS}")
            for i in range(len(shards)):
                self.view.fd[i] = shards[i]
                if shards[i] >= 0 and ia_in_memory(shards[i]):
                    self.view.in_memory |= <uint64_t>1 << i
            check(ia_control_map(control, &self.view.control), "the engine's control page")
            check(ia_client_page_map(page, &self.view.page), "the client's page")
            self.index = _IndexMap(index)
            self.view.index = self.index.map
        finally:
            close(control)
            close(index)
            close(page)

    def __dealloc__(self):
        cdef int i
        for i in range(IA_MAX_SHARDS):
            if self.view.fd[i] >= 0:
                close(self.view.fd[i])  # not os.close: at the end of the interpreter there is no os
        ia_client_page_unmap(self.view.page)
        ia_control_unmap(self.view.control)

    def remap(self, int index):
        """Goes over to the engine's new index, and takes ownership of its descriptor."""
        cdef _IndexMap fresh
        try:
            fresh = _IndexMap(index)
            self.view.index = fresh.map
            self.index = fresh  # the old one goes now, or when the last thread that reads it has done so
        finally:
            close(index)

    @property
    def alive(self):
        """Whether the engine is; one load."""
        return ia_owner_alive(self.view.control) == 1

    @property
    def current(self):
        """Whether the engine is alive and still writes the index that is mapped here; two loads."""
        return (ia_owner_alive(self.view.control) == 1
                and ia_current_epoch(self.view.control) == ia_index_epoch(self.view.index))

    @property
    def disk_seconds(self):
        """How long the threads of this client have waited for the disk."""
        return ia_client_page_get(self.view.page, IA_DISK_NS) / 1e9

    def add_direct(self, uint64_t count):
        """Counts bytes that this client read from the source itself."""
        ia_client_page_add(self.view.page, IA_DIRECT_BYTES, count)


# Up to so many extents are looked up with the GIL held: that takes 25 us at most, and who lets go of
# it gets it back after 5 ms if another thread computes.
cdef enum:
    FEW_EXTENTS = 128


cdef uint32_t resolve_all(const ia_view *view, ia_want *wants, uint32_t count, uint64_t oldest_ms,
                          ia_pieces *pieces) noexcept nogil:
    """Resolves every extent whose status is not ``IA_MISS`` already; how many are missing."""
    cdef uint32_t i, missing = 0
    for i in range(count):
        if wants[i].status == IA_HIT:
            ia_resolve(view, &wants[i], i, oldest_ms, pieces)
        missing += wants[i].status != IA_HIT
    return missing


cdef uint32_t look_up(View view, ia_want *wants, uint32_t count, uint64_t oldest_ms,
                      ia_pieces *pieces) noexcept:
    cdef ia_view now
    cdef _IndexMap _kept  # until this has returned, whoever remaps meanwhile
    cdef uint32_t missing
    if count <= FEW_EXTENTS:
        return resolve_all(&view.view, wants, count, oldest_ms, pieces)
    now, _kept = view.view, view.index
    with nogil:
        missing = resolve_all(&now, wants, count, oldest_ms, pieces)
    return missing


cdef int copy_now(View view, ia_pieces *pieces, uint32_t threads) noexcept nogil:
    """Copies; 0 if every byte is right."""
    cdef uint32_t failed = ia_copy(&view.view, pieces.piece, pieces.count, threads)
    if failed == 0:
        ia_account(&view.view, pieces.piece, pieces.count)
    return failed != 0


def read(View view not None, Keyring ring not None, str url not None, uint64_t offset, length,
         uint64_t oldest_ms, uint64_t version=0, uint64_t most=TO_END):
    """The bytes of one cached extent; MISS, PAST_END or TOO_LONG when it cannot be served.

    ``length`` is None for the rest of the object. ``oldest_ms``: a version that was last checked
    earlier does not count. ``version``: nor does any but this, if it is not 0. ``most``: bytes.
    """
    cdef ia_want want
    cdef ia_pieces pieces
    cdef Py_ssize_t url_len
    cdef const char *text = PyUnicode_AsUTF8AndSize(url, &url_len)
    cdef bytes result
    cdef uint8_t *to
    cdef int status
    memset(&want, 0, sizeof(want))  # its status, too: IA_HIT
    memset(&pieces, 0, sizeof(pieces))
    want.offset = offset
    want.version = version
    want.length = TO_END if length is None else length
    if not ring.find(text, url_len, want.key):
        return MISS
    try:
        look_up(view, &want, 1, oldest_ms, &pieces)
        if check(want.status, url) != IA_HIT:
            return want.status
        if want.length > most:
            return TOO_LONG
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
        look_up(view, &want, 1, oldest_ms, &pieces)
        if check(want.status, url) != IA_HIT:
            return want.status
        with nogil:
            ia_place(&want, 1, &pieces, <uint8_t *>buffer.buf)
            status = copy_now(view, &pieces, 1)
        return IA_HIT if status == 0 else IA_MISS
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
        cdef uint32_t i
        cdef list items = list(extents)  # the caller's may change while `canonical` runs
        self.count = <uint32_t>len(items)
        self.pinned = version
        self.urls = items
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
            items[i] = item
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
        want.offset = PyNumber_Index(offset)  # 1.5 is no offset
        if length is not None:
            want.length = PyNumber_Index(length)
        return url

    cdef ia_want *_want(self, uint32_t i) except NULL:
        if i >= self.count:
            raise IndexError(f"extent {i} of a batch of {self.count}")
        return &self.wants[i]

    def __len__(self):
        return self.count

    def lookup(self, View view not None, uint64_t oldest_ms, unreadable=()):
        """Looks every extent up, but those that a disk could not give; how many are missing."""
        cdef uint32_t i
        self.view = view
        self.pieces.count = 0
        for i in range(self.count):
            self.wants[i].length = self.asked[i]
            self.wants[i].version = self.pinned
            self.wants[i].status = IA_HIT
        for i in unreadable:
            self._want(i).status = IA_MISS
        return look_up(view, self.wants, self.count, oldest_ms, &self.pieces)

    def hint(self):
        """Asks the kernel to read what was found ahead, where it is not in memory; waits for nothing."""
        if self.view is not None:
            with nogil:
                ia_hint(&self.view.view, self.pieces.piece, self.pieces.count)

    def unresolve(self):
        """Forgets which versions were found: the extents are read in another way."""
        cdef uint32_t i
        for i in range(self.count):
            self.wants[i].version = self.pinned

    def skip(self, uint32_t i):
        """Leaves extent ``i`` out: no bytes of it are copied."""
        cdef ia_want *want = self._want(i)
        want.status = IA_HIT
        want.piece_count = 0
        want.length = 0

    def extents(self):
        """``(url, offset, length or None)`` of every extent, with canonical URLs."""
        cdef uint32_t i
        return [(self.urls[i], self.wants[i].offset, None if self.asked[i] == TO_END else self.asked[i])
                for i in range(self.count)]

    def missing(self):
        """The positions of the extents that are not resolved."""
        cdef uint32_t i
        return [i for i in range(self.count) if self.wants[i].status != IA_HIT]

    def object_size(self, uint32_t i):
        """The size of the object that resolved extent ``i`` is of."""
        return self._want(i).object_size

    def version(self, uint32_t i):
        """The hash of the version that resolved extent ``i`` is of."""
        return self._want(i).version

    def resolve(self, uint32_t i, uint64_t object_size, uint64_t version, bytes locations not None):
        """Resolves extent ``i`` from the engine's answer; HIT or PAST_END."""
        cdef ia_want *want = self._want(i)
        if self.view is None or len(locations) % sizeof(ia_location):
            raise ValueError(f"extent {i}: not looked up, or not an answer of the engine")
        want.object_size = object_size
        want.version = version
        want.length = self.asked[i]
        return check(ia_resolve_at(&self.view.view, want, i,
                                   <const ia_location *>PyBytes_AS_STRING(locations),
                                   <uint32_t>(len(locations) // sizeof(ia_location)), &self.pieces),
                     self.urls[i])

    cdef int64_t _lay_out(self, int64_t *begins) except -1:
        """Where each extent begins in the batch, if ``begins`` is not NULL; the size of all."""
        cdef int64_t at = 0
        cdef uint32_t i
        for i in range(self.count):
            if self.wants[i].status != IA_HIT:
                raise ValueError(f"extent {i} is not resolved")
            if begins != NULL:
                begins[i] = at
            at += self.wants[i].length
        if begins != NULL:
            begins[self.count] = at
        return at

    def offsets(self, out):
        """Writes where each extent begins in the batch, and the total, into ``out``: int64, count + 1
        of them. Returns the total."""
        cdef Py_buffer view
        PyObject_GetBuffer(out, &view, PyBUF_WRITABLE)
        try:
            if view.len != <Py_ssize_t>((self.count + 1) * sizeof(int64_t)):
                raise ValueError(f"{view.len} bytes for {self.count} + 1 offsets")
            return self._lay_out(<int64_t *>view.buf)
        finally:
            PyBuffer_Release(&view)

    def copy(self, target, uint32_t threads):
        """Copies every extent into ``target``, back to back; whether every byte is right.

        If not (a segment was reused meanwhile, a disk failed), look up again; ``unreadable`` then
        tells which extents no disk could give.
        """
        cdef Py_buffer view
        cdef uint32_t failed, helpers, i
        if self.view is None:
            raise ValueError("the batch was not looked up")
        PyObject_GetBuffer(target, &view, PyBUF_WRITABLE)
        try:
            if self._lay_out(NULL) > view.len:
                raise ValueError(f"{view.len} bytes do not hold the batch")
            helpers = 1 + <uint32_t>(view.len // BYTES_A_THREAD)
            with nogil:
                ia_place(self.wants, self.count, &self.pieces, <uint8_t *>view.buf)
                failed = ia_copy(&self.view.view, self.pieces.piece, self.pieces.count,
                                 min(helpers, threads))
                if failed == 0:
                    ia_account(&self.view.view, self.pieces.piece, self.pieces.count)
        finally:
            PyBuffer_Release(&view)
        if failed == 0:
            return True
        self.unreadable = sorted({self.pieces.piece[i].want for i in range(self.pieces.count)
                                  if self.pieces.piece[i].status not in (0, -ESTALE)})
        return False
