"""The little of Kubernetes' API that bringing a cluster up needs, with the administrator's certificate."""

from __future__ import annotations

import http.client
import json
import ssl
import time
from collections.abc import Callable
from typing import Any

from tests.cluster.places import API_PORT, NODE_ADDRESS, ClusterError
from tests.cluster.programs import KEYS


def request(method: str, path: str, body: Any = None, limit: float = 10) -> http.client.HTTPResponse:
    """Sends a request and returns the answer, whatever its status.

    Raises:
        OSError: the API server does not answer.
    """
    context = ssl.create_default_context(cafile=str(KEYS / "ca.crt"))
    context.load_cert_chain(KEYS / "admin.crt", KEYS / "admin.key")
    connection = http.client.HTTPSConnection(NODE_ADDRESS, API_PORT, context=context, timeout=limit)
    connection.request(method, path, json.dumps(body) if body else None, {"Content-Type": "application/json"})
    return connection.getresponse()


def create(path: str, item: dict[str, Any]) -> None:
    """Creates an object.

    Raises:
        ClusterError: it was refused.
    """
    answer = request("POST", path, item)
    if answer.status not in (200, 201, 202):
        raise ClusterError(f"{item['kind']} {item['metadata']['name']} was refused: {answer.read().decode()[:300]}")


def is_ready() -> bool:
    try:
        return request("GET", "/readyz", limit=2).status == 200
    except (OSError, http.client.HTTPException):
        return False


def wait_for(path: str, holds: Callable[[dict[str, Any]], bool], limit: float) -> bool:
    """Watches objects until one is as wanted; says whether that came in time."""
    deadline = time.monotonic() + limit
    while (left := deadline - time.monotonic()) > 0:
        try:
            answer = request("GET", f"{path}?watch=1&timeoutSeconds={max(1, round(left))}", limit=left + 1)
            for line in answer:
                event = json.loads(line)
                if event["type"] in ("ADDED", "MODIFIED") and holds(event["object"]):
                    return True
        except (OSError, http.client.HTTPException, ValueError):
            time.sleep(0.1)
    return False


def has_condition(item: dict[str, Any], kind: str) -> bool:
    conditions = item.get("status", {}).get("conditions") or []
    return any(entry["type"] == kind and entry["status"] == "True" for entry in conditions)
