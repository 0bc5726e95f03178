"""What the table in the target says: which packets go to our listeners, and whose address is put back.

The table is owned by the netlink socket that makes it (`flags owner`, Linux 5.12): nobody else may change it, and the
kernel removes it with the socket. It has up to three kinds of chains:

- `intercept` gives packets to subscribed ports to our listener. With *tproxy* (a filter chain in prerouting) the
  packet stays as it is and only finds another socket: connections that exist already keep theirs, and nothing depends
  on conntrack. Where the kernel has no tproxy, a *redirect* (nat chain) of SYN packets only.
- `intercept-translated` does the same for what the target's own machine leads to such a port from another address
  (Services, published ports), which a redirect cannot have: a connection's destination is translated once.
- `intercept-own` is the redirect's other half: connections that begin in the target itself never meet a nat
  chain in prerouting.
- `callers` gives connections that we pass on to the target's own process the address of the caller. Which one is
  told by the packet mark (see `Mark`), through the maps `callers4` and `callers6`. Added with the first caller from
  outside: a nat chain switches conntrack on.

The rules of the intercepting chains have effect only while the set `alive` has its element, which the kernel removes by
itself unless it is renewed: when everything that could remove the table is stopped too (the processes of a container
that is frozen), new connections go the ordinary way soon. Connections that exist need no rule: their packets find a
socket, or conntrack's translation.

Pure: values in, batches of `netlink` messages out. Not here: sockets, and the process that holds the table (`keeper`).
"""

from __future__ import annotations

import dataclasses
import socket
import struct
from collections.abc import Iterable

from mirror.agent.incoming.netlink import (
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_EXCL,
    Kind,
    attribute,
    be32,
    forget_connections,
    message,
    nested,
    text,
)

AGENTS_MAX = 8
"""How many agents may intercept in one network namespace at a time: one bit of the mark each."""
CALLERS_MAX = 1 << 13
"""How many caller addresses an agent can tell apart at a time.

Bit 13 of a mark makes podman's rules (netavark) masquerade a packet, bit 14 kube-proxy's, bit 15 makes those drop it.
"""
_MAGIC = 0x6D << 24
_MAGIC_MASK = 0xFF << 24
_STAGES_SHIFT = 16
_ALL_STAGES = ((1 << AGENTS_MAX) - 1) << _STAGES_SHIFT

CALLER_PORTS = (61000, 65535)
"""The ports that the target's process sees its callers come from, on connections that were passed on.

The caller's own port is taken, in the same namespace, by the caller's connection to us. These are above Linux's
range for outgoing connections (ip_local_port_range), so that a caller's next connection hardly ever has the same.
"""


ALIVE_S = 1.5
"""How long the rules have effect without `Ruleset.renew`.

Longer than a keeper waits for its agent (`keeper.PATIENCE_S`), which tells of it; and what hangs has to lose its
traffic within two seconds.
"""


class Mark:
    """The packet marks of the agent that is number `stage` (0 to 7) in its network namespace.

    Every socket with which an agent passes something on has a mark: a magic byte, a bit for this agent and for each
    one before it, and the number of the caller's address. An agent leaves alone what has its own bit. So the
    connections that agent 0 passes on are intercepted by agent 1, if it has subscribed to the port, but never the
    other way round; and a packet that was given to a listener gets all bits, which keeps it from the agents after that.
    """

    def __init__(self, stage: int) -> None:
        self.stage = stage
        self._bit = 1 << (_STAGES_SHIFT + stage)
        self.own_mask = _MAGIC_MASK | self._bit
        self.own_value = _MAGIC | self._bit
        self.passed_on_mask = _MAGIC_MASK | _ALL_STAGES
        self.claimed = _MAGIC | _ALL_STAGES

    def passed_on(self, caller: int = 0) -> int:
        """The SO_MARK of connections to the target's process; `caller` is the number of an address, 0 for none."""
        return self.own_value | (self._bit - (1 << _STAGES_SHIFT)) | caller


@dataclasses.dataclass(frozen=True)
class Support:
    """What the kernel of the target offers beyond the owned table with its chain and rules."""

    tproxy4: bool = True
    tproxy6: bool = True
    locality: bool = True
    """`fib daddr type local`: leave forwarded traffic alone, where the target is a whole machine."""
    lookup: bool = True
    """`socket`: intercept for mirroring only what somebody listens to."""
    callers: bool = True
    """The caller's address can be put back (nat)."""
    redirect: bool = True
    expiry: bool = True
    """The rules can lose their effect by themselves (sets with a timeout)."""


@dataclasses.dataclass(frozen=True)
class Intercepted:
    """One row: connections to `port`, of one family, to one local address or all of them."""

    family: socket.AddressFamily
    port: int
    address: bytes = b""
    """Empty: any."""
    only_if_served: bool = False
    """True: a connection that nobody would accept is left to the kernel's ECONNREFUSED."""
    keep_from: tuple[bytes, ...] = ()
    """Callers whose connections are left alone, addresses of the same family."""


@dataclasses.dataclass(frozen=True)
class Ruleset:
    """The batches for one table."""

    name: str
    mark: Mark
    support: Support
    listener_ports: dict[socket.AddressFamily, int]
    """Where our listeners are: 127.0.0.1 and ::1 with tproxy, any address with redirect."""

    def create(self) -> list[bytes]:
        """Makes the table, without effect yet; to be followed by `renew`. EEXIST: the name is taken."""
        messages = [
            message(Kind.NEW_TABLE, text(1, self.name), be32(2, _TABLE_F_OWNER), flags=NLM_F_CREATE | NLM_F_EXCL)
        ]
        if self.support.expiry:
            messages.append(
                message(
                    Kind.NEW_SET,
                    text(1, self.name), text(2, _ALIVE), be32(3, _SET_TIMEOUT), be32(4, _TYPE_PROTOCOL), be32(5, 1),
                    be32(10, _ALIVE_NUMBER), attribute(11, struct.pack("!Q", int(ALIVE_S * 1000))),
                    flags=NLM_F_CREATE,
                )
            )  # fmt: skip
        if self._uses_tproxy:
            for chain, priority in _TPROXY_CHAINS.items():
                messages.append(self._chain(chain, "filter", _PREROUTING, priority + self.mark.stage))
        if self._uses_redirect:
            priority = _PRIORITY_REDIRECT + self.mark.stage
            messages.append(self._chain("intercept-redirect", "nat", _PREROUTING, priority))
            messages.append(self._chain("intercept-own", "nat", _OUTPUT, priority))
        return messages

    def renew(self) -> list[bytes]:
        """Lets the rules have effect for `ALIVE_S` from here on; none if they have it for good.

        An element that exists cannot be renewed (before Linux 6.12), and one that has expired cannot be removed. So all
        are removed, how many ever there are, and one is added in the same transaction.
        """
        if not self.support.expiry:
            return []
        place = text(1, self.name), text(2, _ALIVE)
        element = nested(1, nested(1, attribute(1, bytes([socket.IPPROTO_TCP]))))
        return [
            message(Kind.DEL_SET_ELEMENT, *place),
            message(Kind.NEW_SET_ELEMENT, *place, nested(3, element), flags=NLM_F_CREATE),
        ]

    def intercept(self, rows: Iterable[Intercepted]) -> list[bytes]:
        """Replaces all intercepting rules by these rows; none of them: nothing is intercepted any more."""
        rows = list(rows)
        messages = []
        if self._uses_tproxy:
            rules = [self._tproxy(row) for row in rows if self.has_tproxy(row.family)]
            for chain in _TPROXY_CHAINS:
                messages += self._fill(chain, rules)
        if self._uses_redirect:
            redirected = [row for row in rows if not self.has_tproxy(row.family)]
            messages += self._fill("intercept-redirect", [self._redirect(row, own=False) for row in redirected])
            messages += self._fill("intercept-own", [self._redirect(row, own=True) for row in redirected])
        return messages

    def forget(self) -> bytes:
        """The request that drops what connection tracking knows because of this table.

        A connection that is tracked as established when its agent dies stays so for days, and a later one with the same
        ports would be translated like it.
        """
        return forget_connections(self.mark.passed_on(), self.mark.passed_on_mask)

    def start_callers(self) -> list[bytes]:
        """Makes the maps of callers and the chain that uses them."""
        name = self.name
        first, last = (struct.pack("!H", port) for port in CALLER_PORTS)
        messages = [self._chain("callers", "nat", _POSTROUTING, _PRIORITY_CALLERS)]
        for number, (family, (set_name, data_type, size)) in enumerate(_CALLER_MAPS.items(), _ALIVE_NUMBER + 1):
            messages.append(
                message(
                    Kind.NEW_SET,
                    text(1, name), text(2, set_name), be32(3, _SET_MAP), be32(4, _TYPE_MARK), be32(5, 4),
                    be32(6, data_type), be32(7, size), be32(10, number),
                    flags=NLM_F_CREATE,
                )
            )  # fmt: skip
            messages.append(
                self._rule(
                    "callers",
                    [
                        *_require_family(family),
                        _expression("meta", be32(1, _REGISTER_1), be32(2, _META_MARK)),
                        _expression(
                            "lookup", text(1, set_name), be32(2, _REGISTER_1), be32(3, _REGISTER_1), be32(4, number)
                        ),
                        _expression("meta", be32(1, _REGISTER_2), be32(2, _META_MARK)),
                        _expression("ct", be32(2, _CT_MARK), be32(4, _REGISTER_2)),
                        _immediate(_REGISTER_2, first),
                        _immediate(_REGISTER_3, last),
                        _expression(
                            "nat",
                            be32(1, _NAT_SNAT), be32(2, _NFPROTO[family]), be32(3, _REGISTER_1),
                            be32(5, _REGISTER_2), be32(6, _REGISTER_3), be32(7, _NAT_RANGE_PORTS),
                        ),
                    ],
                )
            )  # fmt: skip
        return messages

    def add_caller(self, number: int, address: bytes) -> list[bytes]:
        """Lets connections with the mark `passed_on(number)` come from this address (4 or 16 bytes)."""
        return [self._caller(Kind.NEW_SET_ELEMENT, number, address, flags=NLM_F_CREATE)]

    def remove_caller(self, number: int, address: bytes) -> list[bytes]:
        """Undoes `add_caller`; connections that exist keep the address."""
        return [self._caller(Kind.DEL_SET_ELEMENT, number, address)]

    def has_tproxy(self, family: socket.AddressFamily) -> bool:
        """Whether this family's connections are intercepted without conntrack."""
        return self.support.tproxy4 if family == socket.AF_INET else self.support.tproxy6

    @property
    def _uses_tproxy(self) -> bool:
        return any(self.has_tproxy(family) for family in self.listener_ports)

    @property
    def _uses_redirect(self) -> bool:
        return not all(self.has_tproxy(family) for family in self.listener_ports)

    def _tproxy(self, row: Intercepted) -> list[bytes]:
        loopback = socket.inet_pton(row.family, "127.0.0.1" if row.family == socket.AF_INET else "::1")
        return [
            *self._matches(row, own=False),
            _immediate(_REGISTER_1, loopback),
            _immediate(_REGISTER_2, struct.pack("!H", self.listener_ports[row.family])),
            _expression("tproxy", be32(1, _NFPROTO[row.family]), be32(2, _REGISTER_1), be32(3, _REGISTER_2)),
            _immediate(_REGISTER_1, struct.pack("=I", self.mark.claimed)),
            _expression("meta", be32(2, _META_MARK), be32(3, _REGISTER_1)),
            _verdict(_NF_ACCEPT),
        ]

    def _redirect(self, row: Intercepted, *, own: bool) -> list[bytes]:
        return [
            *self._matches(row, own=own),
            # A nat chain sees the first packet of what conntrack takes for a connection. Conntrack may start with the
            # chain, so that this is any packet of a connection which is older than the rule: only SYN is a beginning.
            _expression("payload", be32(1, _REGISTER_1), be32(2, _BASE_TRANSPORT), be32(3, 13), be32(4, 1)),
            _masked(_REGISTER_1, b"\x17"),  # FIN | SYN | RST | ACK
            _compare(_REGISTER_1, b"\x02"),
            _immediate(_REGISTER_1, struct.pack("!H", self.listener_ports[row.family])),
            _immediate(_REGISTER_2, struct.pack("=I", self.mark.passed_on())),
            _expression("ct", be32(2, _CT_MARK), be32(4, _REGISTER_2)),
            # Only the port, where `redirect` would also choose an address: inside the target 127.0.0.1, from which
            # no answer to a caller's address can be routed.
            _expression(
                "nat",
                be32(1, _NAT_DNAT), be32(2, _NFPROTO[row.family]),
                be32(5, _REGISTER_1), be32(6, _REGISTER_1), be32(7, _NAT_RANGE_PORTS),
            ),
        ]  # fmt: skip

    def _matches(self, row: Intercepted, *, own: bool) -> list[bytes]:
        """`own`: in the output hook, where the only socket to be found is the caller's."""
        expressions = [
            _expression("meta", be32(1, _REGISTER_1), be32(2, _META_L4PROTO)),
            _compare(_REGISTER_1, bytes([socket.IPPROTO_TCP])),
            _expression("payload", be32(1, _REGISTER_1), be32(2, _BASE_TRANSPORT), be32(3, 2), be32(4, 2)),
            _compare(_REGISTER_1, struct.pack("!H", row.port)),
            *_require_family(row.family),
        ]
        if row.address:
            destination = 16 if row.family == socket.AF_INET else 24
            expressions += [_address(row.family, destination), _compare(_REGISTER_1, row.address)]
        if row.keep_from:
            source = 12 if row.family == socket.AF_INET else 8
            expressions.append(_address(row.family, source))
            expressions += [_compare(_REGISTER_1, caller, _CMP_NEQ) for caller in row.keep_from]
        expressions += [
            _expression("meta", be32(1, _REGISTER_1), be32(2, _META_MARK)),
            _masked(_REGISTER_1, struct.pack("=I", self.mark.own_mask)),
            _compare(_REGISTER_1, struct.pack("=I", self.mark.own_value), _CMP_NEQ),
        ]
        if self.support.locality:
            expressions += [
                _expression("fib", be32(1, _REGISTER_1), be32(2, _FIB_ADDRTYPE), be32(3, _FIB_F_DADDR)),
                _compare(_REGISTER_1, struct.pack("=I", _RTN_LOCAL)),
            ]
        if self.support.expiry:
            expressions += [
                _expression("meta", be32(1, _REGISTER_1), be32(2, _META_L4PROTO)),
                _expression("lookup", text(1, _ALIVE), be32(2, _REGISTER_1)),
            ]
        if row.only_if_served and self.support.lookup and not own:
            # Loads something of the socket that the packet would reach, and ends the rule if there is none.
            expressions.append(_expression("socket", be32(1, _SOCKET_TRANSPARENT), be32(2, _REGISTER_1)))
        return expressions

    def _chain(self, name: str, kind: str, hook: int, priority: int) -> bytes:
        return message(
            Kind.NEW_CHAIN,
            text(1, self.name), text(3, name), nested(4, be32(1, hook), be32(2, priority)), text(7, kind),
            flags=NLM_F_CREATE,
        )  # fmt: skip

    def _fill(self, chain: str, rules: list[list[bytes]]) -> list[bytes]:
        empty = message(Kind.DEL_RULE, text(1, self.name), text(2, chain))
        return [empty, *(self._rule(chain, rule) for rule in rules)]

    def _rule(self, chain: str, expressions: list[bytes]) -> bytes:
        attributes = text(1, self.name), text(2, chain), nested(4, *expressions)
        return message(Kind.NEW_RULE, *attributes, flags=NLM_F_CREATE | NLM_F_APPEND)

    def _caller(self, kind: Kind, number: int, address: bytes, flags: int = 0) -> bytes:
        family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
        key = nested(1, attribute(1, struct.pack("=I", self.mark.passed_on(number))))
        element = nested(1, key, nested(2, attribute(1, address)))
        return message(kind, text(1, self.name), text(2, _CALLER_MAPS[family][0]), nested(3, element), flags=flags)


# --- expressions ------------------------------------------------------------------------------------------


def _expression(name: str, *attributes: bytes) -> bytes:
    return nested(1, text(1, name), nested(2, *attributes))


def _compare(register: int, value: bytes, operator: int = 0) -> bytes:
    return _expression("cmp", be32(1, register), be32(2, operator), nested(3, attribute(1, value)))


def _masked(register: int, mask: bytes) -> bytes:
    zero = nested(5, attribute(1, bytes(len(mask))))
    attributes = be32(1, register), be32(2, register), be32(3, len(mask)), nested(4, attribute(1, mask)), zero
    return _expression("bitwise", *attributes)


def _immediate(register: int, value: bytes) -> bytes:
    return _expression("immediate", be32(1, register), nested(2, attribute(1, value)))


def _verdict(code: int) -> bytes:
    return _expression("immediate", be32(1, _REGISTER_VERDICT), nested(2, nested(2, be32(1, code))))


def _address(family: socket.AddressFamily, offset: int) -> bytes:
    """Loads an address of the IP header."""
    size = 4 if family == socket.AF_INET else 16
    return _expression("payload", be32(1, _REGISTER_1), be32(2, _BASE_NETWORK), be32(3, offset), be32(4, size))


def _require_family(family: socket.AddressFamily) -> list[bytes]:
    load = _expression("meta", be32(1, _REGISTER_1), be32(2, _META_NFPROTO))
    return [load, _compare(_REGISTER_1, bytes([_NFPROTO[family]]))]


# --- numbers of linux/netfilter/nf_tables.h, nf_nat.h and linux/netfilter.h --------------------------------

_TABLE_F_OWNER = 0x2
_PREROUTING, _OUTPUT, _POSTROUTING = 0, 3, 4
_TPROXY_CHAINS = {"intercept": -150, "intercept-translated": -100 + 1}
"""Priorities, plus the agent's number. NF_IP_PRI_MANGLE is before the redirect rules of service meshes (-100).

After NF_IP_PRI_NAT_DST comes what had another destination: a Service's or a published port's, where the target has the
network of its machine, whose rules lead it to the target's port there. In a network of the target's own that has been
done elsewhere. What the first chain has taken bears a mark, and the second leaves it alone.
"""
_PRIORITY_REDIRECT = -100 - AGENTS_MAX
_PRIORITY_CALLERS = 100
"""NF_IP_PRI_NAT_SRC; nat chains at other priorities are refused by older kernels."""
_NFPROTO = {socket.AF_INET: 2, socket.AF_INET6: 10}
_REGISTER_VERDICT, _REGISTER_1, _REGISTER_2, _REGISTER_3 = 0, 1, 2, 3
_META_MARK, _META_NFPROTO, _META_L4PROTO = 3, 15, 16
_BASE_NETWORK, _BASE_TRANSPORT = 1, 2
_CMP_NEQ = 1
_FIB_ADDRTYPE, _FIB_F_DADDR = 3, 2
_RTN_LOCAL = 2
_SOCKET_TRANSPARENT = 0
_CT_MARK = 3
_NAT_SNAT, _NAT_DNAT = 0, 1
_NAT_RANGE_PORTS = 2
_NF_ACCEPT = 1
_SET_MAP, _SET_TIMEOUT = 0x8, 0x10
_TYPE_PROTOCOL, _TYPE_MARK = 12, 19
"""nft's own numbers for the types `inet_proto` and `mark`: they only decide how `nft list` prints the elements."""
_ALIVE, _ALIVE_NUMBER = "alive", 1
_CALLER_MAPS = {socket.AF_INET: ("callers4", 7, 4), socket.AF_INET6: ("callers6", 8, 16)}
