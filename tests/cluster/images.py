"""The images of the cluster, made without a registry, cached outside the checkout by what they are made from.

A root file system from Debian's packages is the base; buildah builds on it. Each image becomes one archive, which
containerd imports.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.archives import added_bytes
from tests.cluster.commands import CONTAINED, locked, run, step
from tests.cluster.places import AGENT_IMAGE, CACHE_LOCK, IMAGES, PAUSE_IMAGE, ROOT, WORKLOAD_IMAGE, ClusterError
from tests.cluster.sources import RELEASE, debian_sources

HERE = Path(__file__).parent / "images"

PARTIAL = IMAGES / "partial"
"""What is being made, and what a former run was killed over."""

PYTHON = "3.11"
"""Of RELEASE."""

BASE_PACKAGES = ("python3", "python3-pip", "ca-certificates", "libidn2-0")
WORKLOAD_PACKAGES = (
    "python3",
    "python3-dnspython",
    "ca-certificates",
    "curl",
    "iproute2",
    "iputils-ping",
    "netcat-openbsd",
    "procps",
)
UNREAD = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*")

AGENT_SOURCES = (
    "Dockerfile.agent",
    "Dockerfile.agent.dockerignore",
    "pyproject.toml",
    "agent/mirror",
    "protocol/mirror",
)


@dataclass(frozen=True)
class Image:
    """An image as an archive; the key stands for all that it is made from."""

    name: str
    key: str
    archive: Path


def build_images() -> list[Image]:
    """All images of the cluster; what has not changed is not built again.

    Raises:
        ClusterError: a program is missing or failed.
    """
    with locked(CACHE_LOCK):
        shutil.rmtree(PARTIAL, ignore_errors=True)
        PARTIAL.mkdir(parents=True)
        try:
            return [build_pause(), build_workload(), build_agent()]
        finally:
            shutil.rmtree(PARTIAL)


def build_pause() -> Image:
    source = HERE / "pause.c"
    image = _image(PAUSE_IMAGE, [source])
    if not image.archive.exists():
        with step(f"building {PAUSE_IMAGE}"), tempfile.TemporaryDirectory(dir=PARTIAL) as context:
            compiler = [sys.executable, "-m", "ziglang", "cc", "-target", f"{platform.machine()}-linux-musl"]
            run([*compiler, "-static", "-Os", "-s", "-o", f"{context}/pause", source], log=IMAGES / "pause.log")
            Path(context, "Dockerfile").write_text('FROM scratch\nADD pause /pause\nENTRYPOINT ["/pause"]\n')
            _build(image, Path(context), Path(context, "Dockerfile"))
    return image


def build_workload() -> Image:
    recipe = HERE / "Dockerfile.workload"
    system = root_file_system("workload", WORKLOAD_PACKAGES)
    image = _image(WORKLOAD_IMAGE, [recipe], system.name)
    if not image.archive.exists():
        base = _base_image("mirror-workload-base", system)
        with step(f"building {WORKLOAD_IMAGE}"):
            _build(image, HERE, recipe, "--build-arg", f"BASE={base}")
    return image


def build_agent() -> Image:
    system = root_file_system("python", BASE_PACKAGES)
    image = _image(AGENT_IMAGE, [ROOT / path for path in AGENT_SOURCES], system.name)
    if not image.archive.exists():
        base = _base_image("mirror-python-base", system)
        wheels = download_wheels()
        with step(f"building {AGENT_IMAGE}"):
            offline = ["--volume", f"{wheels}:/wheels:ro", "--build-arg", "PIP_FIND_LINKS=/wheels"]
            offline += ["--build-arg", "PIP_NO_INDEX=1", "--ignorefile", str(ROOT / "Dockerfile.agent.dockerignore")]
            _build(image, ROOT, ROOT / "Dockerfile.agent", "--build-arg", f"BASE={base}", *offline)
        print(f"  {AGENT_IMAGE} adds {added_bytes(image.archive) / 1e6:.1f} MB to its base")
    return image


def root_file_system(name: str, packages: Iterable[str]) -> Path:
    """A tar archive of a small Debian with these packages."""
    names = ",".join(packages)
    made = IMAGES / f"{name}-{_digest([], RELEASE, names, *UNREAD)}.tar"
    if not made.exists():
        with step(f"a root file system for the {name} image, from Debian's packages (a minute or two)"):
            options = [f"--dpkgopt=path-exclude={pattern}" for pattern in UNREAD]
            partial = PARTIAL / made.name
            command = [
                *CONTAINED,
                "mmdebstrap",
                "--mode=root",
                "--variant=minbase",
                "--format=tar",
                f"--include={names}",
                *options,
            ]
            places = {"TMPDIR": str(PARTIAL)}
            command += [RELEASE, str(partial), "-"]
            run(command, feed=debian_sources("deb"), environment=places, log=IMAGES / f"{name}.log")
            _keep(partial, made, f"{name}-*.tar")
    return made


def download_wheels() -> Path:
    """The agent's dependencies for the base's Python, fetched with this machine's own settings of pip."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    names = tuple(settings["tool"]["mirror"]["agent-dependencies"])
    project = settings["project"]
    wanted = [line for line in project["dependencies"] if line.startswith(names)]
    wanted += project["optional-dependencies"]["agent"]
    made = IMAGES / f"wheels-{_digest([], PYTHON, *wanted)}"
    if not made.exists():
        with step("fetching the agent's dependencies"):
            partial = PARTIAL / made.name
            platforms = [
                f"--platform={tag}_{platform.machine()}"
                for tag in ("manylinux_2_17", "manylinux2014", "manylinux_2_28")
            ]
            abis = [f"--abi={tag}" for tag in ("cp" + PYTHON.replace(".", ""), "abi3", "none")]
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", "--dest", partial]
            run([*command, f"--python-version={PYTHON}", "--implementation=cp", *platforms, *abis, *wanted])
            _keep(partial, made, "wheels-*")
    return made


def _base_image(name: str, system: Path) -> str:
    """The name under which buildah knows a root file system."""
    tag = f"localhost/{name}:{system.stem.rpartition('-')[2]}"
    if not _buildah("images", "--quiet", "--filter", f"reference={tag}").strip():
        with step(f"making {name} known to buildah"), tempfile.TemporaryDirectory(dir=PARTIAL) as context:
            os.link(system, Path(context, "system.tar"))
            recipe = Path(context, "Dockerfile")
            recipe.write_text("FROM scratch\nADD system.tar /\n")
            _buildah("bud", "--tag", tag, "--file", recipe, context, log=IMAGES / f"{name}.log")
    return tag


def _build(image: Image, context: Path, recipe: Path, *options: str) -> None:
    short = image.name.partition(":")[0]
    tag = f"localhost/{image.name}"
    settings = ["--layers", "--isolation=chroot", "--format=docker", "--pull=never", *options]
    _buildah("bud", *settings, "--tag", tag, "--file", recipe, context, log=IMAGES / f"{short}.log")
    # Each build leaves its steps behind, for the next one; those of long ago are of no use.
    if len(_buildah("images", "--all", "--quiet").split()) > 60:
        _buildah("rmi", "--prune")
    partial = PARTIAL / image.archive.name
    _buildah("push", "--quiet", tag, f"docker-archive:{partial}:{image.name}", log=IMAGES / f"{short}.log")
    _keep(partial, image.archive, f"{short}-*.docker.tar")


def _buildah(*arguments: object, log: Path | None = None) -> str:
    """Runs buildah with a storage of its own."""
    storage = ["--root", IMAGES / "storage", "--runroot", IMAGES / "run", "--storage-driver", "overlay"]
    return run([*CONTAINED, "buildah", *storage, *arguments], log=log)


def _image(name: str, inputs: Iterable[Path], *more: str) -> Image:
    key = _digest(inputs, name, *more)
    return Image(name, key, IMAGES / f"{name.partition(':')[0]}-{key}.docker.tar")


def _keep(partial: Path, made: Path, former: str) -> None:
    """Puts in place what was made, instead of the former ones."""
    for path in IMAGES.glob(former):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    partial.rename(made)


def _digest(inputs: Iterable[Path], *more: str) -> str:
    """Changes when the content or the place of an input does."""
    digest = hashlib.sha256("\0".join(more).encode())
    for path in inputs:
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        for file in files:
            if "__pycache__" in file.parts:
                continue
            if not file.exists():
                raise ClusterError(f"{file} is missing: the checkout is not complete")
            digest.update(f"\0{file.relative_to(ROOT)}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]
