"""Compiles the layer, the C library that runs inside the user's program.

Problem: `pip install` from source must work where no compiler is installed, and one wheel must serve x86_64 and
aarch64, glibc and musl. Idea: `ziglang` from PyPI brings a C compiler with the libcs of all four, as old as glibc
2.17; each target becomes `layer/mirror/layer/lib/<target>/libmirror_layer.so`.

Run as a build hook by hatchling, or by a developer: `python hatch_build.py --native` compiles for this machine
only, `python hatch_build.py` for every target. Either does nothing where the result is newer than the sources.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run by a developer without the build system installed
    BuildHookInterface = object  # type: ignore[assignment,misc]

ROOT = Path(__file__).resolve().parent
SOURCES = ROOT / "layer" / "native"
LIBRARIES = ROOT / "layer" / "mirror" / "layer" / "lib"
LIBRARY = "libmirror_layer.so"

TARGETS = {
    "x86_64-linux-gnu": "x86_64-linux-gnu.2.17",
    "aarch64-linux-gnu": "aarch64-linux-gnu.2.17",
    "x86_64-linux-musl": "x86_64-linux-musl",
    "aarch64-linux-musl": "aarch64-linux-musl",
}
"""Folder name to zig target. 2.17 is what manylinux2014 promises."""

WHEEL_TAG = "py3-none-manylinux_2_17_x86_64.manylinux_2_17_aarch64.musllinux_1_1_x86_64.musllinux_1_1_aarch64"
"""No Python in the library, so any Python 3; the libraries inside are for exactly these platforms."""

FLAGS = [
    "-std=gnu11",
    "-D_GNU_SOURCE",
    "-O2",
    "-fPIC",
    "-shared",
    # Only the hook table is exported; its attribute says so.
    "-fvisibility=hidden",
    # Dynamic TLS may call malloc on first use, in the middle of a hook.
    "-ftls-model=initial-exec",
    "-fno-plt",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wshadow",
    "-Wconversion",
    "-Wno-sign-conversion",
    "-Wstrict-prototypes",
    "-Wmissing-prototypes",
    "-Wvla",
    "-Wimplicit-fallthrough",
    # A row of hooks.def without code fails here; nothing is resolved lazily in a vfork child's small stack.
    "-Wl,-z,defs",
    "-Wl,-z,now",
    "-Wl,-soname," + LIBRARY,
]


def native_target() -> str:
    """The key of TARGETS for this machine.

    Raises:
        RuntimeError: the machine is neither x86_64 nor aarch64.
    """
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    libc = "gnu" if platform.libc_ver()[0] == "glibc" else "musl"
    target = f"{machine}-linux-{libc}"
    if target not in TARGETS:
        raise RuntimeError(f"mirror's layer has no code for {machine}: use x86_64 or aarch64")
    return target


def compile_layer(target: str, *, force: bool = False) -> bool:
    """Compiles the library for a key of TARGETS; says whether there was anything to do.

    The result is put in place by a rename, so that programs that run with the former one keep it.

    Raises:
        RuntimeError: the compiler is missing or refused the sources; its own words are on stderr.
    """
    output = LIBRARIES / target / LIBRARY
    sources = sorted(SOURCES.glob("*.c"))
    inputs = [*sources, *SOURCES.glob("*.h"), *SOURCES.glob("*.def"), Path(__file__)]
    newest_ns = max(path.stat().st_mtime_ns for path in inputs)
    if not force and output.exists() and output.stat().st_mtime_ns > newest_ns:
        return False
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent) as folder:
        made = Path(folder) / LIBRARY
        command = [sys.executable, "-m", "ziglang", "cc", "-target", TARGETS[target], *FLAGS]
        command += ["-o", str(made), *map(str, sources)]
        if subprocess.run(command, check=False).returncode != 0:
            raise RuntimeError(f"the layer could not be compiled for {target}; is the package `ziglang` installed?")
        # A source that has changed meanwhile counts as newer than what was made without the change.
        os.utime(made, ns=(newest_ns + 1, newest_ns + 1))
        os.replace(made, output)
    return True


class LayerBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Compiles before a wheel is put together, and puts the libraries in."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling: `version` is `standard`, or `editable` where only this machine matters."""
        if self.target_name != "wheel":
            return
        for target in [native_target()] if version == "editable" else TARGETS:
            compile_layer(target)
        build_data["artifacts"].append(f"layer/mirror/layer/lib/**/{LIBRARY}")
        build_data["pure_python"] = False
        build_data["tag"] = WHEEL_TAG


def main() -> int:
    """The developer's command; 0, or 1 after a sentence on stderr."""
    parser = argparse.ArgumentParser(description="Compile mirror's layer.")
    parser.add_argument("--native", action="store_true", help="only for this machine")
    parser.add_argument("--force", action="store_true", help="also if nothing changed")
    arguments = parser.parse_args()
    try:
        for target in [native_target()] if arguments.native else TARGETS:
            if compile_layer(target, force=arguments.force):
                print(f"compiled the layer for {target}", file=sys.stderr)
    except RuntimeError as error:
        print(f"hatch_build.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
