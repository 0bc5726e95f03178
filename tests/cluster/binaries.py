"""Kubernetes, compiled from Debian's source package: Debian has no binaries of the server. Once for each machine."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.cluster.commands import CONTAINED, locked, run, step
from tests.cluster.places import BINARIES, CACHE, CACHE_LOCK, KUBERNETES, ROOT, ClusterError
from tests.cluster.sources import debian_sources

PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl")
GO = "/usr/lib/go-1.19/bin"
LOG = CACHE / "kubernetes" / "build.log"
PARTIAL = CACHE / "kubernetes" / "partial"

REFLECT2 = "vendor/github.com/modern-go/reflect2"
INITIALISE = "mapiterinit(type2.rtype, *(*unsafe.Pointer)(obj)"
RESULT = "\treturn &UnsafeMapIterator{\n"
MENDED = {
    f"{REFLECT2}/unsafe_link.go": {
        "m unsafe.Pointer) *hiter\n": "m unsafe.Pointer, it *hiter)\n",
        "\t// rest fields are ignored\n": "\tpointers [6]unsafe.Pointer\n\tnumbers [4]uintptr\n",
    },
    f"{REFLECT2}/unsafe_map.go": {
        f"{INITIALISE}),\n": "it,\n",
        RESULT: f"\tit := new(hiter)\n\t{INITIALISE}, it)\n{RESULT}",
    },
}
"""What is replaced in the source, by file.

From Go 1.18 on, whoever calls the runtime's mapiterinit brings the iterator. The library with which Kubernetes encodes
JSON reaches into the runtime and does not know it: memory is overwritten, and now and then the API server crashes.
https://github.com/modern-go/reflect2/issues/24
"""


def ensure_binaries() -> None:
    """Compiles Kubernetes unless that was done before: half an hour, and 5 GB while it lasts.

    Raises:
        ClusterError: the source is not to be had, or does not compile.
    """
    with locked(CACHE_LOCK):
        if all((BINARIES / program).exists() for program in PROGRAMS):
            return
        run([ROOT / "tests" / "install-packages", "build"], log=CACHE / "packages.log")
        with step(f"compiling Kubernetes {KUBERNETES} (half an hour, once; {LOG})"):
            shutil.rmtree(PARTIAL, ignore_errors=True)
            PARTIAL.mkdir(parents=True)
            source = fetch_source(PARTIAL)
            mend(source)
            compiled = compile_programs(source)
            finished = PARTIAL / "finished"
            finished.mkdir()
            for program in PROGRAMS:
                shutil.move(compiled / program, finished / program)
            shutil.rmtree(BINARIES, ignore_errors=True)
            finished.rename(BINARIES)
            shutil.rmtree(PARTIAL)


def fetch_source(folder: Path) -> Path:
    """Unpacks Debian's source package; this machine's own list of package sources stays as it is."""
    (folder / "lists" / "partial").mkdir(parents=True)
    (folder / "sources.list").write_text(debian_sources("deb-src"))
    apt = ["apt-get", "-qq", "-o", f"Dir::Etc::SourceList={folder}/sources.list", "-o", "Dir::Etc::SourceParts=-"]
    apt += ["-o", f"Dir::State::Lists={folder}/lists", "-o", "APT::Sandbox::User=root"]
    run([*apt, "update"], log=LOG)
    run([*apt, "source", "kubernetes"], log=LOG, folder=folder)
    for source in folder.glob("kubernetes-*/"):
        if source.name.endswith(KUBERNETES):
            return source
    raise ClusterError(f"Debian's source package of Kubernetes is not version {KUBERNETES} any more: see {LOG}")


def mend(source: Path) -> None:
    """Changes what Debian's compiler has outgrown.

    Raises:
        ClusterError: the source is not the one that is known here.
    """
    for name, changes in MENDED.items():
        text = (source / name).read_text()
        for former, new in changes.items():
            if text.count(former) != 1:
                raise ClusterError(
                    f"{name} in Debian's source package of Kubernetes is not as expected: look at {former!r}"
                )
            text = text.replace(former, new)
        (source / name).write_text(text)


def compile_programs(source: Path) -> Path:
    """Runs the source's own makefile; returns the folder with the programs."""
    major, minor, _ = KUBERNETES.split(".")
    environment = {
        "PATH": f"{GO}{os.pathsep}{os.environ['PATH']}",
        "KUBE_GIT_COMMIT": "debian",
        "KUBE_GIT_TREE_STATE": "clean",
        "KUBE_GIT_VERSION": f"v{KUBERNETES}",
        "KUBE_GIT_MAJOR": major,
        "KUBE_GIT_MINOR": minor,
    }
    what = " ".join(f"cmd/{program}" for program in PROGRAMS)
    run([*CONTAINED, "make", "all", f"WHAT={what}", "GOLDFLAGS=-s -w"], log=LOG, folder=source, environment=environment)
    return source / "_output" / "local" / "go" / "bin"
