"""Name resolution: what the agent answers is what the target's own C library says."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trio

from mirror.protocol import messages as m
from tests.agent.actors import IS_ROOT, NOBODY, Agent, Target, open_agent, open_target

ZONE = {
    "inventory.shop.test. A": ["10.9.8.7", "10.9.8.8"],
    "inventory.shop.test. AAAA": ["fd00::77"],
    "alias.shop.test. CNAME": ["inventory.shop.test."],
    "only-six.shop.test. AAAA": ["fd00::66"],
    "empty.shop.test. TXT": ['"nothing else"'],
    "7.8.9.10.in-addr.arpa. PTR": ["inventory.shop.test."],
    "xn--bcher-kva.shop.test. A": ["10.1.1.1"],
    "big.shop.test. A": [f"10.7.0.{number}" for number in range(1, 25)],
    "unlike.elsewhere.test. A": ["10.4.4.4"],
}
HOSTS = """\
127.0.0.1 localhost
::1 localhost ip6-localhost
10.1.2.3 db.example db db-alias
fd00::3 db.example
"""
RESOLV_CONF = "nameserver 127.0.0.1\nsearch shop.test other.test\noptions ndots:2\n"
IMPATIENT = "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n"

UNSPEC, V4, V6 = int(socket.AF_UNSPEC), int(socket.AF_INET), int(socket.AF_INET6)
STREAM, DGRAM = int(socket.SOCK_STREAM), int(socket.SOCK_DGRAM)
AI_IDN = 0x40
NI_IDN = 32


class Scene(NamedTuple):
    """A sandbox with a name server, and an agent for it."""

    target: Target
    agent: Agent
    root: Path


@pytest.fixture
def root() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        made = Path(directory)
        made.chmod(0o755)
        (made / "etc").mkdir()
        (made / "etc/hosts").write_text(HOSTS)
        (made / "etc/resolv.conf").write_text(RESOLV_CONF)
        (made / "etc/services").write_text("http 80/tcp www\necho 7/tcp\necho 7/udp\nodd 4242/udp\n")
        (made / "etc/nsswitch.conf").write_text("hosts: files dns\nservices: files\n")
        yield made


@contextlib.asynccontextmanager
async def open_scene(root: Path, **environment: str) -> AsyncIterator[Scene]:
    ids = {"outer_uid": NOBODY} if IS_ROOT else {}
    with open_target(root=str(root), unshare=True, zone=ZONE, environment=environment, **ids) as target:
        async with open_agent(target.pid, uid=NOBODY if IS_ROOT else None) as agent:
            yield Scene(target, agent, root)


@pytest.fixture
async def scene(root: Path) -> AsyncIterator[Scene]:
    async with open_scene(root) as made:
        yield made


async def look_up(agent: Agent, *question: Any) -> list[Any] | int:
    """What the agent's getaddrinfo says, as Python's `socket` would put it; the error code if it failed."""
    host, service, family, kind, protocol, flags = question
    answer = await agent.peer.request(m.LookUpAddress(host, service, family, kind, protocol, flags))
    if isinstance(answer, m.LookUpFailed):
        return answer.code
    assert isinstance(answer, m.AddressLookedUp)
    entries: list[Any] = []
    for entry in answer.entries:
        address, port = entry.endpoint.address, entry.endpoint.port
        is_v4 = len(address) == 4
        host = socket.inet_ntop(V4 if is_v4 else V6, address)
        where = (host, port) if is_v4 else (host, port, entry.endpoint.flowinfo, entry.endpoint.scope_id)
        name = (answer.canonical_name or b"").decode() if not entries else ""
        entries.append((V4 if is_v4 else V6, entry.socktype, entry.protocol, name, where))
    return entries


def asked(target: Target, code: str) -> Any:
    """What the target says, or the code of the resolver's error."""
    try:
        return target.ask(code)
    except (socket.gaierror, socket.herror) as error:
        return error.errno


def target_look_up(target: Target, *question: Any) -> list[Any] | int:
    """What the target's getaddrinfo says."""
    plain = tuple(int(part) if isinstance(part, int) else part for part in question)
    code = f"[(int(f), int(k), p, c, w) for f, k, p, c, w in socket.getaddrinfo(*{plain!r})]"
    return asked(target, code)  # type: ignore[no-any-return]


QUESTIONS = [
    (b"inventory", b"80", UNSPEC, STREAM, 0, 0),
    (b"inventory", b"http", UNSPEC, 0, 0, 0),
    (b"inventory", b"www", V4, STREAM, 0, socket.AI_CANONNAME),
    (b"inventory.shop.test", None, V4, STREAM, 0, 0),
    (b"inventory.shop.test.", None, V6, STREAM, 0, socket.AI_CANONNAME),
    (b"alias", b"80", UNSPEC, STREAM, 0, socket.AI_CANONNAME),
    (b"only-six", b"80", V4, STREAM, 0, 0),
    (b"only-six", b"80", V6, STREAM, 0, 0),
    (b"only-six", b"80", V6, STREAM, 0, socket.AI_V4MAPPED),
    (b"inventory", b"80", V6, STREAM, 0, socket.AI_V4MAPPED | socket.AI_ALL),
    (b"inventory", b"80", UNSPEC, STREAM, 0, socket.AI_ADDRCONFIG),
    (b"empty", b"80", UNSPEC, STREAM, 0, 0),
    (b"missing", b"80", UNSPEC, STREAM, 0, 0),
    (b"missing.elsewhere.test", b"80", UNSPEC, STREAM, 0, 0),
    (b"unlike.elsewhere.test", b"80", UNSPEC, STREAM, 0, socket.AI_CANONNAME),
    (b"big", b"1", V4, STREAM, 0, 0),
    (b"db", b"80", UNSPEC, STREAM, 0, socket.AI_CANONNAME),
    (b"db-alias", b"80", V4, STREAM, 0, socket.AI_CANONNAME),
    (b"localhost", b"80", UNSPEC, STREAM, 0, 0),
    (b"LOCALHOST", b"80", V4, STREAM, 0, 0),
    (b"10.0.0.1", b"80", UNSPEC, STREAM, 0, socket.AI_NUMERICHOST),
    (b"inventory", b"80", UNSPEC, STREAM, 0, socket.AI_NUMERICHOST),
    (b"10.0.0.1", b"http", UNSPEC, STREAM, 0, socket.AI_NUMERICSERV),
    (b"10.0.0.1", b"odd", UNSPEC, STREAM, 0, 0),
    (b"10.0.0.1", b"odd", UNSPEC, DGRAM, 0, 0),
    (b"10.0.0.1", b"echo", UNSPEC, 0, 0, 0),
    (b"10.0.0.1", b"99999", UNSPEC, STREAM, 0, 0),
    (b"fe80::1%lo", b"80", UNSPEC, STREAM, 0, 0),
    (None, b"80", UNSPEC, STREAM, 0, socket.AI_PASSIVE),
    (None, b"80", UNSPEC, STREAM, 0, 0),
    (b"10.0.0.1", b"80", 99, STREAM, 0, 0),
    (b"10.0.0.1", b"80", UNSPEC, 77, 0, 0),
    (b"10.0.0.1", b"80", UNSPEC, STREAM, 17, 0),
    (b"10.0.0.1", b"80", UNSPEC, STREAM, 0, 1 << 20),
    (b"x" * 300, b"80", UNSPEC, STREAM, 0, 0),
    (b"127.1", b"80", UNSPEC, STREAM, 0, 0),
]


async def test_addresses_are_those_the_target_finds(scene: Scene) -> None:
    for question in QUESTIONS:
        assert await look_up(scene.agent, *question) == target_look_up(scene.target, *question), question


async def test_internationalised_names_are_encoded(scene: Scene) -> None:
    found = await look_up(scene.agent, "bücher".encode(), b"80", V4, STREAM, 0, AI_IDN)
    assert isinstance(found, list)
    assert found[0][4] == ("10.1.1.1", 80)


async def test_hosts_are_those_the_target_finds(scene: Scene) -> None:
    for name in ("inventory", "alias", "db", "db-alias", "localhost", "missing", "empty", "10.2.3.4", "big"):
        answer = await scene.agent.peer.request(m.LookUpHost(name.encode(), V4))
        told = asked(scene.target, f"socket.gethostbyname_ex({name!r})")
        if isinstance(told, int):
            # Python asks getaddrinfo first, so its code is another.
            assert isinstance(answer, m.LookUpFailed), name
            assert answer.code == (4 if name == "empty" else 1)
            continue
        assert isinstance(answer, m.HostLookedUp), name
        addresses = [socket.inet_ntoa(address) for address in answer.addresses]
        assert (answer.name.decode(), [alias.decode() for alias in answer.aliases], addresses) == told
    answer = await scene.agent.peer.request(m.LookUpHost(b"only-six", V6))
    assert isinstance(answer, m.HostLookedUp)
    assert answer.addresses == (socket.inet_pton(V6, "fd00::66"),)


async def test_addresses_are_named_as_the_target_names_them(scene: Scene) -> None:
    for address in ("10.9.8.7", "10.1.2.3", "127.0.0.1", "10.0.0.9", "::1", "fd00::3"):
        packed = socket.inet_pton(V6 if ":" in address else V4, address)
        answer = await scene.agent.peer.request(m.LookUpHostByAddress(packed))
        told = asked(scene.target, f"socket.gethostbyaddr({address!r})")
        if isinstance(answer, m.LookUpFailed):
            assert answer.code == told
        else:
            assert isinstance(answer, m.HostLookedUp)
            assert (answer.name.decode(), [alias.decode() for alias in answer.aliases]) == told[:2]
        for flags in (0, socket.NI_NUMERICHOST, socket.NI_NAMEREQD, socket.NI_NUMERICSERV, socket.NI_DGRAM):
            named = await scene.agent.peer.request(m.LookUpName(m.SocketAddress(packed, 4242), flags))
            told = asked(scene.target, f"socket.getnameinfo(({address!r}, 4242), {int(flags)})")
            if isinstance(named, m.LookUpFailed):
                assert named.code == told
            else:
                assert isinstance(named, m.NameLookedUp)
                assert (named.host.decode(), named.service.decode()) == told


async def test_only_the_wanted_half_of_a_name_is_looked_up(scene: Scene) -> None:
    endpoint = m.SocketAddress(socket.inet_aton("10.9.8.7"), 80)
    named = await scene.agent.peer.request(m.LookUpName(endpoint, 0, wants_host=False))
    assert named == m.NameLookedUp(b"", b"http")
    named = await scene.agent.peer.request(m.LookUpName(endpoint, 0, wants_service=False))
    assert named == m.NameLookedUp(b"inventory.shop.test", b"")


async def test_changed_files_are_followed(scene: Scene) -> None:
    question = (b"newcomer", b"80", V4, STREAM, 0, 0)
    assert await look_up(scene.agent, *question) == socket.EAI_NONAME
    (scene.root / "etc/hosts").write_text(HOSTS + "10.5.5.5 newcomer\n")
    assert await look_up(scene.agent, *question) == [(V4, STREAM, 6, "", ("10.5.5.5", 80))]
    question = (b"unlike", b"80", V4, STREAM, 0, 0)
    assert await look_up(scene.agent, *question) == socket.EAI_NONAME
    (scene.root / "etc/resolv.conf").write_text(RESOLV_CONF.replace("other.test", "elsewhere.test"))
    assert await look_up(scene.agent, *question) == [(V4, STREAM, 6, "", ("10.4.4.4", 80))]
    (scene.root / "etc/nsswitch.conf").write_text("hosts: files\n")
    assert await look_up(scene.agent, *question) == socket.EAI_NONAME


async def test_modules_of_the_targets_root_are_not_loaded(scene: Scene) -> None:
    libraries = scene.root / "lib/x86_64-linux-gnu"
    libraries.mkdir(parents=True)
    (libraries / "libnss_evil.so.2").write_bytes(b"not even a library")
    (scene.root / "etc/nsswitch.conf").write_text(
        "hosts: evil [!UNAVAIL=return] files evil dns\nservices: evil files\n"
    )
    os.utime(libraries / "libnss_evil.so.2", ns=(0, 10**18))
    assert await look_up(scene.agent, b"db", b"http", V4, STREAM, 0, 0) == [(V4, STREAM, 6, "", ("10.1.2.3", 80))]
    assert (libraries / "libnss_evil.so.2").stat().st_atime_ns == 0


async def test_the_targets_resolver_variables_count(root: Path) -> None:
    async with open_scene(root, LOCALDOMAIN="elsewhere.test") as scene:
        found = await look_up(scene.agent, b"unlike", b"80", V4, STREAM, 0, 0)
        assert found == target_look_up(scene.target, b"unlike", b"80", V4, STREAM, 0, 0)
        assert isinstance(found, list)


async def test_a_silent_name_server_stops_nothing_else(scene: Scene) -> None:
    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(look_up, scene.agent, b"silent-%d.shop.test." % number, b"80", V4, STREAM, 0, 0)
        with trio.fail_after(60):
            assert isinstance(await look_up(scene.agent, b"inventory", b"80", V4, STREAM, 0, 0), list)
            await scene.agent.peer.request(m.StatFile(b"/etc/hosts", follow=True))
        nursery.cancel_scope.cancel()


async def test_a_silent_name_server_ends_in_the_resolvers_own_error(scene: Scene) -> None:
    (scene.root / "etc/resolv.conf").write_text(IMPATIENT)
    question = (b"silent.shop.test.", b"80", V4, STREAM, 0, 0)
    assert await look_up(scene.agent, *question) == socket.EAI_AGAIN == target_look_up(scene.target, *question)


async def test_a_name_with_a_nul_is_refused(scene: Scene) -> None:
    with pytest.raises(Exception, match="Invalid argument"):
        await look_up(scene.agent, b"db\0.evil", b"80", V4, STREAM, 0, 0)
