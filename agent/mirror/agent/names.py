"""Name resolution as a program in the target would see it, for the worker process.

The real functions of the C library are asked, in a process whose root and network are the target's: so
/etc/hosts, /etc/resolv.conf with its search list and options, every flag, service names, canonical names and
address order come out as there, and changes of those files are picked up as the library does it. What is passed
through is the raw call: its integers go in, its codes come out.

Nothing is cached here. How the library is prepared for a foreign root is in `resolver`.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import sys
from typing import Any

from mirror.agent.libc import library
from mirror.protocol.messages import (
    AddressInfo,
    AddressLookedUp,
    HostLookedUp,
    LookUpAddress,
    LookUpFailed,
    LookUpHost,
    LookUpHostByAddress,
    LookUpName,
    NameLookedUp,
    SocketAddress,
)

_EAI_SYSTEM = -11
_NETDB_INTERNAL = -1
_HOST_NOT_FOUND = 1
_NI_MAXHOST = 1025
_NI_MAXSERV = 256
"""Longer than the NI_MAXSERV of 32, so that it never is what limits an answer."""
_LARGEST_ANSWER_BYTES = 1 << 20


class _AddrInfo(ctypes.Structure):
    """struct addrinfo (netdb.h)."""


_AddrInfo._fields_ = [
    ("flags", ctypes.c_int),
    ("family", ctypes.c_int),
    ("socktype", ctypes.c_int),
    ("protocol", ctypes.c_int),
    ("addrlen", ctypes.c_uint),
    ("addr", ctypes.c_void_p),
    ("canonname", ctypes.c_char_p),
    ("next", ctypes.POINTER(_AddrInfo)),
]


class _HostEntry(ctypes.Structure):
    """struct hostent (netdb.h)."""

    _fields_ = [
        ("name", ctypes.c_char_p),
        ("aliases", ctypes.POINTER(ctypes.c_char_p)),
        ("addrtype", ctypes.c_int),
        ("length", ctypes.c_int),
        ("addresses", ctypes.POINTER(ctypes.c_void_p)),
    ]


library.getaddrinfo.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p)
library.freeaddrinfo.argtypes = (ctypes.c_void_p,)
library.freeaddrinfo.restype = None
library.getnameinfo.argtypes = (
    ctypes.c_char_p,
    ctypes.c_uint,
    ctypes.c_void_p,
    ctypes.c_uint,
    ctypes.c_void_p,
    ctypes.c_uint,
    ctypes.c_int,
)


def look_up_address(request: LookUpAddress) -> AddressLookedUp | LookUpFailed:
    """getaddrinfo(3)."""
    hints = _AddrInfo(flags=request.flags, family=request.family, socktype=request.socktype, protocol=request.protocol)
    first = ctypes.POINTER(_AddrInfo)()
    code = library.getaddrinfo(request.node, request.service, ctypes.byref(hints), ctypes.byref(first))
    if code:
        return LookUpFailed(code, ctypes.get_errno() if code == _EAI_SYSTEM else 0)
    try:
        entries = []
        canonical_name = first.contents.canonname
        entry = first
        while entry:
            info = entry.contents
            endpoint = _endpoint_at(info.addr, info.family)
            if endpoint is not None:
                entries.append(AddressInfo(info.socktype, info.protocol, endpoint))
            entry = info.next
        return AddressLookedUp(tuple(entries), canonical_name)
    finally:
        library.freeaddrinfo(first)


def look_up_name(request: LookUpName) -> NameLookedUp | LookUpFailed:
    """getnameinfo(3)."""
    host = ctypes.create_string_buffer(_NI_MAXHOST if request.wants_host else 1)
    service = ctypes.create_string_buffer(_NI_MAXSERV if request.wants_service else 1)
    address = _socket_address(request.endpoint)
    code = library.getnameinfo(
        address,
        len(address),
        host if request.wants_host else None,
        _NI_MAXHOST if request.wants_host else 0,
        service if request.wants_service else None,
        _NI_MAXSERV if request.wants_service else 0,
        request.flags,
    )
    if code:
        return LookUpFailed(code, ctypes.get_errno() if code == _EAI_SYSTEM else 0)
    return NameLookedUp(host.value, service.value)


def look_up_host(request: LookUpHost) -> HostLookedUp | LookUpFailed:
    """gethostbyname2(3)."""
    return _call_host(library.gethostbyname2_r, ctypes.c_char_p(request.name), request.family)


def look_up_host_by_address(request: LookUpHostByAddress) -> HostLookedUp | LookUpFailed:
    """gethostbyaddr(3)."""
    family = socket.AF_INET if len(request.address) == 4 else socket.AF_INET6
    return _call_host(
        library.gethostbyaddr_r, ctypes.c_char_p(request.address), ctypes.c_uint(len(request.address)), int(family)
    )


def _call_host(function: Any, *question: Any) -> HostLookedUp | LookUpFailed:
    """Calls one of the reentrant functions, with more room until the answer fits."""
    size_bytes = 8192
    entry = _HostEntry()
    found = ctypes.POINTER(_HostEntry)()
    host_errno = ctypes.c_int(0)
    while True:
        # The entry points into the buffer.
        buffer = ctypes.create_string_buffer(size_bytes)
        number = function(
            *question,
            ctypes.byref(entry),
            buffer,
            ctypes.c_size_t(size_bytes),
            ctypes.byref(found),
            ctypes.byref(host_errno),
        )
        if number != errno.ERANGE or size_bytes >= _LARGEST_ANSWER_BYTES:
            break
        size_bytes *= 4
    if not found:
        code = host_errno.value or _HOST_NOT_FOUND
        return LookUpFailed(code, number if code == _NETDB_INTERNAL else 0)
    return HostLookedUp(
        name=entry.name or b"",
        aliases=tuple(_until_null(entry.aliases)),
        addresses=tuple(ctypes.string_at(pointer, entry.length) for pointer in _until_null(entry.addresses)),
    )


def _until_null(pointers: Any) -> list[Any]:
    """The elements of a NULL-terminated array."""
    elements: list[Any] = []
    while pointers and pointers[len(elements)]:
        elements.append(pointers[len(elements)])
    return elements


def _endpoint_at(pointer: int, family: int) -> SocketAddress | None:
    """The sockaddr_in or sockaddr_in6 at an address in memory; None for any other family."""
    if family == socket.AF_INET:
        raw = ctypes.string_at(pointer, 16)
        return SocketAddress(raw[4:8], int.from_bytes(raw[2:4], "big"))
    if family == socket.AF_INET6:
        raw = ctypes.string_at(pointer, 28)
        return SocketAddress(
            raw[8:24],
            int.from_bytes(raw[2:4], "big"),
            flowinfo=int.from_bytes(raw[4:8], "big"),
            scope_id=int.from_bytes(raw[24:28], sys.byteorder),
        )
    return None


def _socket_address(endpoint: SocketAddress) -> bytes:
    """The sockaddr_in or sockaddr_in6 of an endpoint."""
    port = endpoint.port.to_bytes(2, "big")
    if len(endpoint.address) == 4:
        return int(socket.AF_INET).to_bytes(2, sys.byteorder) + port + endpoint.address + bytes(8)
    return (
        int(socket.AF_INET6).to_bytes(2, sys.byteorder)
        + port
        + endpoint.flowinfo.to_bytes(4, "big")
        + endpoint.address
        + endpoint.scope_id.to_bytes(4, sys.byteorder)
    )
