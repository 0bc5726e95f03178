"""A process to stand in for, which also says what it sees itself: the tests' oracle.

    python target_program.py '{"unshare": true, "root": "/tmp/x", ...}'

enters what its argument describes, prints a line, then evaluates what comes on standard input, one JSON string a
line, and prints what came out, one JSON array a line. It ends with its standard input.
All modules are imported first: it may not be able to read them afterwards.
"""

from __future__ import annotations

import contextlib
import ctypes
import encodings.idna  # noqa: F401
import fcntl
import json
import os
import resource  # noqa: F401
import signal
import socket
import struct
import sys
import threading  # noqa: F401
import time  # noqa: F401
import traceback
from collections.abc import Callable
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

libc = ctypes.CDLL(None, use_errno=True)

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWUSER, CLONE_NEWNET = 0x20000, 0x4000000, 0x10000000, 0x40000000
MS_REC, MS_PRIVATE = 0x4000, 0x40000
PR_SET_PDEATHSIG, PR_SET_DUMPABLE = 1, 4


def check(result: int) -> int:
    """The result of a C function, or its OSError."""
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def write(path: str, text: str) -> None:
    """Writes a file of the kernel by one write."""
    fd = os.open(path, os.O_WRONLY)
    os.write(fd, text.encode())
    os.close(fd)


def enter(wanted: dict[str, Any]) -> None:
    """Becomes what the argument describes."""
    # Parsing loads modules, so it comes first.
    zone = {key: dns.rrset.from_text_list(*_split(key), records) for key, records in wanted.get("zone", {}).items()}
    if wanted.get("unshare"):
        mapper = start_mapper() if wanted.get("map") == "range" else None
        if "outer_uid" in wanted:
            take_ids(wanted["outer_uid"], wanted["outer_uid"], wanted.get("outer_groups", []))
        uid, gid = os.geteuid(), os.getegid()
        check(libc.unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWNET))
        if mapper is not None:
            mapper()
        elif wanted.get("map", True):
            write("/proc/self/setgroups", "deny")
            write("/proc/self/uid_map", f"0 {uid} 1")
            write("/proc/self/gid_map", f"0 {gid} 1")
        check(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None))
        raise_loopback()
        host_name = wanted.get("host_name", "sandbox").encode()
        check(libc.sethostname(host_name, len(host_name)))
    if wanted.get("unshare_host_name"):
        check(libc.unshare(CLONE_NEWUTS))
    if wanted.get("unshare_network"):
        check(libc.unshare(CLONE_NEWNET))
        raise_loopback()
    root = wanted.get("root")
    if root is not None:
        if wanted.get("unshare"):
            # A mount of its own, as a container has.
            check(libc.mount(root.encode(), root.encode(), None, 0x1000 | MS_REC, None))
        if wanted.get("hang"):
            hang(os.path.join(root, wanted["hang"]))
        os.chroot(root)
    os.chdir("/")
    if zone:
        serve_names(zone)
    if "uid" in wanted:
        take_ids(wanted["uid"], wanted["gid"], wanted.get("groups", []))
    if "capabilities" in wanted:
        reduce_capabilities(wanted["capabilities"])


def start_mapper() -> Callable[[], None]:
    """Forks while still root; what is returned then maps the ids of this process's new user namespace.

    As newuidmap(1) does for a rootless container: 0 is its owner, 1 to 9999 are 100000 and up.
    """
    pid = os.getpid()
    read_end, write_end = os.pipe()
    helper = os.fork()
    if helper == 0:
        os.read(read_end, 1)
        owner = os.stat(f"/proc/{pid}").st_uid
        for name in ("uid_map", "gid_map"):
            write(f"/proc/{pid}/{name}", f"0 {owner} 1\n1 100000 9999")
        os._exit(0)

    def map_ids() -> None:
        os.write(write_end, b"x")
        _, status = os.waitpid(helper, 0)
        assert status == 0
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)

    return map_ids


def take_ids(uid: int, gid: int, groups: list[int]) -> None:
    """Becomes another user, but one that may be looked into by others of that user, as after an exec."""
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    check(libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0))


def reduce_capabilities(mask: int) -> None:
    """Keeps only these capabilities."""
    header = struct.pack("@Ii", 0x20080522, 0)
    data = struct.pack("@6I", mask & 0xFFFFFFFF, mask & 0xFFFFFFFF, 0, mask >> 32, mask >> 32, 0)
    number = {"x86_64": 126}.get(os.uname().machine, 91)
    check(libc.syscall(number, ctypes.create_string_buffer(header, 8), ctypes.create_string_buffer(data, 24)))


def raise_loopback() -> None:
    """Sets the loopback interface of the network namespace up."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh14x", b"lo", 0x1 | 0x40))


def hang(path: str) -> None:
    """Mounts a file system that never answers."""
    fd = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={fd},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}".encode()
    check(libc.mount(b"hang", path.encode(), b"fuse", 0, options))


def _split(key: str) -> tuple[str, int, str, str]:
    """The first arguments of dns.rrset.from_text_list for `name. TYPE`."""
    name, kind = key.split()
    return name, 60, "IN", kind


def serve_names(zone: dict[str, dns.rrset.RRset]) -> None:
    """Answers DNS at 127.0.0.1 from `zone`, whose keys are `name. TYPE`; asked for silent*, never.

    In a process of its own, which dies with this one: Python 3.11.2's getnameinfo() stops all other threads.
    """
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 53))
    known = {key.split()[0] for key in zone}

    def serve() -> None:
        while True:
            question, client = server.recvfrom(4096)
            message = dns.message.from_wire(question)
            name = message.question[0].name.to_text()
            kind = dns.rdatatype.to_text(message.question[0].rdtype)
            if name.startswith("silent"):
                continue
            reply = dns.message.make_response(message)
            reply.flags |= dns.flags.RA | dns.flags.AA
            if name not in known:
                reply.set_rcode(dns.rcode.NXDOMAIN)
            while alias := zone.get(f"{name} CNAME"):
                reply.answer.append(alias)
                name = str(next(iter(alias)))  # a CNAME's text is its target
            if f"{name} {kind}" in zone:
                reply.answer.append(zone[f"{name} {kind}"])
            server.sendto(reply.to_wire(want_shuffle=False), client)

    if os.fork() == 0:
        check(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
        os.close(0)
        os.close(1)
        serve()


def c_realpath(path: str) -> str:
    """realpath(3), which differs from Python's in its errors."""
    libc.realpath.restype = ctypes.c_char_p
    found = libc.realpath(os.fsencode(path), None)
    if found is None:
        raise OSError(ctypes.get_errno(), "realpath")
    return os.fsdecode(found)


def main() -> None:
    """Enters and answers."""
    enter(json.loads(sys.argv[1]))
    names: dict[str, Any] = dict(globals())
    print("ready", flush=True)
    for line in sys.stdin:
        code = json.loads(line)
        answer: list[Any]
        try:
            try:
                value = eval(compile(code, "<test>", "eval"), names)
            except SyntaxError:
                exec(compile(code, "<test>", "exec"), names)
                value = None
            answer = ["value", repr(value)]
        except socket.gaierror as error:
            answer = ["gaierror", error.errno]
        except socket.herror as error:
            answer = ["herror", error.errno]
        except OSError as error:
            answer = ["errno", error.errno]
        except Exception:
            answer = ["error", traceback.format_exc()]
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
