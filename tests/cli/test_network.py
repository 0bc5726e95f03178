"""Sockets under `mirror exec` with a target in this machine's own network: as without mirror, to the letter.

What differs between a target and its outside is for the conformance tests. Here is what they cannot set up: ports that
are taken on the user's machine, and connections that stay pending for as long as a test likes.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from mirror.cli.proxy.ports import free_port
from tests.cli.conftest import Target, wait_until

PRELUDE = """
import ctypes, errno, json, os, select, signal, socket, struct, subprocess, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
PORT = int(sys.argv[1])

def name_of(number):
    return errno.errorcode.get(number, number)

def attempt(what, function, *arguments):
    try:
        result = function(*arguments)
    except OSError as error:
        result = name_of(error.errno)
    print(what, result, flush=True)

def call(name, *arguments):
    began = time.monotonic()
    result = getattr(libc, name)(*arguments)
    number = ctypes.get_errno() if result < 0 else 0
    return result, name_of(number), time.monotonic() - began

def address(port):
    return struct.pack("=H", socket.AF_INET) + struct.pack("!H", port) + bytes([127, 0, 0, 1]) + bytes(8)

def listener(family, host, port, *options):
    made = socket.socket(family)
    for option in options:
        made.setsockopt(*option)
    attempt(f"bind {host}", made.bind, (host, port))
    attempt("listen", made.listen)
    return made

REUSE_PORT = (socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
ONLY_V6 = (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
"""


@contextlib.contextmanager
def taken_port() -> Iterator[int]:
    """A port on which somebody else listens, at every address of this machine."""
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as holder:
        yield holder.getsockname()[1]


@contextlib.contextmanager
def silent_port() -> Iterator[int]:
    """A port that answers nothing: its queue is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(2):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        select.select([listener], [], [])  # one is in the queue, which has room for no other
        yield listener.getsockname()[1]


def plain(code: str, port: int) -> str:
    """What a program prints without mirror."""
    return _output(subprocess.run([sys.executable, "-S", "-c", PRELUDE + code, str(port)], **_HOW))


def mirrored(target: Target, code: str, port: int, options: Sequence[str] = ("--no-incoming",)) -> str:
    """What it prints under mirror."""
    return _output(target.run(sys.executable, "-S", "-c", PRELUDE + code, str(port), options=options))


_HOW: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 60, "check": False}


def _output(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


LISTENING = """
first = listener(socket.AF_INET, "0.0.0.0", PORT)
print(first.getsockname() == ("0.0.0.0", PORT))
attempt("bound already", first.bind, ("0.0.0.0", PORT))
listener(socket.AF_INET, "0.0.0.0", PORT).close()
listener(socket.AF_INET, "127.0.0.1", PORT).close()
caller = socket.create_connection(("127.0.0.1", PORT))
accepted, peer = first.accept()
print(peer == caller.getsockname(), accepted.getsockname() == ("127.0.0.1", PORT), accepted.getpeername() == peer)
caller.send(b"question")
print(accepted.recv(100))
for made in (caller, accepted, first):
    made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    made.close()
one, other = (listener(socket.AF_INET, "", PORT, REUSE_PORT) for _ in range(2))
print(one.getsockname() == other.getsockname() == ("0.0.0.0", PORT))
one.close(), other.close()
both = listener(socket.AF_INET6, "::", PORT)
listener(socket.AF_INET, "0.0.0.0", PORT).close()
for host in ("127.0.0.1", "::1"):
    caller = socket.create_connection((host, PORT))
    accepted, peer = both.accept()
    print(peer[0], accepted.getsockname()[:2] == (accepted.getsockname()[0], PORT))
both.close()
"""
CHILDREN = """
made = listener(socket.AF_INET, "0.0.0.0", PORT)
code = "import socket; s = socket.socket(fileno={}); print(s.getsockname() == ('0.0.0.0', {})); s.listen()"
code = code.format(made.fileno(), PORT)
os.set_inheritable(made.fileno(), True)
print(subprocess.run([sys.executable, "-S", "-c", code], close_fds=False, capture_output=True, text=True).stdout)
child = os.fork()
if child == 0:
    print(made.getsockname() == ("0.0.0.0", PORT), flush=True)
    os._exit(0)
os.waitpid(child, 0)
connecting = "import socket, sys; print(socket.create_connection(('127.0.0.1', int(sys.argv[1]))).getpeername()[0])"
print(subprocess.run([sys.executable, "-S", "-c", connecting, str(PORT)], capture_output=True, text=True).stdout)
print(made.accept()[0].getsockname() == ("127.0.0.1", PORT))
"""


@pytest.mark.parametrize("code", [LISTENING, CHILDREN], ids=["alone", "with children"])
def test_program_has_its_port_though_somebody_else_has_it(target: Target, code: str) -> None:
    expected = plain(code, free_port())
    with taken_port() as port:
        assert mirrored(target, code, port) == expected
    assert mirrored(target, code, free_port()) == expected


def test_program_gets_a_port_that_only_the_target_may_give(target: Target) -> None:
    """An address that this machine does not have."""
    code = """
made = listener(socket.AF_INET, "10.255.255.1", PORT)
print(made.getsockname() == ("10.255.255.1", PORT))
other = socket.socket()
other.bind(("10.255.255.1", 0))
print(other.getsockname()[0], other.getsockname()[1] > 0)
"""
    expected = "bind 10.255.255.1 None\nlisten None\nTrue\n10.255.255.1 True\n"
    assert mirrored(target, code, free_port()) == expected


PENDING = """
made = socket.socket()
made.setblocking(False)
attempt("connect", made.connect, ("127.0.0.1", PORT))
attempt("again", made.connect, ("127.0.0.1", PORT))
attempt("peer", made.getpeername)
print(select.select([made], [made], [], 0) == ([], [], []))
made.close()

made = socket.socket()
made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 0, 200_000))
for _ in range(2):
    result, number, took = call("connect", made.fileno(), address(PORT), 16)
    print("time-out", result, number, 0.15 < took)
made.close()

# Time and again: on a busy machine the first signal may come before the call has begun.
handled = set()

def call_interrupted(interrupts, handler):
    handled.clear()
    signal.signal(signal.SIGALRM, handler)
    signal.siginterrupt(signal.SIGALRM, interrupts)
    signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)
    result = call("connect", made.fileno(), address(PORT), 16)[:2]
    signal.setitimer(signal.ITIMER_REAL, 0)
    print(*result, handled)

made = socket.socket()
call_interrupted(True, lambda *_: handled.add("handled"))
made.setblocking(False)
print("goes on", *call("connect", made.fileno(), address(PORT), 16)[:2])
made.close()

made = socket.socket()
made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 700)
call_interrupted(False, lambda *_: handled.add("handled"))
made.close()

# What a handler does in the meantime is hooked as ever.
def connect_elsewhere(*_):
    other = socket.create_connection(("127.0.0.1", OPEN.getsockname()[1]))
    handled.add(OPEN.getsockname() == other.getpeername())
OPEN = socket.create_server(("127.0.0.1", 0))
made = socket.socket()
call_interrupted(True, connect_elsewhere)
"""


def test_pending_connections_are_the_kernel_s_affair(target: Target) -> None:
    with silent_port() as port:
        assert mirrored(target, PENDING, port) == plain(PENDING, port)


BAD_ARGUMENTS = """
names = {"connect": (8, 16), "bind": (8, 16), "getsockname": (8, 8), "getpeername": (8, 8), "accept": (8, 8)}
made = socket.create_server(("127.0.0.1", 0))
connected = socket.create_connection(made.getsockname())
for name, arguments in names.items():
    for fd in (made.fileno(), connected.fileno(), 0, 999):
        if (name, fd) != ("accept", made.fileno()):
            print(name, *call(name, fd, *(ctypes.c_void_p(argument) for argument in arguments))[:2])
fresh = socket.socket()
print("pointer", *call("connect", fresh.fileno(), ctypes.c_void_p(8), 16)[:2])
for length in (-1, 0, 1, 2, 15, 129):
    print(length, *call("connect", fresh.fileno(), address(PORT) + bytes(200), length)[:2])
    print(length, *call("bind", fresh.fileno(), address(PORT) + bytes(200), length)[:2])
wrong = struct.pack("=H", socket.AF_INET6) + bytes(26)
print("family", *call("connect", fresh.fileno(), wrong, 28)[:2])
print("unspecified", *call("connect", fresh.fileno(), bytes(16), 16)[:2])
for room in (0, 1, 2, 7, 16, 64):
    buffer, length = ctypes.create_string_buffer(b"\\xee" * 64, 64), ctypes.c_uint(room)
    print(room, libc.getpeername(connected.fileno(), buffer, ctypes.byref(length)), length.value, buffer.raw[16:].hex())
print(libc.getsockopt(fresh.fileno(), 1, 4, ctypes.c_void_p(8), ctypes.c_void_p(8)), name_of(ctypes.get_errno()))
"""


def test_bad_arguments(target: Target) -> None:
    port = free_port()
    assert mirrored(target, BAD_ARGUMENTS, port) == plain(BAD_ARGUMENTS, port)


OTHER_SOCKETS = """
server = socket.socket(socket.AF_UNIX)
server.bind(b"\\0mirror-test-%d" % os.getpid())
server.listen()
client = socket.socket(socket.AF_UNIX)
client.connect(server.getsockname())
accepted, peer = server.accept()
print(accepted.getsockname() == server.getsockname(), repr(peer))
left, right = socket.socketpair()
left.send(b"pair")
print(right.recv(10), right.getpeername())
receiver, sender = (socket.socket(type=socket.SOCK_DGRAM) for _ in range(2))
receiver.bind(("127.0.0.1", 0))
sender.connect(receiver.getsockname())
sender.send(b"datagram")
data, source = receiver.recvfrom(100)
print(data, source == sender.getsockname(), sender.getpeername() == receiver.getsockname())
listening = socket.create_server(("127.0.0.1", 0))
connected = socket.create_connection(listening.getsockname())
accepted, _ = listening.accept()
accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
accepted.close()
attempt("recv", connected.recv, 10)
attempt("recv", connected.recv, 10)
attempt("send", connected.send, b"x")
"""


def test_other_sockets_are_left_alone(target: Target) -> None:
    assert mirrored(target, OTHER_SOCKETS, 0) == plain(OTHER_SOCKETS, 0)


NAMES = """
# What /etc/hosts does not say is a question to the name server of this machine, whose answers may change.
with open("/etc/hosts") as file:
    has_ipv6 = any(line.split()[:1] == ["::1"] and "localhost" in line.split() for line in file)
hosts = ["localhost", "127.0.0.1", "::1", "127.1", "", None, "0x7f.1", "fe80::1%lo"]
for host in hosts:
    for service in (None, "http", "80", "absent", "99999"):
        for arguments in (
            (0, 0, 0, 0), (socket.AF_INET, 1, 0, 0), (socket.AF_INET6, 0, 17, 0), (0, 1, 0, 1), (0, 1, 0, 2),
            (0, 1, 0, 4), (socket.AF_INET6, 1, 0, 8), (0, 1, 0, 0x20), (0, 1, 0, 0x400), (99, 0, 0, 0),
        ):
            if host == "localhost" and arguments[0] != socket.AF_INET and not has_ipv6:
                continue
            try:
                print(socket.getaddrinfo(host, service, *arguments))
            except (socket.gaierror, UnicodeError) as error:
                print(host, service, arguments, error.args)
for flags in range(0, 64, 3):
    for endpoint in (("127.0.0.1", 80), ("::1", 443, 0, 0), ("::ffff:127.0.0.1", 7, 0, 0)):
        is_said = endpoint[0] == "127.0.0.1" or endpoint[0] == "::1" and has_ipv6
        try:
            print(socket.getnameinfo(endpoint, flags if is_said else flags | socket.NI_NUMERICHOST))
        except socket.gaierror as error:
            print(endpoint, flags, error.args)
for function in (socket.gethostbyname, socket.gethostbyname_ex, socket.gethostbyaddr):
    for host in ("localhost", "127.0.0.1", "::1")[: 3 if has_ipv6 else 2]:
        attempt(function.__name__, function, host)
"""


def test_names_of_this_machine(target: Target) -> None:
    """Its resolver is asked by the agent, so it answers the same."""
    assert mirrored(target, NAMES, 0) == plain(NAMES, 0)


def test_many_connections_at_once_and_in_a_row(target: Target) -> None:
    code = """
wrong = []

def ask(number):
    for turn in range(20):
        with socket.create_connection(("127.0.0.1", PORT)) as made:
            text = b"%d %d" % (number, turn)
            made.sendall(text)
            if made.recv(100) != text:
                wrong.append(text)

threads = [threading.Thread(target=ask, args=(number,)) for number in range(20)]
[thread.start() for thread in threads], [thread.join() for thread in threads]
print(wrong)
"""
    with echo_server() as port:
        assert mirrored(target, code, port) == "[]\n"


def test_multipath_sockets_connect_too(target: Target) -> None:
    code = """
try:
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
except OSError:  # this kernel has none
    made = socket.socket()
made.connect(("127.0.0.1", PORT))
made.send(b"text")
print(made.recv(100), made.getpeername() == ("127.0.0.1", PORT))
"""
    with echo_server() as port:
        assert mirrored(target, code, port) == "b'text' True\n"


def test_lost_session_is_no_end_of_data(target: Target) -> None:
    code = """
made = socket.create_connection(("127.0.0.1", PORT))
print("connected", flush=True)
sys.stdin.readline()
attempt("recv", made.recv, 1)
attempt("connect", socket.socket().connect, ("127.0.0.1", PORT))
"""
    command = (sys.executable, "-S", "-c", PRELUDE + code)
    with echo_server() as port, target.start(*command, str(port), options=["--no-incoming"]) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "connected\n"
        for pid in target.proxies():
            os.kill(pid, signal.SIGKILL)
        output, errors = process.communicate("\n", timeout=60)
    assert output == "recv ENETDOWN\nconnect ENETDOWN\n"
    assert errors.startswith("mirror: the session is lost")


WAITING = """
made = socket.socket()
made.setblocking(BLOCKING)
print("connects", flush=True)
number = made.connect_ex((HOST, PORT))
if number == errno.EINPROGRESS:
    select.select([], [made], [])
    number = made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
attempt("connect", lambda: name_of(number))
attempt("another", socket.socket().connect, (HOST, PORT))
"""


@pytest.mark.parametrize("victim", ["agent", "proxy"])
@pytest.mark.parametrize("blocking", [True, False], ids=["blocking", "non-blocking"])
def test_lost_session_ends_a_pending_connect(target: Target, blocking: bool, victim: str) -> None:
    code = PRELUDE + WAITING.replace("HOST", "'127.0.0.1'").replace("BLOCKING", str(blocking))
    command = (sys.executable, "-S", "-c", code)
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(silent_port())
        before = connecting(port)
        process = stack.enter_context(target.start(*command, str(port), options=["--no-incoming"]))
        assert process.stdout is not None
        assert process.stdout.readline() == "connects\n"
        wait_until(lambda: connecting(port) > before, "the target does not connect")
        for pid in target.agents() if victim == "agent" else target.proxies():
            os.kill(pid, signal.SIGKILL)
        output, errors = process.communicate(timeout=60)  # the kernel would try for two minutes
    assert output == "connect ENETDOWN\nanother ENETDOWN\n"
    (told,) = errors.splitlines()
    lost = f"mirror: the agent of {target.name} is gone" if victim == "agent" else "mirror: the session is lost"
    assert told.startswith(lost)


@pytest.mark.parametrize("blocking", [True, False], ids=["blocking", "non-blocking"])
def test_target_whose_network_is_unreachable(blocking: bool) -> None:
    lonely = Target("unshare", "--user", "--map-root-user", "--net", "sleep", "1000")
    try:
        name = Path(f"/proc/{lonely.process.pid}/comm")
        wait_until(lambda: lonely.process.poll() is not None or name.read_text() == "sleep\n", "no start")
        if lonely.process.returncode is not None:
            pytest.skip("no network namespace can be made here")
        # An address of documentation; then loopback, which is down there.
        for host in ("192.0.2.1", "127.0.0.1"):
            code = PRELUDE + WAITING.replace("HOST", repr(host)).replace("BLOCKING", str(blocking))
            done = lonely.run(sys.executable, "-S", "-c", code, "9", options=["--no-incoming"])
            assert done.stdout == "connects\nconnect ENETUNREACH\nanother ENETUNREACH\n"
            assert (done.returncode, done.stderr) == (0, "")
        lonely.wait_alone()
    finally:
        lonely.close()


def connecting(port: int) -> int:
    """How many sockets of this machine wait for an answer of a port on loopback."""
    ends = (line.split()[2:4] for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return sum(end == [f"0100007F:{port:04X}", "02"] for end in ends)


@contextlib.contextmanager
def echo_server() -> Iterator[int]:
    """Sends back the first bytes of each connection, and ends it."""
    code = """
import socketserver

class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(self.request.recv(100))

class Server(socketserver.ThreadingTCPServer):
    request_queue_size = 200

with Server(("127.0.0.1", 0), Echo) as server:
    print(server.server_address[1], flush=True)
    server.serve_forever()
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
