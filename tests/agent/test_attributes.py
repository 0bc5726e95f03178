"""Attributes beyond those of os.stat, which test_files compares."""

from __future__ import annotations

import os
import time
from pathlib import Path

from mirror.agent import attributes

_ATTRIBUTE_MOUNT_ROOT = 0x2000
"""STATX_ATTR_MOUNT_ROOT, statx(2)."""


def test_the_birth_of_a_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "file"
    before_ns = time.time_ns() - 10**9  # the kernel's clock for files is coarse
    path.touch()
    os.utime(path, ns=(1, 2))
    described = attributes.of_path(os.fsencode(path), follow=True)
    assert (described.atime_ns, described.mtime_ns) == (1, 2)
    if described.btime_ns:  # some file systems keep none, or say 0
        assert before_ns < described.btime_ns <= time.time_ns()


def test_a_mount_is_told_by_its_number_and_its_root() -> None:
    root, proc = (attributes.of_path(path, follow=True) for path in (b"/", b"/proc"))
    assert root.mnt_id != proc.mnt_id
    assert proc.attributes_mask & proc.attributes & _ATTRIBUTE_MOUNT_ROOT


def test_a_descriptor_and_its_path_are_described_alike(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_PATH)
    try:
        assert attributes.of_descriptor(fd) == attributes.of_path(os.fsencode(tmp_path), follow=False)
    finally:
        os.close(fd)
