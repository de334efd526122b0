"""Files damaged by chance: headers, lengths, types, text; what a disk, a network or a careless script leaves."""

from __future__ import annotations

import gzip
import json
import random
import struct
from collections.abc import Callable
from pathlib import Path

# Fields of a NIfTI-1 header: offset, format, number of values.
HEADER = {
    "sizeof_hdr": (0, "i", 1), "dim": (40, "h", 8), "intent": (68, "h", 1), "datatype": (70, "h", 1),
    "bitpix": (72, "h", 1), "pixdim": (76, "f", 8), "vox_offset": (108, "f", 1), "scl_slope": (112, "f", 1),
    "scl_inter": (116, "f", 1), "units": (123, "b", 1), "qform_code": (252, "h", 1), "sform_code": (254, "h", 1),
    "quaternion": (256, "f", 3), "qoffset": (268, "f", 3), "srow": (280, "f", 12), "magic": (344, "i", 1),
}  # fmt: skip
WHOLE = (-32768, -1, 0, 1, 2, 3, 7, 16, 64, 128, 255, 1002, 1006, 1007, 2304, 32767)
REAL = (float("nan"), float("inf"), float("-inf"), -1.0, 0.0, 1e-38, 1e-12, 1e6, 3e38, 352.5)
JUNK = (
    b"",
    b"\x00",
    b"\xff",
    b"\n",
    b",",
    b'"',
    b"{",
    b"]",
    b"null",
    b"nan",
    b"-inf",
    b"1e999",
    b"../",
    b"x",
    "ü".encode(),
)


def nifti(data: bytes, chance: random.Random) -> bytes:
    """One to three fields of the header of a compressed NIfTI file get values that do not belong there."""
    raw = bytearray(gzip.decompress(data))
    for _ in range(chance.randint(1, 3)):
        start, kind, count = HEADER[chance.choice(list(HEADER))]
        place = start + struct.calcsize(kind) * chance.randrange(count)
        limit = 2 ** (8 * struct.calcsize(kind) - 1)
        value = chance.choice(REAL) if kind == "f" else max(-limit, min(limit - 1, chance.choice(WHOLE)))
        struct.pack_into(f"<{kind}", raw, place, value)
    return gzip.compress(bytes(raw), mtime=0)


def shortened(data: bytes, chance: random.Random) -> bytes:
    """The file ends too early, often within the header."""
    return data[: chance.choice([0, 1, chance.randrange(348), chance.randrange(len(data) + 1)])]


def spliced(data: bytes, chance: random.Random) -> bytes:
    """Junk over or between the bytes, in one to three places."""
    raw = bytearray(data)
    for _ in range(chance.randint(1, 3)):
        place = chance.randrange(len(raw) + 1)
        raw[place : place + chance.choice([0, 1, 1, 8, 200])] = chance.choice(JUNK)
    return bytes(raw)


def inner(data: bytes, chance: random.Random) -> bytes:
    """A sound gzip around damaged bytes."""
    return gzip.compress(chance.choice([shortened, spliced])(gzip.decompress(data), chance), mtime=0)


def foreign(data: bytes, chance: random.Random) -> bytes:
    """Another kind of file under this name."""
    return chance.choice(
        [b"<html>404 Not Found</html>", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n", chance.randbytes(400), b"\x1f\x8b\x08"]
    )


def values(data: bytes, chance: random.Random) -> bytes:
    """One value of a JSON document becomes another kind of value."""
    document = json.loads(data)
    holder, key = document, None
    while isinstance(holder, (dict, list)) and holder:
        key = chance.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        below = holder[key]
        if not isinstance(below, (dict, list)) or not below or chance.random() < 0.3:
            break
        holder = below
    if key is not None:
        holder[key] = chance.choice([None, -1, 1e308, True, "", "\x00", "x" * 5000, [], {}, [[]], {"a": {}}])
    return json.dumps(document).encode()


def damaged(source: Path, target: Path, chance: random.Random) -> str:
    """Writes a damaged copy of a file; returns what was done to it."""
    data, name = source.read_bytes(), source.name
    ways: list[Callable] = [shortened, spliced, foreign]
    if name.endswith(".nii.gz"):
        ways = [nifti] * 6 + [inner, *ways]
    elif name.endswith(".json"):
        ways = [values] * 3 + ways
    elif name.endswith((".csv", ".txt", ".fcsv", ".tfm")):
        ways = [spliced] * 3 + ways
    way = chance.choice(ways)
    target.write_bytes(way(data, chance))
    return way.__name__
