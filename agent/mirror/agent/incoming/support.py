"""What the target's kernel can do for incoming traffic, found out by trying it.

A table is made, each kind of rule is put in and the kernel's answer kept; the table goes with its socket. That takes
a few milliseconds and leaves nothing, and it is the only reliable way: modules, kernel options, user namespaces and
sandboxed kernels all have a say.
"""

from __future__ import annotations

import dataclasses
import os
import secrets
import socket

from mirror.agent.incoming import netlink
from mirror.agent.incoming.namespace import in_namespace
from mirror.agent.incoming.ruleset import Intercepted, Mark, Ruleset, Support

_IP_TRANSPARENT = 19
_IPV6_TRANSPARENT = 75

_NOTHING = Support(
    tproxy4=False, tproxy6=False, locality=False, lookup=False, callers=False, redirect=False, expiry=False
)


def probe() -> Support:
    """What works in the network namespace of the calling thread.

    Raises:
        OSError: Not even the table can be made, or no kind of interception works (`table.describe` puts it in words).
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, netlink.NETLINK_NETFILTER) as link:
        link.bind((0, 0))
        ports = {socket.AF_INET: 1, socket.AF_INET6: 1}
        base = Ruleset(
            f"mirror-probe-{secrets.token_hex(4)}", Mark(0), dataclasses.replace(_NOTHING, tproxy4=True), ports
        )
        _try(link, base.create())

        def works(support: Support, *rows: Intercepted) -> bool:
            ruleset = dataclasses.replace(base, support=support)
            try:
                _try(link, ruleset.intercept(rows))
            except OSError:
                return False
            return True

        def tproxy(**others: bool) -> Support:
            return dataclasses.replace(_NOTHING, tproxy4=True, tproxy6=True, **others)

        row4, row6 = Intercepted(socket.AF_INET, 0), Intercepted(socket.AF_INET6, 0)  # port 0: matches no packet
        tproxy4 = _has_transparent(socket.AF_INET) and works(tproxy(), row4)
        tproxy6 = _has_transparent(socket.AF_INET6) and works(tproxy(), row6)
        locality = tproxy4 and works(tproxy(locality=True), row4)
        lookup = tproxy4 and works(tproxy(lookup=True), dataclasses.replace(row4, only_if_served=True))
        try:
            _try(link, base.start_callers())
            callers = True
        except OSError:
            callers = False
        redirect = True
        refusal = None
        try:
            nat = dataclasses.replace(
                base, name=base.name + "-nat", support=dataclasses.replace(_NOTHING, locality=locality)
            )
            _try(link, nat.create())
            _try(link, nat.intercept([row4]))
        except OSError as error:
            redirect, refusal = False, error
        if refusal is not None and not tproxy4:
            raise refusal
        expiry = True
        try:
            expiring = dataclasses.replace(
                base,
                name=base.name + "-expiry",
                support=dataclasses.replace(_NOTHING, tproxy4=tproxy4, tproxy6=tproxy4, expiry=True),
            )
            _try(link, [*expiring.create(), *expiring.renew(), *expiring.intercept([row4])])
            _try(link, expiring.renew())
        except OSError:
            expiry = False
    return Support(tproxy4, tproxy6, locality, lookup, callers, redirect, expiry)


def unavailable(net_fd: int | None) -> str | None:
    """Why incoming traffic cannot be had in this network namespace: a sentence with a remedy; None: it can.

    Args:
        net_fd: An open /proc/PID/ns/net; None for the namespace of this process. The process must already be in the
            user namespace that owns it.

    Blocks for a few milliseconds.
    """
    from mirror.agent.incoming.table import describe

    try:
        with in_namespace(net_fd) as namespace:
            try:
                namespace.call(probe)
            except OSError as error:
                return describe(error)
    except OSError as error:
        return (
            f"the target's network namespace may not be entered ({error.strerror});"
            " run mirror as root (CAP_SYS_ADMIN and CAP_NET_ADMIN)"
        )
    return None


def _try(link: socket.socket, messages: list[bytes]) -> None:
    """Carries out one transaction on a socket of the caller's thread. Raises OSError as the kernel says."""
    link.send(netlink.batch(messages))
    answers = b""
    while True:
        try:
            answers += link.recv(1 << 16, socket.MSG_DONTWAIT)
        except BlockingIOError:
            break
    if number := netlink.first_error(answers):
        raise OSError(number, os.strerror(number))


def _has_transparent(family: socket.AddressFamily) -> bool:
    """Whether a listener may be given connections to addresses that it is not bound to."""
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probed:
            make_transparent(probed)
    except OSError:
        return False
    return True


def make_transparent(listener: socket.socket) -> None:
    """Lets the listener be given connections to other addresses than its own.

    Raises:
        OSError: EPERM without CAP_NET_ADMIN.
    """
    if listener.family == socket.AF_INET:
        listener.setsockopt(socket.SOL_IP, _IP_TRANSPARENT, 1)
    else:
        listener.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
