"""Makes the C library's resolver of this process ready to work in the target's root.

Three things would otherwise come from the wrong place or must not come at all:

- Code. For any module of the name service switch but `files` and `dns` (built into glibc since 2.34), and for
  internationalised names, the library loads shared objects, and after chroot it would load the target's, into a
  process outside the target's sandbox (CVE-2019-14271 is an instance). So libidn2 is loaded beforehand, and the
  other modules are left out, as if they were not installed.
- The environment. The resolver reads variables; they are to be those of the target's process.
- The locale, from which AI_IDN takes the encoding of names.

Nothing is looked up here: that is `names`.
"""

from __future__ import annotations

import contextlib
import ctypes
import locale
import os
import re
import threading
from collections.abc import Mapping

from mirror.agent.libc import library

_VARIABLES = (b"LOCALDOMAIN", b"RES_OPTIONS", b"HOSTALIASES")
"""resolv.conf(5), hostname(7)."""
_SWITCH_FILE = "/etc/nsswitch.conf"
_DATABASES = (b"hosts", b"services")
"""Those that getaddrinfo(3) and its kin ask."""
_BUILT_IN = (b"files", b"dns")
_DEFAULT = {b"hosts": b"files dns", b"services": b"files"}
"""glibc 2.36, nss/nss_database.c, nss_database_select_default."""
_WORDS = re.compile(rb"\[[^\]]*\]|[^\s\[]+")
"""A module, or an action in brackets that belongs to the module before it."""

_lock = threading.Lock()
_seen: tuple[int, int, int] | None = None
"""The switch file that has been followed: device, number, time of change; None: no such file, the default rules."""


def prepare(environment: Mapping[bytes, bytes]) -> None:
    """To be called before the root is changed, and before the first look-up.

    Args:
        environment: That of the target's process.
    """
    for name in _VARIABLES:
        if name in environment:
            os.environb[name] = environment[name]
        else:
            os.environb.pop(name, None)
    with contextlib.suppress(locale.Error):
        locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
    with contextlib.suppress(OSError):  # without it AI_IDN fails with EAI_IDN_ENCODE
        ctypes.CDLL("libidn2.so.0")


def keep_foreign_modules_out() -> None:
    """Makes the library follow the root's nsswitch.conf as far as its built-in modules go.

    To be called before each look-up in a foreign root: a changed file is followed, as the library does it.
    """
    global _seen
    try:
        status = os.stat(_SWITCH_FILE)
        state = (status.st_dev, status.st_ino, status.st_ctime_ns)
    except OSError:
        state = None
    if state == _seen:
        return
    with _lock:
        try:
            with open(_SWITCH_FILE, "rb") as file:
                text = file.read(1 << 16)
        except OSError:
            text = b""
        for database, line in built_in_lines(text).items():
            # Internal to glibc, but exported since 2.2.5 (nss.h).
            library.__nss_configure_lookup(ctypes.c_char_p(database), ctypes.c_char_p(line))
        _seen = state


def built_in_lines(text: bytes) -> dict[bytes, bytes]:
    """What a nsswitch.conf(5) says of each database, reduced to the built-in modules and their actions.

    Always an answer for each, the library's default where the text says nothing usable.
    """
    lines = dict(_DEFAULT)
    for raw in text.splitlines():
        database, colon, rest = raw.partition(b"#")[0].partition(b":")
        if not colon or database.strip() not in _DATABASES:
            continue
        kept: list[bytes] = []
        is_kept = False
        for word in _WORDS.findall(rest):
            if not word.startswith(b"["):
                is_kept = word in _BUILT_IN
            if is_kept:
                kept.append(word)
        if kept:
            lines[database.strip()] = b" ".join(kept)
    return lines
