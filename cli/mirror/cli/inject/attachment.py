"""Attaching Frida to one process, from a thread that may block.

No other thread of this process may wait for the one that is attached to: it would take Frida's news of it.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from mirror.layer import installer_script

REPORT_S = 30.0
"""How long the installer script may take; a busy machine needs a tenth of a second."""
DETACH_S = 1.0
DETACH_STEP_S = 0.002


_device_lock = threading.Lock()


class InjectFailed(Exception):
    """The hooks could not be put in; the text is one sentence with a remedy, for the user."""


@functools.cache
def _import_frida() -> Any:
    try:
        import frida
    except ImportError as error:
        raise InjectFailed(
            f"Frida cannot be loaded ({error}); install it beside mirror with `pip install --upgrade frida`"
        ) from error
    return frida


def _device() -> Any:
    with _device_lock:
        return _import_frida().get_local_device()


def inject(pid: int) -> dict[str, Any]:
    """Installs every row of the layer's table in a process that waits for that; the installer script's report.

    Raises:
        InjectFailed: as `Injector.hook` says; and where Frida is not there or does not work on this machine.
    """
    frida = _import_frida()
    try:
        threads_before = _count_threads(pid)
        session = _device().attach(pid)
        try:
            report = _install(session)
        finally:
            session.detach()
    except (
        frida.InvalidArgumentError,
        frida.InvalidOperationError,
        frida.NotSupportedError,
        frida.PermissionDeniedError,
        frida.ProcessNotFoundError,
        frida.ProcessNotRespondingError,
        frida.ProtocolError,
        frida.TimedOutError,
        frida.TransportError,
    ) as error:
        raise InjectFailed(_explain(pid, error)) from error
    _check(pid, report)
    _see_off(pid, threads_before)
    return report


def _count_threads(pid: int) -> int:
    """The threads of the process; 0 when it is gone."""
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except FileNotFoundError:
        return 0


def _see_off(pid: int, threads_before: int) -> None:
    """Waits until Frida's threads have ended, usually a few milliseconds after it was told to detach.

    On a busy machine one in a hundred agents overlooks that (17.26) and stays: idle, and its descriptors are then
    hidden by the layer. To attach once more does not end it, but may end the process.
    """
    for _ in range(int(DETACH_S / DETACH_STEP_S)):
        if _count_threads(pid) <= threads_before:
            return
        time.sleep(DETACH_STEP_S)


def _install(session: Any) -> dict[str, Any]:
    """Runs the installer script, whose patches stay when Frida has gone; its report."""
    reported = threading.Event()
    messages: list[dict[str, Any]] = []

    def receive(message: dict[str, Any], _data: bytes | None) -> None:
        messages.append(message)
        reported.set()

    def ended(*_reason: object) -> None:
        reported.set()

    session.on("detached", ended)
    # QuickJS is there in a few milliseconds, V8 in a hundred.
    script = session.create_script(installer_script(), name="mirror", runtime="qjs")
    script.on("message", receive)
    script.load()
    reported.wait(REPORT_S)
    if not messages:
        return {"failed": [{"symbol": "all functions", "reason": "the installer script did not report"}]}
    if messages[0]["type"] != "send":
        return {"failed": [{"symbol": "all functions", "reason": messages[0].get("description", "script error")}]}

    report: dict[str, Any] = messages[0]["payload"]
    return report


def _check(pid: int, report: dict[str, Any]) -> None:
    failed = report.get("failed", [])
    if failed:
        what = ", ".join(f"{row['symbol']} ({row['reason']})" for row in failed[:3])
        more = f" and {len(failed) - 3} more" if len(failed) > 3 else ""
        raise InjectFailed(
            f"process {pid} would have been hooked in part only: {what}{more} could not be replaced in its C library; "
            "please report this with your distribution's name and version"
        )


def _explain(pid: int, error: Exception) -> str:
    """Why Frida failed. Of a process that has ended it may say anything."""
    frida = _import_frida()
    if _status(pid, "State") in ("", "Z", "X"):
        return f"process {pid} ended while it was being hooked"
    if isinstance(error, frida.PermissionDeniedError):
        return _why_forbidden(pid)
    if isinstance(error, frida.TimedOutError | frida.ProcessNotRespondingError):
        return f"process {pid} did not react to Frida ({error}); if a debugger has stopped it, let it go on"
    return (
        f"process {pid} could not be hooked: Frida says {str(error)!r}; if a debugger has a breakpoint in the C "
        "library, where Frida's threads meet it too, set it when main() is reached (gdb: `tbreak main`), else start "
        "it again"
    )


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return ""


def _why_forbidden(pid: int) -> str:
    """Why ptrace(2) was refused, by its list of reasons, and what to do about it."""
    scope = _read("/proc/sys/kernel/yama/ptrace_scope")
    checks: list[tuple[bool, Callable[[], str]]] = [
        (scope == "3", lambda: "kernel.yama.ptrace_scope is 3, which forbids it to everyone until the next boot"),
        (scope == "2", lambda: "kernel.yama.ptrace_scope is 2: `sysctl kernel.yama.ptrace_scope=1` allows it again"),
        (
            _status("self", "Seccomp") == "2",
            lambda: (
                "a seccomp filter is in force, as in some containers: allow the system call ptrace, or add SYS_PTRACE"
            ),
        ),
        (_status(pid, "Uid") != _status("self", "Uid"), lambda: "it runs as another user: start mirror as that user"),
    ]
    for holds, sentence in checks:
        if holds:
            return f"Frida may not attach to process {pid}: {sentence()}"
    return (
        f"Frida may not attach to process {pid}: a security module (AppArmor, SELinux) or container forbids ptrace; "
        "allow it for this program, or run mirror outside"
    )


def _status(pid: int | str, field: str) -> str:
    """A field of /proc/PID/status, its first word; empty if it is not there."""
    for line in _read(f"/proc/{pid}/status").splitlines():
        name, _, value = line.partition(":")
        if name == field and value.split():
            return value.split()[0]
    return ""
