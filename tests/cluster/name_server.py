"""The cluster's name server: answers for Services from what the API server says, as CoreDNS would.

Runs in a pod, with dnspython, under the pod's service account. Names outside the cluster's domain do not exist: there
is nobody to ask. addons.py deploys it.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import os
import socketserver
import ssl
import sys
import threading
import time
from pathlib import Path
from typing import Any

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.reversename
import dns.rrset

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
DOMAIN = dns.name.from_text(os.environ.get("CLUSTER_DOMAIN", "cluster.local"))
SVC = dns.name.Name([b"svc"]).concatenate(DOMAIN)
POD = dns.name.Name([b"pod"]).concatenate(DOMAIN)
REVERSE = dns.name.from_text("in-addr.arpa")
LIFE = 1
"""Seconds that an answer may be kept: tests change Services and want to see it."""

Records = dict[tuple[dns.name.Name, str], set[str]]


class Directory:
    """What the API server last said, and the records that follow from it."""

    def __init__(self) -> None:
        self._objects: dict[str, dict[str, dict[str, Any]]] = {"services": {}, "endpoints": {}}
        self._lock = threading.Lock()
        self._records: Records = {}
        self.listed: set[str] = set()

    def replace(self, kind: str, objects: list[dict[str, Any]]) -> None:
        with self._lock:
            self._objects[kind] = {_key(item): item for item in objects}
            self._records = records(**self._objects)
            self.listed.add(kind)

    def change(self, kind: str, event: str, item: dict[str, Any]) -> None:
        with self._lock:
            if event == "DELETED":
                self._objects[kind].pop(_key(item), None)
            else:
                self._objects[kind][_key(item)] = item
            self._records = records(**self._objects)

    def answer(self, query: dns.message.Message) -> dns.message.Message:
        response = dns.message.make_response(query)
        response.flags |= dns.flags.AA | dns.flags.RA
        question = query.question[0]
        name, kind = question.name.canonicalize(), dns.rdatatype.to_text(question.rdtype)
        for _ in range(8):  # a chain of names outside of Services: longer ones are nobody's
            found = self._look_up(name, kind)
            if found:
                response.answer.append(dns.rrset.from_text_list(name, LIFE, "IN", kind, sorted(found)))
                return response
            alias = self._look_up(name, "CNAME")
            if not alias:
                break
            response.answer.append(dns.rrset.from_text_list(name, LIFE, "IN", "CNAME", sorted(alias)))
            name = dns.name.from_text(next(iter(alias))).canonicalize()
        if not response.answer and not self._exists(name):
            response.set_rcode(dns.rcode.NXDOMAIN)
        authority = f"ns.dns.{DOMAIN} hostmaster.{DOMAIN} 1 7200 1800 86400 {LIFE}"
        response.authority.append(dns.rrset.from_text(DOMAIN, LIFE, "IN", "SOA", authority))
        return response

    def answer_datagram(self, query: dns.message.Message) -> bytes:
        """An answer that fits; else one that says so, so that TCP is used.

        It is as authoritative as the whole: of an empty answer that is neither that nor recursive, glibc believes that
        the server knows nothing, and asks no further.
        """
        answer = self.answer(query)
        try:
            return answer.to_wire(max_size=max(512, query.payload))
        except dns.exception.TooBig:
            for section in (answer.answer, answer.authority):
                section.clear()
            answer.flags |= dns.flags.TC
            return answer.to_wire()

    def _look_up(self, name: dns.name.Name, kind: str) -> set[str]:
        if kind == "A" and name.is_subdomain(POD) and len(name) == len(POD) + 2:
            try:
                return {str(ipaddress.IPv4Address(name.labels[0].decode().replace("-", ".")))}
            except ValueError:
                return set()
        return self._records.get((name, kind), set())

    def _exists(self, name: dns.name.Name) -> bool:
        """A name with any record, or above one that has: its answer is empty, not `no such name`."""
        return any(known.is_subdomain(name) for known, _ in self._records)


def records(services: dict[str, dict[str, Any]], endpoints: dict[str, dict[str, Any]]) -> Records:
    """The records of all Services.

    https://github.com/kubernetes/dns/blob/master/docs/specification.md
    """
    found: Records = {}

    def add(name: dns.name.Name, kind: str, value: str) -> None:
        found.setdefault((name.canonicalize(), kind), set()).add(value)

    for key, service in services.items():
        spec = service["spec"]
        name = _below(SVC, service["metadata"]["namespace"], service["metadata"]["name"])
        address = spec.get("clusterIP", "")
        if spec.get("type") == "ExternalName":
            add(name, "CNAME", dns.name.from_text(spec["externalName"]).to_text())
        elif address and address != "None":
            add(name, "A", address)
            add(dns.reversename.from_address(address), "PTR", name.to_text())
            for port in spec.get("ports", []):
                if port.get("name"):
                    service_port = _below(name, f"_{port['protocol'].lower()}", f"_{port['name']}")
                    add(service_port, "SRV", f"0 100 {port['port']} {name}")
        else:
            unready = spec.get("publishNotReadyAddresses", False)
            _add_headless(add, name, endpoints.get(key, {}), unready)
    return found


def _add_headless(add: Any, name: dns.name.Name, endpoint: dict[str, Any], unready: bool) -> None:
    for subset in endpoint.get("subsets") or []:
        addresses = (subset.get("addresses") or []) + ((subset.get("notReadyAddresses") or []) if unready else [])
        for entry in addresses:
            host = _below(name, entry.get("hostname") or entry["ip"].replace(".", "-"))
            add(name, "A", entry["ip"])
            add(host, "A", entry["ip"])
            add(dns.reversename.from_address(entry["ip"]), "PTR", host.to_text())
            for port in subset.get("ports") or []:
                if port.get("name"):
                    service_port = _below(name, f"_{port['protocol'].lower()}", f"_{port['name']}")
                    add(service_port, "SRV", f"0 100 {port['port']} {host}")


def _below(parent: dns.name.Name, *labels: str) -> dns.name.Name:
    for label in labels:
        parent = dns.name.Name([label.encode()]).concatenate(parent)
    return parent


def _key(item: dict[str, Any]) -> str:
    return f"{item['metadata']['namespace']}/{item['metadata']['name']}"


# --- from the API server ---------------------------------------------------------------------------------------------


def follow(directory: Directory, kind: str) -> None:
    """Keeps a kind of object up to date, for ever."""
    while True:
        try:
            listed = json.load(_request(f"/api/v1/{kind}"))
            directory.replace(kind, listed["items"])
            version = listed["metadata"]["resourceVersion"]
            for line in _request(f"/api/v1/{kind}?watch=1&resourceVersion={version}"):
                event = json.loads(line)
                if event["type"] == "ERROR":
                    break
                directory.change(kind, event["type"], event["object"])
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            print(f"{kind}: {error!r}; asking again", file=sys.stderr, flush=True)
            time.sleep(0.5)


def _request(path: str) -> http.client.HTTPResponse:
    context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    address = os.environ["KUBERNETES_SERVICE_HOST"], int(os.environ["KUBERNETES_SERVICE_PORT"])
    connection = http.client.HTTPSConnection(*address, context=context, timeout=600)
    connection.request("GET", path, headers={"Authorization": f"Bearer {(ACCOUNT / 'token').read_text()}"})
    response = connection.getresponse()
    if response.status != 200:
        raise OSError(f"the API server answered {response.status} {response.read().decode()[:200]}")
    return response


# --- to those who ask ------------------------------------------------------------------------------------------------


class Datagram(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        wire, sock = self.request
        try:
            query = dns.message.from_wire(wire)
        except dns.exception.DNSException:
            return
        assert isinstance(self.server, DatagramServer), "it makes these"
        sock.sendto(self.server.directory.answer_datagram(query), self.client_address)


class Connection(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, ConnectionServer), "it makes these"
        try:
            while True:
                query, _ = dns.query.receive_tcp(self.request, one_rr_per_rrset=False)
                dns.query.send_tcp(self.request, self.server.directory.answer(query))
        except (EOFError, OSError, dns.exception.DNSException):
            return


class DatagramServer(socketserver.ThreadingUDPServer):
    directory: Directory
    allow_reuse_address = True
    daemon_threads = True
    max_packet_size = 65535


class ConnectionServer(socketserver.ThreadingTCPServer):
    directory: Directory
    allow_reuse_address = True
    daemon_threads = True


def main() -> None:
    directory = Directory()
    for kind in ("services", "endpoints"):
        threading.Thread(target=follow, args=(directory, kind), daemon=True).start()
    while directory.listed != {"services", "endpoints"}:
        time.sleep(0.02)
    connections = ConnectionServer(("", 53), Connection)
    datagrams = DatagramServer(("", 53), Datagram)
    connections.directory = datagrams.directory = directory
    threading.Thread(target=connections.serve_forever, daemon=True).start()
    print("serving", flush=True)
    datagrams.serve_forever()


if __name__ == "__main__":
    main()
