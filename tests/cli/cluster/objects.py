"""Kubernetes objects as an API server sends them, and an `Api` that holds some."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mirror.cli.cluster.api import Api, ApiError, Object


def pod(
    name: str = "web-1",
    *,
    containers: Mapping[str, Any] | None = None,
    ready: bool = True,
    created: str = "2026-01-01T00:00:00Z",
    owner: str = "",
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    status: Mapping[str, Any] | None = None,
    **metadata: Any,
) -> dict[str, Any]:
    """A pod of node `node-1` in namespace `shop`.

    Args:
        name: Its name; its uid is `uid-NAME`.
        containers: Name and state of each; a running `app` if not given.
        ready: Its condition.
        created: When.
        owner: The uid of its controller.
        labels: Its labels.
        annotations: Its annotations.
        status: More of its status, over the rest.
        metadata: More of its metadata.
    """
    states = containers if containers is not None else {"app": {"running": {}}}
    owners = [{"uid": owner, "controller": True, "kind": "ReplicaSet", "name": owner}] if owner else []
    return {
        "metadata": {
            "name": name,
            "namespace": "shop",
            "uid": f"uid-{name}",
            "creationTimestamp": created,
            "labels": dict(labels or {}),
            "annotations": dict(annotations or {}),
            "ownerReferences": owners,
            **metadata,
        },
        "spec": {"nodeName": "node-1", "containers": [{"name": each, "image": "app:1"} for each in states]},
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
            "containerStatuses": [
                {"name": each, "state": state, "ready": ready, "containerID": f"containerd://id-{each}"}
                for each, state in states.items()
            ],
            **(status or {}),
        },
    }


def workload(name: str, labels: Mapping[str, str], **spec: Any) -> dict[str, Any]:
    """A Deployment or another object that selects pods by labels."""
    return {
        "metadata": {"name": name, "namespace": "shop", "uid": f"uid-{name}"},
        "spec": {"selector": {"matchLabels": dict(labels)}, **spec},
    }


class StoredApi(Api):
    """Answers from objects by their path; what is not there is a 404, as is a kind of which there is none."""

    def __init__(self, objects: Mapping[str, Object]) -> None:
        self.objects = dict(objects)
        self.asked: list[str] = []

    async def get(self, path: str, parameters: Mapping[str, str] | None = None) -> Object:
        self.asked.append(path)
        if path not in self.objects:
            raise ApiError(404, "NotFound", f'"{path.rpartition("/")[2]}" not found')
        return self.objects[path]

    async def list(self, path: str, parameters: Mapping[str, str] | None = None) -> list[Object]:
        self.asked.append(path)
        found = [item for key, item in self.objects.items() if re.fullmatch(re.escape(path) + "/[^/]+", key)]
        if not found and not path.startswith("/api/v1/"):
            raise ApiError(404, "NotFound", "the server could not find the requested resource")
        wanted = dict(term.split("=") for term in (parameters or {}).get("labelSelector", "").split(",") if term)
        return [item for item in found if wanted.items() <= (item["metadata"].get("labels") or {}).items()]
