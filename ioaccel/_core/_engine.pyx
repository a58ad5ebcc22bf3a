# cython: auto_pickle=False
"""The writer's half of the core: the index, the segments, recovery. Used by the engine alone.

Keys are 16 bytes; locations are the 24 bytes of ``struct ia_location``, ready for the wire.
Every OSError is the exact subclass for its errno.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.errno cimport ENOMEM
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset
from posix.stat cimport fstat, struct_stat
from posix.unistd cimport close, getpid

import errno
import os

from ioaccel._core.ia cimport *

BLOCK_SIZE = IA_BLOCK_SIZE
DATA_START = IA_DATA_START
FORMAT = IA_FORMAT
MAX_SHARDS = IA_MAX_SHARDS
SEGMENT_HEADER_SIZE = IA_SEGMENT_HEADER_SIZE
CLIENT_PAGE_SIZE = IA_CLIENT_PAGE_SIZE
CLIENT_COUNTERS = ("hits", "hit_bytes", "misses", "miss_bytes", "direct_bytes", "disk_ns")


cdef int check(int result, str what) except -1:
    """Raises the OSError of a negative result; returns any other."""
    if result < 0:
        raise OSError(-result, f"{os.strerror(-result)}: {what}")
    return result


cdef int load_key(bytes key, uint64_t *out) except -1:
    if len(key) != 16:
        raise ValueError(f"a key has 16 bytes, not {len(key)}")
    memcpy(out, PyBytes_AS_STRING(key), 16)
    return 0


cdef int load_location(bytes location, ia_location *out) except -1:
    if len(location) != sizeof(ia_location):
        raise ValueError(f"a location has {sizeof(ia_location)} bytes, not {len(location)}")
    memcpy(out, PyBytes_AS_STRING(location), sizeof(ia_location))
    return 0


cdef bytes dump_location(const ia_location *at):
    return PyBytes_FromStringAndSize(<const char *>at, sizeof(ia_location))


def block_key(bytes identity not None, str url not None, uint64_t block=0):
    """The key of block number ``block`` of the object ``url`` in the store ``identity``."""
    cdef uint64_t[2] key
    cdef bytes data = url.encode("utf-8", "surrogateescape")
    if len(identity) != 16:
        raise ValueError(f"an identity has 16 bytes, not {len(identity)}")
    ia_siphash128(<const uint8_t *>PyBytes_AS_STRING(identity), PyBytes_AS_STRING(data), len(data), key)
    key[1] += block
    return PyBytes_FromStringAndSize(<const char *>key, 16)


def version_hash(str version not None):
    """What the index keeps of a version string."""
    cdef bytes data = version.encode()
    return ia_version_hash(PyBytes_AS_STRING(data), len(data))


def block_footprint(uint32_t url_len, uint32_t version_len, uint32_t length):
    """Bytes that a block of ``length`` bytes takes in a segment."""
    return ia_block_footprint(url_len, version_len, length)


cdef class Index:
    """The index and the control page of one engine.

    ``segment_counts[i]`` segments of ``segment_sizes[i]`` bytes for shard ``i``. All methods may be
    called from any thread.
    """

    cdef ia_control *control
    cdef ia_index *index
    cdef int _control_fd
    cdef int holder  # the process that holds the page, or 0

    def __cinit__(self, segment_counts, segment_sizes):
        cdef uint32_t[IA_MAX_SHARDS] counts
        cdef uint64_t[IA_MAX_SHARDS] sizes
        cdef uint32_t n = <uint32_t>len(segment_counts)
        cdef uint32_t i
        self._control_fd = -1
        if n > IA_MAX_SHARDS or n != len(segment_sizes):
            raise ValueError(f"{n} shards: at most {IA_MAX_SHARDS}, each with its segment size")
        for i in range(n):
            counts[i] = segment_counts[i]
            sizes[i] = segment_sizes[i]
        check(ia_control_create(n, counts, sizes, &self._control_fd, &self.control), "control page")
        check(ia_index_create(self.control, &self.index), "index")

    def __dealloc__(self):
        ia_index_destroy(self.index)
        if self.holder and self.holder == getpid():
            ia_owner_release(self.control)  # and stays mapped: the kernel may look there at the end
        else:
            ia_control_unmap(self.control)
        if self._control_fd >= 0:
            close(self._control_fd)

    def hold(self):
        """Makes this process the owner until it ends: readers see its death at once."""
        check(ia_owner_hold(self.control), "owner thread")
        self.holder = getpid()

    def release(self):
        """Gives up, for readers as if the process had ended; before the locks of the directories go."""
        ia_owner_release(self.control)

    def control_fd(self):
        """A new read-only descriptor of the control page, owned by the caller."""
        return os.open(f"/proc/self/fd/{self._control_fd}", os.O_RDONLY | os.O_CLOEXEC)

    def index_fd(self):
        """A new read-only descriptor of the current index, owned by the caller."""
        return check(ia_index_reader_fd(self.index), "index")

    @property
    def total_segments(self):
        return self.control.total_segments

    def get(self, bytes key not None):
        """``(location, length, object_size, version_hash, checked_ms, verified)`` or None."""
        cdef uint64_t[2] k
        cdef ia_entry entry
        load_key(key, k)
        if not ia_index_get(self.index, k, &entry):
            return None
        return (dump_location(&entry.at), entry.at.length, entry.object_size, entry.version,
                entry.checked_ms, entry.state == IA_LIVE)

    def remove(self, bytes key not None, bytes location=None):
        """Removes the key's entry, if it still stands at ``location``; whether there was one."""
        cdef uint64_t[2] k
        cdef ia_location at
        load_key(key, k)
        if location is None:
            return ia_index_remove(self.index, k, NULL) == 1
        load_location(location, &at)
        return ia_index_remove(self.index, k, &at) == 1

    def touch(self, bytes key not None, bytes location not None, uint64_t checked_ms, bint verified):
        """Notes that the version was current at ``checked_ms``, and that the CRCs were right."""
        cdef uint64_t[2] k
        cdef ia_location at
        load_key(key, k)
        load_location(location, &at)
        return ia_index_touch(self.index, k, &at, checked_ms, verified) == 1

    def forget(self, uint32_t shard, uint32_t segment):
        """Forgets all blocks of a segment; returns its new generation."""
        return ia_index_forget(self.index, shard, segment)

    def usage(self):
        """``(blocks, bytes)`` that the index holds."""
        cdef ia_index_usage_t usage = ia_index_usage(self.index)
        return usage.blocks, usage.bytes

    def shard_usage(self, uint32_t shard):
        """``(blocks, bytes)`` that the index holds in one shard."""
        cdef ia_index_usage_t usage = ia_index_shard_usage(self.index, shard)
        return usage.blocks, usage.bytes

    def segment_usage(self, uint32_t shard, uint32_t segment):
        """``(blocks, bytes)`` that the index holds in one segment."""
        cdef ia_index_usage_t usage = ia_index_segment_usage(self.index, shard, segment)
        return usage.blocks, usage.bytes


cdef struct Append:
    ia_block block
    ia_location at
    Py_buffer data
    bint loaded  # `data` is to be released
    int result


cdef class Writer:
    """One open segment: ``append`` writes a block and publishes it. Any number of threads.

    ``sequence`` is that of a new segment, or None to go on with the one that stands there.
    """

    cdef ia_writer *writer
    cdef uint32_t shard, segment, generation

    def __cinit__(self, int fd, uint64_t start, uint32_t size, sequence,
                  uint32_t shard, uint32_t segment, uint32_t generation):
        cdef ia_extent at = ia_extent(fd, size, start)
        cdef bint resume = sequence is None
        cdef uint64_t number = 0 if resume else sequence
        cdef int result
        self.shard, self.segment, self.generation = shard, segment, generation
        with nogil:
            if resume:
                result = ia_writer_resume(at, &self.writer)
            else:
                result = ia_writer_open(at, number, &self.writer)
        check(result, "segment header")

    def __dealloc__(self):
        ia_writer_close(self.writer)

    @property
    def room(self):
        """Bytes that are free between the headers and the data."""
        return ia_writer_room(self.writer)

    def prefix(self):
        """What all URLs in the segment begin with."""
        cdef char[IA_SEGMENT_HEADER_SIZE] buffer
        cdef uint32_t length = ia_writer_prefix(self.writer, buffer)
        return buffer[:length].decode("utf-8", "ignore")

    def append(self, Index index, bytes key not None, str url not None, str version not None,
               uint64_t object_size, uint64_t object_offset, uint64_t checked_ms, uint64_t sequence,
               data):
        """Writes a block and, unless ``index`` is None, publishes it there.

        Returns its location, or None when the segment is full. The bytes of ``data`` must not
        change meanwhile.
        """
        block = key, url, version, object_size, object_offset, checked_ms, sequence, data
        outcome, = self.append_all(index, [block])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def append_all(self, Index index, blocks):
        """`append` for each tuple of its arguments; the GIL is let go once. An error is returned in place."""
        cdef Py_ssize_t count = len(blocks)
        cdef Py_ssize_t n
        cdef list texts = []  # of which the appends have pointers
        cdef list outcomes = [None] * count
        cdef ia_index *publish = index.index if index is not None else NULL
        cdef Append *appends = <Append *>calloc(max(count, 1), sizeof(Append))
        if appends == NULL:
            raise MemoryError
        try:
            for n in range(count):
                try:
                    load_append(&appends[n], blocks[n], texts)
                except Exception as error:
                    outcomes[n] = error
            with nogil:
                for n in range(count):
                    if appends[n].loaded:
                        self.run(&appends[n], publish)
            for n in range(count):
                if not appends[n].loaded:
                    continue
                try:
                    if check(appends[n].result, blocks[n][1]) != IA_SEGMENT_FULL:
                        outcomes[n] = dump_location(&appends[n].at)
                except OSError as error:
                    outcomes[n] = error
        finally:
            for n in range(count):
                if appends[n].loaded:
                    PyBuffer_Release(&appends[n].data)
            free(appends)
        return outcomes

    cdef void run(self, Append *append, ia_index *publish) noexcept nogil:
        cdef ia_entry entry
        cdef ia_block *block = &append.block
        append.result = ia_writer_append(self.writer, block, append.data.buf)
        memset(&entry, 0, sizeof(entry))
        entry.at.shard = <uint16_t>self.shard
        entry.at.from_store = 1
        entry.at.segment = self.segment
        entry.at.generation = self.generation
        entry.at.offset = block.data_offset
        entry.at.length = block.length
        append.at = entry.at
        if append.result == 0 and publish != NULL:
            entry.key[0] = block.key[0]
            entry.key[1] = block.key[1]
            entry.version = ia_version_hash(block.version, block.version_len)
            entry.object_size = block.object_size
            entry.checked_ms = block.checked_ms
            entry.state = IA_LIVE
            append.result = ia_index_put(publish, &entry)


cdef int load_append(Append *append, tuple arguments, list texts) except -1:
    cdef ia_block *block = &append.block
    key, url, version, object_size, object_offset, checked_ms, sequence, data = arguments
    cdef bytes url_bytes = url.encode("utf-8", "surrogateescape")
    cdef bytes version_bytes = version.encode()
    if len(url_bytes) > <Py_ssize_t>IA_MAX_URL or len(version_bytes) > <Py_ssize_t>IA_MAX_VERSION:
        raise ValueError(f"URL or version too long to cache: {url[:200]}")
    texts.append((url_bytes, version_bytes))
    load_key(key, block.key)
    block.sequence = sequence
    block.object_size = object_size
    block.object_offset = object_offset
    block.checked_ms = checked_ms
    block.url = PyBytes_AS_STRING(url_bytes)
    block.url_len = <uint16_t>len(url_bytes)
    block.version = PyBytes_AS_STRING(version_bytes)
    block.version_len = <uint16_t>len(version_bytes)
    PyObject_GetBuffer(data, &append.data, PyBUF_SIMPLE)
    if append.data.len > <Py_ssize_t>IA_BLOCK_SIZE:
        PyBuffer_Release(&append.data)
        raise ValueError(f"a block has at most {IA_BLOCK_SIZE} bytes")
    block.length = <uint32_t>append.data.len
    append.loaded = True
    return 0


def file_size(int fd):
    """Bytes of an open file; with the GIL held, since ``fstat`` takes less than to get it back."""
    cdef struct_stat status
    if fstat(fd, &status) != 0:
        raise OSError(errno.EBADF, f"{os.strerror(errno.EBADF)}: descriptor {fd}")
    return status.st_size


def probe_segment(int fd, uint64_t start, uint32_t size):
    """``(sequence, prefix)`` of the segment at ``start``, or None if none was ever written."""
    cdef ia_extent at = ia_extent(fd, size, start)
    cdef ia_segment_header header
    cdef int result
    with nogil:
        result = ia_segment_probe(at, &header)
    if check(result, "segment header") == 0:
        return None
    return header.sequence, (<const char *>header.prefix)[:header.prefix_len].decode("utf-8", "ignore")


cdef struct recovery:
    ia_index *index
    uint32_t shard, segment, generation
    uint64_t blocks, newest


cdef int recover_block(void *context, const ia_block *block, uint32_t header_offset) noexcept nogil:
    cdef recovery *r = <recovery *>context
    cdef ia_entry entry
    if block.sequence > r.newest:
        r.newest = block.sequence
    if block.dead:
        return 0
    memset(&entry, 0, sizeof(entry))
    entry.key[0] = block.key[0]
    entry.key[1] = block.key[1]
    entry.version = ia_version_hash(block.version, block.version_len)
    entry.object_size = block.object_size
    entry.checked_ms = block.checked_ms
    entry.at.shard = <uint16_t>r.shard
    entry.at.segment = r.segment
    entry.at.generation = r.generation
    entry.at.offset = block.data_offset
    entry.at.length = block.length
    entry.state = IA_UNVERIFIED
    r.blocks += 1
    return ia_index_recover(r.index, &entry)


def recover_segment(Index index not None, int fd, uint64_t start, uint32_t size,
                    uint32_t shard, uint32_t segment, uint32_t generation):
    """Publishes every block of a segment, unverified; returns ``(blocks, highest sequence)``.

    Of several copies of a block the one that was checked last is kept, or of two checked at once the
    one recovered last; so segments are to be recovered in the order of their sequence.
    """
    cdef ia_extent at = ia_extent(fd, size, start)
    cdef recovery r = recovery(index.index, shard, segment, generation, 0, 0)
    cdef int result
    with nogil:
        result = ia_segment_walk(at, recover_block, &r)
    check(result, f"segment {segment}")
    return r.blocks, r.newest


# The headers of a segment, each as struct ia_block, URL and version: copied while the GIL is let go.
cdef struct gathered:
    char *data
    size_t used, room


cdef int gather_block(void *context, const ia_block *block, uint32_t header_offset) noexcept nogil:
    cdef gathered *g = <gathered *>context
    cdef size_t need = sizeof(ia_block) + block.url_len + block.version_len
    cdef char *grown
    if g.room - g.used < need:
        grown = <char *>realloc(g.data, 2 * g.room + need)
        if grown == NULL:
            return -ENOMEM
        g.data = grown
        g.room = 2 * g.room + need
    memcpy(g.data + g.used, block, sizeof(ia_block))
    memcpy(g.data + g.used + sizeof(ia_block), block.url, block.url_len)
    memcpy(g.data + g.used + sizeof(ia_block) + block.url_len, block.version, block.version_len)
    g.used += need
    return 0


def list_segment(int fd, uint64_t start, uint32_t size):
    """The block headers of a segment, in order of publication.

    Each is ``(key, url, version, object_size, object_offset, data_offset, length, checked_ms,
    sequence, dead)``.
    """
    cdef ia_extent at = ia_extent(fd, size, start)
    cdef gathered g = gathered(NULL, 0, 0)
    cdef ia_block block
    cdef const char *names
    cdef size_t here = 0
    cdef int result
    found = []
    try:
        with nogil:
            result = ia_segment_walk(at, gather_block, &g)
        check(result, "block headers")
        while here < g.used:
            memcpy(&block, g.data + here, sizeof(ia_block))
            names = g.data + here + sizeof(ia_block)
            here += sizeof(ia_block) + block.url_len + block.version_len
            found.append((
                PyBytes_FromStringAndSize(<const char *>block.key, 16),
                names[:block.url_len].decode("utf-8", "surrogateescape"),
                names[block.url_len:block.url_len + block.version_len].decode("utf-8", "replace"),
                block.object_size, block.object_offset, block.data_offset, block.length,
                block.checked_ms, block.sequence, block.dead != 0))
    finally:
        free(g.data)
    return found


def kill_blocks(int fd, uint64_t start, uint32_t size, list blocks not None):
    """Marks ``(key, data offset)`` blocks dead on disk, so that a restart does not bring them back.

    Older copies in the segment are marked too. Returns how many headers were marked.
    """
    cdef ia_extent at = ia_extent(fd, size, start)
    cdef size_t count = <size_t>len(blocks), i
    cdef int result
    cdef ia_victim *victims = <ia_victim *>malloc((count + 1) * sizeof(ia_victim))
    if victims == NULL:
        raise MemoryError
    try:
        for i in range(count):
            key, offset = blocks[i]
            load_key(key, victims[i].key)
            victims[i].data_offset = offset
        with nogil:
            result = ia_segment_kill(at, victims, count)
    finally:
        free(victims)
    return check(result, "block header")


def verify_block(int fd, uint64_t start, uint32_t size, bytes key not None, uint64_t version,
                 uint32_t data_offset, uint32_t length):
    """Whether the block's CRCs are right."""
    cdef ia_extent at = ia_extent(fd, size, start)
    cdef uint64_t[2] k
    cdef int result
    load_key(key, k)
    with nogil:
        result = ia_block_verify(at, k, version, data_offset, length)
    return check(result, "block data") == 1


def client_page(uint32_t segment_count):
    """The first bytes of a client's page for that many segments; a byte a segment follows them."""
    cdef ia_client_page page
    memset(&page, 0, sizeof(page))
    page.magic = IA_CLIENT_MAGIC
    page.format = IA_FORMAT
    page.segment_count = segment_count
    return PyBytes_FromStringAndSize(<const char *>&page, sizeof(page))
