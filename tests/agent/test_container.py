"""The process of a container, by the container's id."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mirror.agent.container import Candidate, ContainerNotFound, choose, find, holds, is_inside, parse_pids, parse_stat
from mirror.protocol import messages as m
from tests.agent.actors import WRITE_TITLE, listen_agent, needs_root

ID = "3f2a" * 16
OTHER = "77aa" * 16
REAL = secrets.token_hex(32)
"""Of the cgroup that is made here: another run of the tests has another one."""


@pytest.mark.parametrize(
    "cgroup",
    [
        f"0::/kubepods/besteffort/pod1-2/{ID}",
        f"0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice/cri-containerd-{ID}.scope",
        f"0::/../../kubepods/burstable/pod1-2/{ID}",
        f"0::/../cri-containerd-{ID}.scope",
        f"0::/kubepods.slice/kubepods-pod1.slice/crio-{ID}.scope",
        f"0::/kubepods.slice/kubepods-pod1.slice/crio-{ID}.scope/container",
        f"0::/system.slice/docker-{ID}.scope",
        f"0::/system.slice/docker-{ID}.scope/init.scope",
        f"0::/user.slice/user-1.slice/user.slice/libpod-{ID}.scope/container",
        f"0::/system.slice/containerd.service/kubepods-besteffort-pod1.slice:cri-containerd:{ID}",
        f"12:pids:/docker/{ID}\n11:memory:/docker/{ID}\n1:name=systemd:/docker/{ID}\n0::/docker/{ID}\n",
        f"4:cpu,cpuacct:/kubepods/pod1/{ID}\n0::/\n",
        f"0::/docker/{OTHER}/kubelet/kubepods/pod1/{ID}",
    ],
)
def test_cgroups_of_the_containers_processes(cgroup: str) -> None:
    assert is_inside(cgroup, ID)


@pytest.mark.parametrize(
    "cgroup",
    [
        "",
        "0::/",
        f"0::/kubepods/besteffort/pod1-2/{OTHER}",
        f"0::/kubepods.slice/kubepods-pod1.slice/crio-conmon-{ID}.scope",
        f"0::/machine.slice/libpod-conmon-{ID}.scope",
        f"0::/kubepods/pod1/{ID}0",
        f"0::/kubepods/pod1/0{ID}",
        f"0::/kubepods/pod1/{ID[:-1]}",
        f"0::/kubepods/pod{ID}x/{OTHER}",
        f"1:name={ID}:/",
    ],
)
def test_cgroups_of_others(cgroup: str) -> None:
    assert not is_inside(cgroup, ID)


@pytest.mark.parametrize(
    ("first", "others"),
    [
        pytest.param(
            Candidate(50, (50, 1), 900), [Candidate(40, (40, 20), 800), Candidate(99, (99, 21), 950)], id="exec'd"
        ),
        pytest.param(Candidate(50, (50, 1), 900), [Candidate(70, (70, 30, 1), 500)], id="a container inside"),
        pytest.param(Candidate(60, (60, 8), 100), [Candidate(40, (40, 20), 800)], id="none is number 1: the oldest"),
    ],
)
def test_the_process_with_which_it_began(first: Candidate, others: list[Candidate]) -> None:
    assert choose([*others, first]) == choose([first, *others]) == first


def test_parsing_of_proc() -> None:
    assert parse_pids("Name:\tsh\nNSpid:\t4021\t7\t1\nVmPeak:\t1 kB\n") == (4021, 7, 1)
    assert parse_pids("Name:\tNSpid: 5\n") == ()
    assert parse_stat("7 (a) b) Z 1 (2) S" + " 0" * 30) == ("S", 0)
    assert parse_stat(Path("/proc/self/stat").read_text())[0] == "R"


class Proc:
    """A folder like /proc."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, pid: int, container: str, *, inner: int = 1, started: int = 1, state: str = "S") -> None:
        process = self.folder / str(pid)
        process.mkdir()
        fields = [str(pid), "(x y)", state, *["0"] * 18, str(started), "0"]
        (process / "stat").write_text(" ".join(fields))
        (process / "status").write_text(f"NSpid:\t{pid}\t{inner}\n")
        (process / "cgroup").write_text(f"0::/../kubepods/pod1/{container}\n")


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    (tmp_path / "self").mkdir()
    (tmp_path / "13").mkdir()  # has ended meanwhile: nothing can be read
    return Proc(tmp_path)


def test_it_is_found_among_others(proc: Proc) -> None:
    proc.add(20, OTHER)
    proc.add(30, ID, inner=44, started=5)
    proc.add(31, ID, inner=1, started=9)
    assert find(ID, wait_s=0, proc=str(proc.folder)) == 31


def test_what_has_ended_is_passed_over(proc: Proc) -> None:
    proc.add(30, ID, state="Z")
    with pytest.raises(ContainerNotFound, match=f"no process of container {ID} can be seen.*hostPID"):
        find(ID, wait_s=0, proc=str(proc.folder))
    proc.add(31, ID, inner=5)
    assert find(ID, wait_s=0, proc=str(proc.folder)) == 31


def test_a_container_that_is_being_started_is_waited_for(proc: Proc, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[str] = []
    listed = os.listdir

    def look(folder: str) -> list[str]:
        looks.append(folder)
        if len(looks) == 3:
            proc.add(30, ID)
        return listed(folder)

    monkeypatch.setattr("mirror.agent.container.os.listdir", look)
    assert find(ID, wait_s=60, proc=str(proc.folder)) == 30
    assert len(looks) == 3


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A cgroup with a container's name, as a runtime makes it."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    own = {line.split(":")[1]: line.split(":", 2)[2] for line in Path("/proc/self/cgroup").read_text().splitlines()}
    for _, point, kind, options, *_ in mounts:
        controller = "" if kind == "cgroup2" else "pids" if "pids" in options.split(",") else None
        if kind not in ("cgroup", "cgroup2") or controller not in own:
            continue
        folder = Path(point + own[controller]) / f"docker-{REAL}.scope"
        try:
            folder.mkdir()
        except OSError:
            continue
        yield folder
        folder.rmdir()
        return
    pytest.skip("no cgroup can be made here")


_PROGRAM = """
import ctypes, sys
print("there", flush=True)
for line in sys.stdin:
    print(eval(line), flush=True)
"""


class Container:
    """Number 1 of a pid namespace in a cgroup with a container's name, and a process that came into it later."""

    def __init__(self, cgroup: Path, processes: list[subprocess.Popen[bytes]], bundle: Path) -> None:
        for prefix in ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"], []:
            process = subprocess.Popen(
                [*prefix, sys.executable, "-c", _PROGRAM],
                env={**os.environ, "WHOSE": "first" if prefix else "later"},
                cwd=bundle,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            processes.append(process)
            assert process.stdout is not None
            assert process.stdout.readline() == b"there\n"
        unshare, later = self._processes = processes
        self.first_pid = int(Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children").read_text())
        for pid in later.pid, self.first_pid:
            (cgroup / "cgroup.procs").write_text(str(pid))

    def evaluate(self, expression: str) -> bytes:
        """What it is in the first process, as text."""
        process = self._processes[0]
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(expression.encode() + b"\n")
        process.stdin.flush()
        return process.stdout.readline()


@pytest.fixture
def container(cgroup: Path, tmp_path: Path) -> Iterator[Container]:
    processes: list[subprocess.Popen[bytes]] = []
    bundle = tmp_path / REAL
    bundle.mkdir()
    (bundle / "config.json").write_text('{"process": {"env": ["WHOSE=recorded"]}}')
    try:
        yield Container(cgroup, processes, bundle)
    finally:
        for process in processes:
            process.communicate()


@needs_root
def test_the_first_process_of_a_real_container(container: Container) -> None:
    assert find(REAL, wait_s=0) == container.first_pid
    assert holds(REAL, container.first_pid)
    assert not holds(REAL, os.getpid())


@needs_root
@pytest.mark.parametrize("limit", [(), ("unshare", "--cgroup", "--")], ids=["plain", "in a cgroup namespace"])
async def test_an_agent_stands_in_for_a_container(container: Container, limit: tuple[str, ...]) -> None:
    with listen_agent("--container", f"containerd://{REAL}", "--grace", "0", limit=limit) as agent:
        async with agent.client() as client:
            answer = await client.peer.request(m.ReadEnvironment(), m.EnvironmentRead)
        assert await agent.wait() == (0, "")
    assert b"WHOSE=first" in answer.variables


@needs_root
async def test_the_environment_that_a_container_wrote_over_is_on_record(container: Container) -> None:
    """The parent of its first process works in its bundle's folder, as containerd's shim does."""
    assert container.evaluate(WRITE_TITLE.format(reach=100)) == b"True\n"
    with listen_agent("--container", REAL, "--grace", "0") as agent:
        async with agent.client() as client:
            answer = await client.peer.request(m.ReadEnvironment(), m.EnvironmentRead)
            await client.peer.request(m.StatFile(b"/", follow=True))
            assert client.notices == []
        assert await agent.wait() == (0, "")
    assert answer.variables == (b"WHOSE=recorded",)
