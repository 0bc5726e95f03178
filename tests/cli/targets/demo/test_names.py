"""The sandbox's name server, as transcripts: a question, and what is answered."""

from __future__ import annotations

import dns.flags
import dns.message
import dns.rcode
import pytest

from mirror.cli.targets.demo import names


def ask(name: str, kind: str) -> tuple[str, list[str]]:
    reply = names.answer(dns.message.make_query(name, kind))
    return dns.rcode.to_text(reply.rcode()), [record.to_text() for record in reply.answer]


STOREFRONT = "storefront.shop.svc.cluster.local."


@pytest.mark.parametrize(
    ("name", "kind", "code", "records"),
    [
        (STOREFRONT, "A", "NOERROR", [f"{STOREFRONT} 5 IN A 10.96.14.9"]),
        (STOREFRONT.upper(), "A", "NOERROR", [f"{STOREFRONT.upper()} 5 IN A 10.96.14.9"]),
        (STOREFRONT, "AAAA", "NOERROR", []),
        (
            "stock.shop.svc.cluster.local.",
            "AAAA",
            "NOERROR",
            [
                "stock.shop.svc.cluster.local. 5 IN CNAME inventory.shop.svc.cluster.local.",
                "inventory.shop.svc.cluster.local. 5 IN AAAA fd00:10:96::e05",
            ],
        ),
        ("9.14.96.10.in-addr.arpa.", "PTR", "NOERROR", [f"9.14.96.10.in-addr.arpa. 5 IN PTR {STOREFRONT}"]),
        ("nobody.shop.svc.cluster.local.", "A", "NXDOMAIN", []),
        ("example.com.", "A", "NXDOMAIN", []),
        ("broken.shop.svc.cluster.local.", "A", "SERVFAIL", []),
    ],
)  # fmt: skip
def test_answers(name: str, kind: str, code: str, records: list[str]) -> None:
    assert ask(name, kind) == (code, records)


def test_a_question_without_a_question_is_refused() -> None:
    assert names.answer(dns.message.Message()).rcode() == dns.rcode.FORMERR
