"""What a cluster could leave behind on this machine, listed, so that before and after can be compared.

Other programs come and go meanwhile, the other tests' cluster among them. So of processes, cgroups and temporary files
those are listed that a cluster could have made.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from tests.cluster.commands import found, run
from tests.cluster.node import cgroup_mounts
from tests.cluster.places import CACHE

FOLDERS = ("/run", "/run/netns", "/run/lock", "/var/lib", "/var/log", "/etc/cni", "/etc/cni/net.d", "/opt", "/dev")
TEMPORARY = ("/tmp", "/var/tmp")
SETTINGS = ("vm", "net", "kernel/panic", "kernel/panic_on_oops", "kernel/keys", "kernel/hostname")

MEASURED = re.compile(r"/conf/[^/]+/|/neigh/|/nf_conntrack_count|/nr_|/stat")
OURS = re.compile(r"^(mirror-cluster|kube|containerd|runc|etcd|cni|buildah|mmdebstrap|unshare)|/kubepods")
OTHER_CLUSTER = re.compile(r"/mirror-cluster(/|$)")

Traces = dict[str, set[str]]


def traces() -> Traces:
    """Everything, by kind."""
    return {
        "processes": set(_processes()),
        "mounts": {line.split(" ", 2)[2] for line in _lines("/proc/self/mountinfo")},
        "interfaces": set(os.listdir("/sys/class/net")),
        "routes": set(_printed("ip", "route", "show", "table", "all")),
        "addresses": set(_printed("ip", "-br", "address")),
        "firewall": set(_firewall()),
        "cgroups": set(_cgroups()),
        "files": set(_files()),
        "settings": set(_settings()),
        "profiles": set(_lines("/sys/kernel/security/apparmor/profiles")),
    }


def left_behind(before: Traces, limit: float = 60) -> Traces:
    """What is there now and was not before, and what other than processes is not there any more.

    Args:
        before: How it was.
        limit: Seconds within which all of it has gone, if it is somebody else's.
    """
    deadline = time.monotonic() + limit
    while True:
        now = traces()
        different = {kind: now[kind] ^ before[kind] for kind in now if kind != "processes"}
        different["processes"] = now["processes"] - before["processes"]
        different = {kind: names for kind, names in different.items() if names}
        if not different or time.monotonic() > deadline:
            return different
        time.sleep(0.2)


def _processes() -> Iterator[str]:
    """Those without a parent that are in another pid namespace than we are, or whose name says what they are.

    What is left of a cluster has no parent; what other programs have started has one.
    """
    own = os.readlink("/proc/self/ns/pid")
    for pid in os.listdir("/proc"):
        if pid.isdigit():
            try:
                arguments = Path("/proc", pid, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                parent = Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[1]
                cgroups, namespace = Path("/proc", pid, "cgroup").read_text(), os.readlink(f"/proc/{pid}/ns/pid")
            except OSError:  # ended meanwhile
                continue
            name = os.path.basename(arguments.partition(" ")[0])
            others = re.search(r":/mirror-cluster(/|\n)", cgroups)
            if parent == "1" and (namespace != own or OURS.match(name)) and not others:
                yield f"{pid} {arguments[:200]}"


def _cgroups() -> Iterator[str]:
    """The outermost ones, and everything in those that are a cluster's."""
    for top, *_ in cgroup_mounts():
        for folder, _, _ in os.walk(top):
            name = os.path.relpath(folder, top)
            if ("/" not in name or OURS.search(name)) and not OTHER_CLUSTER.match(f"/{name}"):
                yield folder


def _files() -> Iterator[str]:
    for folder in FOLDERS:
        yield from (f"{folder}/{name}" for name in _names(folder))
    for folder in TEMPORARY:
        yield from (f"{folder}/{name}" for name in _names(folder) if OURS.search(name))
    yield from (f"{CACHE}/{name}" for name in _names(str(CACHE)) if not name.endswith(".lock"))


def _firewall() -> Iterator[str]:
    """Without what counts packets."""
    for command in (["nft", "list", "ruleset"], ["iptables-save"], ["ip6tables-save"], ["ipset", "list", "-name"]):
        if found(command[0]):
            for line in _printed(*command):
                yield f"{command[0]}: {re.sub('[0-9]+:[0-9]+', '', line)}"


def _settings() -> Iterator[str]:
    """Without what counts or is measured, and what belongs to an interface."""
    for setting in SETTINGS:
        top = Path("/proc/sys", setting)
        for path in [top] if top.is_file() else top.rglob("*"):
            if path.is_file() and not MEASURED.search(str(path)):
                try:
                    yield f"{path}={path.read_text().strip()}"
                except OSError:  # may only be written
                    continue


def _printed(*command: str) -> list[str]:
    return [line for line in run(command).splitlines() if not line.startswith("#")]


def _names(folder: str) -> list[str]:
    return os.listdir(folder) if os.path.isdir(folder) else []


def _lines(file: str) -> list[str]:
    return Path(file).read_text().splitlines() if os.path.exists(file) else []
