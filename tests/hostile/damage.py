"""Files damaged at random: headers, lengths, types, text, numbers, as disks, networks and careless scripts leave them.

Every function takes the sound bytes and a source of chance, and returns the damaged bytes.
"""

from __future__ import annotations

import gzip
import io
import json
import pickle
import random
import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import torch

# Fields of a NIfTI-1 header: offset, format, number of values.
HEADER = {
    "sizeof_hdr": (0, "i", 1), "dim": (40, "h", 8), "intent": (68, "h", 1), "datatype": (70, "h", 1),
    "bitpix": (72, "h", 1), "pixdim": (76, "f", 8), "vox_offset": (108, "f", 1), "scl_slope": (112, "f", 1),
    "scl_inter": (116, "f", 1), "units": (123, "b", 1), "qform_code": (252, "h", 1), "sform_code": (254, "h", 1),
    "quaternion": (256, "f", 3), "qoffset": (268, "f", 3), "srow": (280, "f", 12), "magic": (344, "i", 1),
}  # fmt: skip
WHOLE = (-32768, -1, 0, 1, 2, 3, 7, 16, 64, 128, 255, 1002, 1006, 1007, 2304, 32767)
REAL = (float("nan"), float("inf"), float("-inf"), -1.0, 0.0, 1e-38, 1e-12, 1e6, 3e38, 352.5)
WORDS = ("nan", "-inf", "1e999", "-1", "0", "99999999", "0.5", "", "x", "../x", "1,5")
JUNK = (
    *(b"", b"\x00", b"\xff", b"\n", b",", b'"', b"{", b"]", b"null", b"nan", b"-inf", b"1e999", b"../", b"x"),
    "ü".encode(),
)
TAGS = (
    *("Rows", "Columns", "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "NumberOfFrames"),
    *("SeriesInstanceUID", "Modality", "ImageType", "BitsAllocated", "SamplesPerPixel", "FrameOfReferenceUID"),
)
TEXT = (".csv", ".txt", ".fcsv", ".tfm", ".tsv")
ITK = (".mha", ".nrrd")


class Thief:
    """An object whose pickle runs a command."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('code of a file was run')",))


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


def voxels(data: bytes, chance: random.Random) -> bytes:
    """A sound header with voxels that are not finite, extreme, or all the same."""
    raw = bytearray(gzip.decompress(data))
    count = int(np.prod([max(1, n) for n in struct.unpack_from("<8h", raw, 40)[1:]], dtype=np.int64))
    values = np.random.default_rng(chance.randrange(1 << 30)).normal(0, 100, count).astype(np.float32)
    values[:: chance.choice([1, 7, count])] = chance.choice(REAL)
    struct.pack_into("<2h", raw, 70, 16, 32)  # float32
    start = int(struct.unpack_from("<f", raw, 108)[0])
    return gzip.compress(bytes(raw[:start]) + values.tobytes(), mtime=0)


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


def numbers(data: bytes, chance: random.Random) -> bytes:
    """One or two of the first numbers in a text, or in the text header of an ITK image, become other words."""
    for _ in range(chance.randint(1, 2)):
        found = list(re.finditer(rb"-?\d+(\.\d+)?", data[:600]))
        if found:
            place = chance.choice(found)
            data = data[: place.start()] + chance.choice(WORDS).encode() + data[place.end() :]
    return data


def arrays(data: bytes, chance: random.Random) -> bytes:
    """An npz file with another array: not finite, of another shape or type, or with a header that promises GBs."""
    with np.load(io.BytesIO(data)) as archive:
        array = next(iter(archive.values()))
    stream = io.BytesIO()
    kind = chance.randrange(6)
    if kind == 0:
        array = array.copy()
        array.flat[:: chance.choice([1, 97])] = chance.choice(REAL)
    array = (array, array[:-1], array.astype(complex), np.zeros((3, 0, 4, 4)), np.array([Thief()]), np.array("x"))[kind]
    np.savez(stream, array)
    content = stream.getvalue()
    if chance.random() < 0.3:
        content = re.sub(rb"'shape': \(\d", b"'shape': (9", content)
    return content


def weights(data: bytes, chance: random.Random) -> bytes:
    """A checkpoint whose tensors are not finite, missing, renamed, of another shape or type, or that runs code."""
    state = torch.load(io.BytesIO(data), weights_only=True)
    if not isinstance(state, dict):
        return spliced(data, chance)
    name = chance.choice([k for k, v in state.items() if torch.is_tensor(v)] or list(state))
    tensor, kind = state.get(name), chance.randrange(8)
    if kind == 0:
        state[name] = torch.full_like(tensor.float(), chance.choice(REAL))
    elif kind == 1:
        del state[name]
    elif kind == 2:
        state[name + ".x"] = state.pop(name)
    elif kind == 3:
        state[name] = torch.zeros(3, 2)
    elif kind == 4:
        state[name] = chance.choice([None, "x", 3, [tensor]])
    elif kind == 5:
        state = dict(enumerate(state.values()))
    elif kind == 6:
        state = chance.choice([[], 5, torch.zeros(2), {"state_dict": 3}])
    stream = io.BytesIO()
    if kind == 7:
        return pickle.dumps(Thief())
    torch.save(state, stream)
    return stream.getvalue()


def tag(data: bytes, chance: random.Random) -> bytes:
    """One element of the header of a DICOM slice is gone, or has another value."""
    slice_ = pydicom.dcmread(io.BytesIO(data))
    name = chance.choice([t for t in TAGS if t in slice_])
    kind = slice_[name].VR
    if chance.random() < 0.3:
        del slice_[name]
    elif kind in ("US", "IS"):
        setattr(slice_, name, chance.choice([0, 1, 2, 7, 65535]))
    elif kind == "DS":
        few = [chance.choice([0, -1, 1e-9, 1e9, 3.5]) for _ in range(chance.choice([1, 2, 3, 6]))]
        setattr(slice_, name, few)
    else:
        setattr(slice_, name, chance.choice(["1.2.3", "SEG", "LOCALIZER", "x"]))
    stream = io.BytesIO()
    slice_.save_as(stream, enforce_file_format=False)
    return stream.getvalue()


def damaged(source: Path, target: Path, chance: random.Random) -> str:
    """Writes a damaged copy of a file, or of a folder with one file damaged or missing; returns what was done."""
    if source.is_dir():
        target.mkdir()
        for path in source.iterdir():
            (target / path.name).write_bytes(path.read_bytes())
        one = chance.choice(sorted(target.iterdir()))
        if chance.random() < 0.2:
            one.unlink()
            return f"{one.name} is missing"
        return damaged(source / one.name, one, chance)
    data, name = source.read_bytes(), source.name
    ways: list[Callable] = [shortened, spliced, foreign]
    if name.endswith(".nii.gz"):
        ways = [nifti] * 6 + [voxels] * 2 + [inner, *ways]
    elif name.endswith(".json"):
        ways = [values] * 3 + ways
    elif name.endswith(TEXT):
        ways = [numbers] * 3 + [spliced] * 2 + ways
    elif name.endswith(ITK):
        ways = [numbers] * 4 + ways
    elif name.endswith(".npz"):
        ways = [arrays] * 4 + ways
    elif name.endswith(".pt"):
        ways = [weights] * 5 + ways
    elif name.endswith(".dcm"):
        ways = [tag] * 5 + ways
    way = chance.choice(ways)
    target.write_bytes(way(data, chance))
    return f"{name}: {way.__name__}"
