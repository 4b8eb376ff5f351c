"""The part of HDF5 that a cache is made of, read without libhdf5, which damaged files make crash, hang or eat memory.

What `tle.cache.layout` writes needs few of the format's constructs, and those in one form each: a root group whose links
and attributes lie in fractal heaps with one-leaf B-trees, and object headers of version 2. Whatever else stands in a file
was put there by another program, and is refused or passed over. Every block is compared with its checksum before it is
believed, and nothing is read that does not lie inside the file.

Source: HDF5 File Format Specification 3.0, https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html; the
sections are named below. All numbers are little-endian; addresses and lengths have 8 bytes.
"""

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tle.cache.lookup3 import lookup3
from tle.errors import CacheError, one_line

SIGNATURE = b"\x89HDF\r\n\x1a\n"
UNDEFINED = (1 << 64) - 1
_SUPERBLOCK = struct.Struct("<8s4B4QI")
_HEAP = struct.Struct("<4sBHHBI12QHQQHHQHI")
_TREE = struct.Struct("<4sBBIHHBBQHQI")
_CHUNK_NODE = struct.Struct("<4sBBH2Q")
_CHUNK_ENTRY = struct.Struct("<IIQQQ")  # bytes, filters, first row, 0; address
_MAX_BLOCK = 1 << 16  # bytes of a block with a checksum; those of a cache are smaller
_MAX_READ = 1 << 23  # bytes of anything that is read at once, such as the description of a run
_MAX_RECORDS = 32  # links or attributes; a cache has 10 and 6
_MAX_LEVELS = 5  # of chunk B-trees; 3 are a million failures
_LINK_RECORD, _ATTRIBUTE_RECORD, _HUGE_RECORD = (5, 11), (8, 17), (1, 24)  # type and bytes of records of B-trees


@dataclass(frozen=True, slots=True)
class Attribute:
    """An attribute of the root group.

    Attributes:
        kind: its datatype message.
        data: its value as it is stored.
    """

    kind: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class Dataset:
    """What a dataset's header says; none of it is compared with anything yet.

    Attributes:
        shape: its dimensions.
        kind: its datatype message.
        layout: "contiguous", "chunked", "virtual", or "other".
        offset: where it begins, or where the B-tree of its chunks lies; UNDEFINED where it has no space.
        nbytes: of a contiguous one; of a chunk of a chunked one.
    """

    shape: tuple[int, ...]
    kind: bytes
    layout: str
    offset: int = UNDEFINED
    nbytes: int = 0


class Container:
    """An HDF5 file as `tle.cache.layout` makes them.

    Attributes:
        path: the file.
        size: its bytes.
        links: addresses of the objects in the root group by name; None for links that lead elsewhere.
    """

    def __init__(self, path: Path, fd: int) -> None:
        """Look at the file open at `fd`; its root group is read, datasets on request.

        Raises:
            CacheError: it is damaged, or not as `tle.cache.layout` makes them. All methods raise it.
        """
        self.path, self._fd, self.size = path, fd, os.fstat(fd).st_size
        messages = self._header(self._root(), "the root group")
        link_heap, link_tree = self._dense(messages, 0x02, "links")
        self._attribute_heap, self._attribute_tree = self._dense(messages, 0x15, "attributes")
        self.links: dict[str, int | None] = dict(map(self._link, self._objects(link_heap, link_tree, _LINK_RECORD)))

    def attributes(self) -> dict[str, Attribute]:
        """The attributes of the root group."""
        found = self._objects(self._attribute_heap, self._attribute_tree, _ATTRIBUTE_RECORD)
        return dict(map(self._attribute, found))

    def dataset(self, name: str) -> Dataset:
        """Read the header of a dataset whose link is a hard one."""
        address = self.links[name]
        assert address is not None  # noqa: S101 - the caller looked
        messages = self._header(address, f"/{name}")
        if not {0x01, 0x03, 0x08} <= messages.keys():
            raise CacheError(f"{self.path}: /{name} should be a dataset: was the file altered?")
        layout = messages[0x08]
        shape = self._shape(messages[0x01], f"/{name}")
        if {0x07, 0x0B} & messages.keys():  # external files, filters
            return Dataset(shape, messages[0x03], "other")
        if layout[:2] == b"\3\1":
            return Dataset(shape, messages[0x03], "contiguous", *self._unpack("<QQ", layout, 2))
        if layout[:3] == b"\3\2\2":  # of 1 dimension, and that of the element's bytes
            offset, rows, item = self._unpack("<QII", layout, 3)
            return Dataset(shape, messages[0x03], "chunked", offset, rows * item)
        return Dataset(shape, messages[0x03], "virtual" if layout[:2] == b"\4\3" else "other")

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the file, all of which have to be there."""
        if length > _MAX_READ:
            raise self._foreign(f"{length:,} bytes in one piece")
        if offset + length > self.size:
            raise self._damaged(f"it has {self.size:,} bytes and points to {offset + length:,}")
        try:
            data = os.pread(self._fd, length, offset)
        except OSError as error:
            raise CacheError(f"{self.path} cannot be read: {one_line(error)}") from error
        if len(data) != length:
            raise CacheError(f"{self.path} changed while it was opened: try again")
        return data

    def chunks(self, dataset: Dataset, rows: int) -> list[int]:
        """Addresses of the chunks of a chunked dataset in their order, none of which overlap; each has some `rows`."""
        found: list[int] = []
        if dataset.offset != UNDEFINED:
            self._chunks(dataset.offset, _MAX_LEVELS, dataset.nbytes, rows, found)
        ordered = np.sort(np.array(found, np.uint64))
        if (np.diff(ordered) < dataset.nbytes).any():
            raise self._damaged("pieces of /failures overlap")
        return found

    def _chunks(self, address: int, levels: int, nbytes: int, rows: int, found: list[int]) -> None:
        """Collect chunks below a node (section III.A.1, version 1 B-trees, which have no checksums)."""
        signature, kind, level, used, _, _ = _CHUNK_NODE.unpack(self.read(address, _CHUNK_NODE.size))
        # A node is not empty and every entry begins where the one before ended: so none is met twice.
        sound = (signature, kind) == (b"TREE", 1) and level < levels and 0 < used <= 64
        entries = self.read(address + _CHUNK_NODE.size, used * _CHUNK_ENTRY.size) if sound else b""
        for stored, filters, first, _, child in _CHUNK_ENTRY.iter_unpack(entries):
            sound &= (stored, filters, first) == (nbytes, 0, len(found) * rows)
            if sound and level:
                self._chunks(child, level, nbytes, rows, found)
            elif sound:
                found.append(child)
        if not sound:
            raise self._damaged("the list of the pieces of /failures")

    def _root(self) -> int:
        """Address of the root group (section II.A, superblock)."""
        signature, version, offsets, lengths, flags, base, extension, end, root, seal = _SUPERBLOCK.unpack(
            self.read(0, _SUPERBLOCK.size)
        )
        if signature != SIGNATURE:
            raise self._damaged("its signature")
        if (version, offsets, lengths, base, extension) not in ((2, 8, 8, 0, UNDEFINED), (3, 8, 8, 0, UNDEFINED)):
            raise self._foreign(f"superblock {version}")
        self._check(self.read(0, _SUPERBLOCK.size - 4), seal, "superblock")
        if flags:
            raise self._foreign("its superblock says that a program is writing it")
        if end > self.size:
            raise CacheError(
                f"{self.path} is truncated, it should have {end:,} bytes and has {self.size:,}: copy or extract it again"
            )
        return int(root)

    def _header(self, address: int, what: str) -> dict[int, bytes]:
        """Messages of an object by type (section IV.A.1.b, version 2 object headers)."""
        start = self.read(address, 8)
        if start[:5] != b"OHDR\2":
            raise self._foreign(f"{what} should be an object of version 2")
        flags = start[5]
        begin = 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
        width = 1 << (flags & 3)
        length = int.from_bytes(self.read(address + begin, width), "little")
        block = self._block(address, begin + width + length + 4)
        messages: dict[int, bytes] = {}
        at, end, skip = begin + width, len(block) - 4, 6 if flags & 4 else 4
        while at + skip <= end:
            kind, size, shared = self._unpack("<BHB", block, at)
            data = block[at + skip : at + skip + size]
            at += skip + size
            if kind == 0x10 or at > end or (kind in messages and kind != 0x00):
                raise self._foreign(f"{what} has a header in several pieces")
            if not shared & 2:  # what is shared lies elsewhere, and is missed where it is needed
                messages[kind] = data
        return messages

    def _dense(self, messages: dict[int, bytes], kind: int, what: str) -> tuple[int, int]:
        """Addresses of the heap and of the B-tree of names (sections IV.A.2.c and IV.A.2.v)."""
        info = messages.get(kind, b"")
        if info[:1] != b"\0" or len(info) < 18:
            raise self._foreign(f"it keeps no {what} as caches do")
        order = (8 if kind == 0x02 else 2) if info[1] & 1 else 0
        heap, tree = self._unpack("<QQ", info, 2 + order)
        if UNDEFINED in (heap, tree):
            raise self._foreign(f"it keeps no {what} as caches do")
        return heap, tree

    def _objects(self, heap: int, tree: int, record: tuple[int, int]) -> list[bytes]:
        """All objects of a fractal heap that a B-tree lists (section III.G)."""
        block = self._block(heap, _HEAP.size)
        signature, version, id_bytes, filters, _, max_managed, *numbers = _HEAP.unpack(block)
        huge_tree, (width, first, largest, bits, _, root, rows, _) = numbers[1], numbers[12:]
        if (signature, version, filters) != (b"FRHP", 0, 0) or not 0 < width <= 64 or first < 64 or rows > 32:
            raise self._foreign("a heap of another kind")
        objects, offset_bytes = [], (bits + 7) // 8
        for entry in self._records(tree, *record):
            # Records of links end in the object's id, those of attributes begin with it.
            name = entry[-id_bytes:] if record == _LINK_RECORD else entry[:id_bytes]
            if name[:1] == b"\0":
                offset = int.from_bytes(name[1 : 1 + offset_bytes], "little")
                length = int.from_bytes(name[1 + offset_bytes :], "little")
                if length > max_managed:
                    raise self._damaged("an object larger than its heap allows")
                objects.append(self._managed(offset, length, (width, first, largest, offset_bytes, root, rows)))
            elif name[:1] == b"\x10":
                key = int.from_bytes(name[1:], "little")
                records = [struct.unpack("<QQQ", record) for record in self._records(huge_tree, *_HUGE_RECORD)]
                places = {found: (address, length) for address, length, found in records}
                if key not in places:
                    raise self._damaged("an attribute has no place")
                objects.append(self.read(*places[key]))
            else:
                raise self._foreign("an object of a heap of another kind")
        return objects

    def _managed(self, offset: int, length: int, heap: tuple[int, ...]) -> bytes:
        """An object in a direct block; rows of blocks double in size (section III.G, "doubling table")."""
        width, first, largest, offset_bytes, address, rows = heap
        size, begin = first, 0
        if rows:
            head = 13 + offset_bytes
            block = self._block(address, head + 8 * width * rows + 4, b"FHIB")
            for child in range(width * rows):
                size = first << max(child // width - 1, 0)
                if size > largest:
                    raise self._foreign("a heap of several levels")
                if offset < begin + size:
                    (address,) = self._unpack("<Q", block, head + 8 * child)
                    break
                begin += size
        inside = offset - begin
        head = 13 + offset_bytes
        block = self._block(address, size, b"FHDB", seal_at=head)
        if not head + 4 <= inside <= inside + length <= size:
            raise self._damaged("an object outside its heap")
        return block[inside : inside + length]

    def _records(self, address: int, kind: int, nbytes: int) -> list[bytes]:
        """Records of a B-tree that has one leaf (section III.A.2, version 2 B-trees)."""
        block = self._block(address, _TREE.size)
        signature, version, found, _, size, depth, _, _, leaf, n, total, _ = _TREE.unpack(block)
        if (signature, version, found, size, depth) != (b"BTHD", 0, kind, nbytes, 0) or n != total or n > _MAX_RECORDS:
            raise self._foreign("a B-tree of another kind")
        if not n:
            return []
        block = self._block(leaf, 6 + n * size + 4, b"BTLF")
        return [block[6 + number * size : 6 + (number + 1) * size] for number in range(n)]

    def _link(self, message: bytes) -> tuple[str, int | None]:
        """Name and address (section IV.A.2.g, link messages)."""
        flags = message[1] if message[:1] == b"\1" and len(message) > 2 else 0xFF
        at = 2
        hard = not flags & 8 or message[at : at + 1] == b"\0"
        at += (1 if flags & 8 else 0) + (8 if flags & 4 else 0) + (1 if flags & 16 else 0)
        width = 1 << (flags & 3)
        length = int.from_bytes(message[at : at + width], "little")
        name = message[at + width : at + width + length]
        if flags == 0xFF or len(name) != length:
            raise self._damaged("a link")
        address = self._unpack("<Q", message, at + width + length)[0] if hard else None
        return name.decode("utf-8", "replace"), address

    def _attribute(self, message: bytes) -> tuple[str, Attribute]:
        """Name and content of one that holds a single value (section IV.A.2.m, attribute messages of version 3)."""
        version, flags, name_bytes, kind_bytes, space_bytes, _ = self._unpack("<BBHHHB", message, 0)
        at = 9 + name_bytes
        name = message[9:at].rstrip(b"\0").decode("utf-8", "replace")
        kind, at = message[at : at + kind_bytes], at + kind_bytes
        space, at = message[at : at + space_bytes], at + space_bytes
        if (version, flags) != (3, 0) or self._shape(space, f"attribute {name[:40]!r}"):
            raise self._foreign(f"its attribute {name[:40]!r} should be a single value")
        return name, Attribute(kind, message[at:])

    def _shape(self, message: bytes, what: str) -> tuple[int, ...]:
        """Dimensions (section IV.A.2.b, dataspace messages of version 2)."""
        version, rank, _, kind = self._unpack("<4B", message, 0)
        if version != 2 or rank > 2 or kind != (1 if rank else 0):
            raise self._foreign(f"{what} has a shape of another kind")
        return self._unpack(f"<{rank}Q", message, 4)

    def _block(self, address: int, length: int, signature: bytes = b"", *, seal_at: int | None = None) -> bytes:
        """A block whose checksum is right; it lies at the end, or at `seal_at` and is 0 where it is computed."""
        if length > _MAX_BLOCK:
            raise self._foreign(f"a block of {length:,} bytes")
        block = self.read(address, length)
        if not block.startswith(signature):
            raise self._damaged(f"no {signature.decode()} at {address}")
        at = length - 4 if seal_at is None else seal_at
        (seal,) = self._unpack("<I", block, at)
        self._check(block[:at] if seal_at is None else block[:at] + b"\0\0\0\0" + block[at + 4 :], seal, f"{address}")
        return block

    def _check(self, data: bytes, seal: int, what: str) -> None:
        if lookup3(data) != seal:
            raise self._damaged(f"wrong checksum of its header at {what}")

    def _unpack(self, form: str, data: bytes, at: int) -> tuple[Any, ...]:
        try:
            return struct.unpack_from(form, data, at)
        except struct.error as error:
            raise self._damaged("its header ends early") from error

    def _damaged(self, what: str) -> CacheError:
        return CacheError(f"{self.path} is damaged ({what}): extract it again")

    def _foreign(self, what: str) -> CacheError:
        return CacheError(f"{self.path} is not laid out as tle does it ({what}): was it changed by another program?")
