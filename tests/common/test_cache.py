"""The cache on disk returns the stored value or nothing."""

from __future__ import annotations

import os

import pytest
import torch

from scripts.common.cache import DiskCache
from scripts.common.files import BESIDE

VALUE = {"labels": torch.arange(2000, dtype=torch.int16).reshape(40, 50), "names": ["a", "ü"], "score": [0.5, None]}


def entries(folder) -> list:
    return sorted(folder.glob("*.cache"))


def test_values_come_back_in_another_process_of_the_same_cache(tmp_path):
    DiskCache(tmp_path / "deep" / "c").write("ab12", VALUE)
    found = DiskCache(tmp_path / "deep" / "c").read("ab12")
    assert torch.equal(found.pop("labels"), VALUE["labels"])
    assert found == {"names": ["a", "ü"], "score": [0.5, None]}
    assert DiskCache(tmp_path / "deep" / "c").read("ab13") is None


@pytest.mark.parametrize("place", [0.0, 0.3, 0.5, 0.8, 0.999])
def test_a_flipped_bit_is_detected_and_the_entry_is_made_again(tmp_path, place):
    """A flipped bit in the stored values is invisible to torch.load; only the checksum shows it."""
    cache = DiskCache(tmp_path)
    cache.write("ab12", VALUE)
    (path,) = entries(tmp_path)
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 4
    path.write_bytes(bytes(content))
    assert cache.read("ab12") is None
    assert not entries(tmp_path)
    cache.write("ab12", VALUE)
    assert torch.equal(cache.read("ab12")["labels"], VALUE["labels"])


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"x" * 5000])
def test_shortened_and_foreign_files_count_as_absent(tmp_path, content):
    cache = DiskCache(tmp_path)
    cache.write("ab12", VALUE)
    entries(tmp_path)[0].write_bytes(content)
    assert cache.read("ab12") is None


def test_the_folder_is_bounded_and_the_longest_unused_go_first(tmp_path):
    cache = DiskCache(tmp_path, max_gb=35_000 / 1e9)
    (tmp_path / "mine.txt").write_text("not of the cache")
    for k in range(3):
        cache.write(f"{k}", torch.full((1000, 10), k, dtype=torch.uint8))
        os.utime(next(tmp_path.glob(f"{k}.*")), (k, k))
    assert cache.read("0") is not None  # is now the most recently used
    cache.write("3", torch.zeros(1000, 10, dtype=torch.uint8))
    assert [cache.read(str(k)) is not None for k in range(4)] == [True, False, True, True]
    assert sum(p.stat().st_size for p in entries(tmp_path)) <= 35_000
    assert (tmp_path / "mine.txt").exists()


def test_leftovers_of_a_killed_process_are_deleted_after_a_day(tmp_path):
    cache = DiskCache(tmp_path)
    for name, age in (("old", 200_000), ("new", 10)):
        part = tmp_path / f"{BESIDE}{name}"
        part.mkdir()
        (part / "ab").write_bytes(b"half")
        os.utime(part, (os.path.getmtime(tmp_path) - age,) * 2)
    cache.write("ab", 1)
    assert {p.name for p in tmp_path.glob(f"{BESIDE}*")} == {f"{BESIDE}new"}


def test_a_full_disk_turns_it_off_with_one_warning(tmp_path, monkeypatch, caplog):
    def full(value, stream):
        raise OSError(28, "No space left on device")

    cache = DiskCache(tmp_path)
    monkeypatch.setattr(torch, "save", full)
    cache.write("a", 1)
    cache.write("b", 1)
    assert caplog.text.count("cannot be written") == 1 and cache.read("a") is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("folder", "max_gb"), [(None, 4.0), ("c", 0.0)])
def test_a_cache_can_be_turned_off(tmp_path, folder, max_gb):
    cache = DiskCache(folder and tmp_path / folder, max_gb)
    cache.write("a", 1)
    assert cache.read("a") is None and list(tmp_path.iterdir()) == []


def test_an_entry_cannot_run_code(tmp_path):
    """Someone who can write into a shared cache folder gets no code executed."""

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    cache = DiskCache(tmp_path)
    cache.write("a", Evil())
    assert len(entries(tmp_path)) == 1
    assert cache.read("a") is None and not (tmp_path / "ran").exists()
