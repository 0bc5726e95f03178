"""The sandbox's name server: the zone of a Kubernetes cluster (A, AAAA, CNAME and PTR), and nothing beyond it.

As CoreDNS does it: a name without records of the asked type is NODATA, an unknown one NXDOMAIN, and an answer too
long for a datagram is marked truncated, so that the resolver asks again over TCP.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import threading

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.reversename
import dns.rrset

from mirror.cli.targets.demo import scene

TTL_S = 5
_ZONE = dns.name.from_text(f"{scene.DOMAIN}.")


def _full(name: str) -> dns.name.Name:
    return dns.name.from_text(f"{name}.svc.{scene.DOMAIN}.")


_ADDRESSES = {_full(name): addresses for name, addresses in scene.SERVICES.items()}
_ALIASES = {_full(name): _full(target) for name, target in scene.ALIASES.items()}
_BROKEN = _full(scene.BROKEN)
_POINTERS: dict[dns.name.Name, dns.name.Name] = {}
for _name, _addresses in _ADDRESSES.items():
    for _address in _addresses:
        _POINTERS.setdefault(dns.reversename.from_address(_address), _name)


def answer(question: dns.message.Message) -> dns.message.Message:
    """What the name server says to a question."""
    reply = dns.message.make_response(question, recursion_available=True)
    if len(question.question) != 1:
        reply.set_rcode(dns.rcode.FORMERR)
        return reply
    name, kind = question.question[0].name, question.question[0].rdtype
    if name == _BROKEN:
        reply.set_rcode(dns.rcode.SERVFAIL)
        return reply
    if name in _ALIASES:
        target = _ALIASES[name]
        reply.answer.append(dns.rrset.from_text(name, TTL_S, "IN", "CNAME", target.to_text()))
        name = target
    if name in _POINTERS and kind == dns.rdatatype.PTR:
        reply.answer.append(dns.rrset.from_text(name, TTL_S, "IN", "PTR", _POINTERS[name].to_text()))
    elif name in _ADDRESSES:
        version = {dns.rdatatype.A: 4, dns.rdatatype.AAAA: 6}.get(kind)
        wanted = [address for address in _ADDRESSES[name] if ipaddress.ip_address(address).version == version]
        if wanted:
            reply.answer.append(dns.rrset.from_text_list(name, TTL_S, "IN", kind, wanted))
    elif name not in _POINTERS:
        reply.set_rcode(dns.rcode.NXDOMAIN)
    if name.is_subdomain(_ZONE):
        reply.flags |= dns.flags.AA
    return reply


def serve_datagrams(datagrams: socket.socket) -> None:
    """Answers questions over UDP, for ever."""
    while True:
        packet, client = datagrams.recvfrom(4096)
        try:
            question = dns.message.from_wire(packet)
        except dns.exception.DNSException:
            continue
        reply = answer(question)
        limit = max(question.payload, 512) if question.edns >= 0 else 512
        try:
            wire = reply.to_wire(max_size=limit, want_shuffle=False)
        except dns.exception.TooBig:
            reply.answer.clear()
            reply.flags |= dns.flags.TC
            wire = reply.to_wire()
        datagrams.sendto(wire, client)


def serve_streams(listener: socket.socket) -> None:
    """Answers questions over TCP, for ever, each client in a thread of its own."""
    while True:
        client, _ = listener.accept()
        threading.Thread(target=_serve_stream, args=(client,), daemon=True).start()


def _serve_stream(client: socket.socket) -> None:
    with client, client.makefile("rwb") as stream:
        while len(prefix := stream.read(2)) == 2:
            try:
                question = dns.message.from_wire(stream.read(struct.unpack("!H", prefix)[0]))
            except dns.exception.DNSException:
                return
            wire = answer(question).to_wire(want_shuffle=False)
            stream.write(struct.pack("!H", len(wire)) + wire)
            stream.flush()
