"""The environment of a container in its runtime's record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mirror.agent.record import find_bundle, parse, read_variables

ID = "3f2a" * 16
OTHER = "77aa" * 16
VARIABLES = ("PATH=/bin", "LINES=a\nb", "NAME=ü", "EMPTY=")
RECORDED = tuple(variable.encode() for variable in VARIABLES)


class Machine:
    """A folder like /proc, and bundles beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.proc = str(folder / "proc")

    def add(self, pid: int, parent: int, *, container: str = "", arguments: tuple[str, ...] = ("x",)) -> Path:
        process = self.folder / "proc" / str(pid)
        process.mkdir(parents=True)
        (process / "stat").write_text(f"{pid} (x) y) S {parent} 0 0")
        (process / "cgroup").write_text(f"0::/kubepods/pod1/{OTHER}/crio-{container}.scope\n")
        (process / "cmdline").write_bytes(b"".join(argument.encode() + b"\0" for argument in arguments))
        return process

    def bundle(self, path: str) -> Path:
        folder = self.folder / path
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"process": {"env": VARIABLES}}))
        return folder


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_the_bundle_beside_that_of_the_shim(machine: Machine) -> None:
    """The shim of a pod works in the folder of the pod's first container."""
    machine.add(30, 20, container=ID)
    shim = machine.add(20, 1)
    machine.bundle(f"bundles/{ID}")
    (machine.folder / "bundles" / OTHER).mkdir()
    (shim / "cwd").symlink_to(machine.folder / "bundles" / OTHER)
    assert read_variables(30, proc=machine.proc) == RECORDED


def test_the_bundle_that_conmon_was_given(machine: Machine) -> None:
    machine.add(30, 20)
    conmon = machine.add(20, 1, arguments=("/usr/bin/conmon", "-c", ID, "-b", f"/run/{ID}/userdata", "-u", ID))
    (conmon / "cwd").symlink_to(machine.folder)
    (conmon / "root").symlink_to(machine.folder / "host")
    machine.bundle(f"host/run/{ID}/userdata")
    assert read_variables(30, proc=machine.proc) == RECORDED


def test_the_bundle_of_another_container_is_not_taken(machine: Machine) -> None:
    machine.add(30, 20, container=ID)
    shim = machine.add(20, 1)
    (shim / "cwd").symlink_to(machine.bundle(f"bundles/{OTHER}"))
    assert read_variables(30, proc=machine.proc) is None


def test_none_where_there_is_no_container(machine: Machine) -> None:
    machine.add(30, 0)
    assert read_variables(30, proc=machine.proc) is None
    assert read_variables(31, proc=machine.proc) is None


@pytest.mark.parametrize("config", [b"", b"[]", b"{}", b'{"process": {}}', b'{"process": null}', b"\xff"])
def test_a_record_that_says_nothing(config: bytes) -> None:
    assert parse(config) is None


def test_other_programs_arguments_name_no_bundle() -> None:
    assert find_bundle(["/usr/bin/containerd-shim-runc-v2", "-b", "/x"]) == ""
    assert find_bundle(["conmon", "-b"]) == ""
    assert find_bundle(["conmon", "--bundle", "/x", ""]) == "/x"
    assert find_bundle([""]) == ""
