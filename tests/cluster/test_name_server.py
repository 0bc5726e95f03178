"""The cluster's name server answers as Kubernetes' specification of its DNS says."""

from __future__ import annotations

from typing import Any

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import pytest

from tests.cluster.name_server import Directory


@pytest.fixture
def directory() -> Directory:
    made = Directory()
    ports = [{"name": "http", "protocol": "TCP", "port": 80}]
    made.replace(
        "services",
        [
            service("shop", "web", clusterIP="10.96.1.2", ports=ports),
            service("shop", "db", clusterIP="None", ports=[{"name": "sql", "protocol": "TCP", "port": 5432}]),
            service("shop", "away", type="ExternalName", externalName="web.shop.svc.cluster.local"),
            service("shop", "abroad", type="ExternalName", externalName="example.org"),
        ],
    )
    addresses = [{"ip": "10.244.0.7", "hostname": "db-0"}, {"ip": "10.244.0.8"}]
    subset = {
        "addresses": addresses,
        "notReadyAddresses": [{"ip": "10.244.0.9"}],
        "ports": [{**ports[0], "name": "sql", "port": 5432}],
    }
    made.replace("endpoints", [{"metadata": {"namespace": "shop", "name": "db"}, "subsets": [subset]}])
    return made


def service(namespace: str, name: str, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"namespace": namespace, "name": name}, "spec": spec}


def ask(directory: Directory, name: str, kind: str = "A") -> list[str]:
    """The records of an answer as text; the code alone if it is not success."""
    answer = directory.answer(dns.message.make_query(name, kind))
    if answer.rcode() != dns.rcode.NOERROR:
        return [dns.rcode.to_text(answer.rcode())]
    return sorted(f"{dns.rdatatype.to_text(found.rdtype)} {item}" for found in answer.answer for item in found)


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("web.shop.svc.cluster.local", "A", ["A 10.96.1.2"]),
        ("WEB.Shop.svc.cluster.local", "A", ["A 10.96.1.2"]),
        ("web.shop.svc.cluster.local", "AAAA", []),
        ("_http._tcp.web.shop.svc.cluster.local", "SRV", ["SRV 0 100 80 web.shop.svc.cluster.local."]),
        ("2.1.96.10.in-addr.arpa", "PTR", ["PTR web.shop.svc.cluster.local."]),
        ("db.shop.svc.cluster.local", "A", ["A 10.244.0.7", "A 10.244.0.8"]),
        ("db-0.db.shop.svc.cluster.local", "A", ["A 10.244.0.7"]),
        ("10-244-0-8.db.shop.svc.cluster.local", "A", ["A 10.244.0.8"]),
        ("7.0.244.10.in-addr.arpa", "PTR", ["PTR db-0.db.shop.svc.cluster.local."]),
        ("away.shop.svc.cluster.local", "A", ["A 10.96.1.2", "CNAME web.shop.svc.cluster.local."]),
        ("abroad.shop.svc.cluster.local", "A", ["CNAME example.org."]),
        ("10-244-0-9.shop.pod.cluster.local", "A", ["A 10.244.0.9"]),
        ("shop.svc.cluster.local", "A", []),
        ("nothing.shop.svc.cluster.local", "A", ["NXDOMAIN"]),
        ("web.shop.svc.cluster.local.shop.svc.cluster.local", "A", ["NXDOMAIN"]),
        ("example.org", "A", ["NXDOMAIN"]),
    ],
)
def test_answers(directory: Directory, name: str, kind: str, expected: list[str]) -> None:
    assert ask(directory, name, kind) == expected


def test_addresses_that_are_not_ready_are_told_where_the_service_says_so(directory: Directory) -> None:
    headless = service("shop", "db", clusterIP="None", publishNotReadyAddresses=True)
    directory.change("services", "MODIFIED", headless)
    assert ask(directory, "db.shop.svc.cluster.local") == ["A 10.244.0.7", "A 10.244.0.8", "A 10.244.0.9"]


def test_what_is_deleted_is_not_there(directory: Directory) -> None:
    directory.change("services", "DELETED", service("shop", "web", clusterIP="10.96.1.2"))
    assert ask(directory, "web.shop.svc.cluster.local") == ["NXDOMAIN"]


def test_an_answer_that_is_too_long_for_a_datagram_says_so_and_is_believed(directory: Directory) -> None:
    addresses = [{"ip": f"10.244.1.{number}"} for number in range(60)]
    directory.replace(
        "endpoints", [{"metadata": {"namespace": "shop", "name": "db"}, "subsets": [{"addresses": addresses}]}]
    )
    query = dns.message.make_query("db.shop.svc.cluster.local", "A")
    cut = dns.message.from_wire(directory.answer_datagram(query))
    assert not cut.answer
    assert cut.flags & dns.flags.TC
    assert cut.flags & dns.flags.AA  # else glibc asks no further
    assert len(directory.answer(query).answer[0]) == 60
