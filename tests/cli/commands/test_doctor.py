"""What `mirror doctor` says of this machine, and of what a cluster lets in; the rest is tested with a real cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import pytest

from mirror.cli import machine
from mirror.cli.cluster.api import Api, ApiError, Object
from mirror.cli.cluster.rights import RIGHTS
from mirror.cli.commands import doctor
from mirror.cli.errors import MirrorError
from mirror.cli.inject import InjectFailed
from tests.cli.cluster.objects import StoredApi

LEVEL = "pod-security.kubernetes.io/enforce"
NO_RIGHT = 'pods is forbidden: User "dev" cannot create resource "pods" in API group "" in the namespace "shop"'


class Admission(StoredApi):
    """A namespace `shop`, in which a pod is refused, or is not."""

    def __init__(self, refusal: ApiError | None = None, labels: Mapping[str, str] | None = None) -> None:
        super().__init__({"/api/v1/namespaces/shop": {"metadata": {"name": "shop", "labels": dict(labels or {})}}})
        self.refusal = refusal
        self.tried: list[Object] = []

    async def create(self, path: str, body: Object, parameters: Mapping[str, str] | None = None) -> Object:
        assert path == "/api/v1/namespaces/shop/pods"
        assert parameters == {"dryRun": "All"}
        self.tried.append(body)
        if self.refusal is not None:
            raise self.refusal
        return body


def test_frida_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    doctor.look_at_frida()
    assert capsys.readouterr().out.startswith("ok   Frida can attach")


def test_frida_is_kept_out(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse() -> NoReturn:
        raise InjectFailed("Frida may not attach to process 7: kernel.yama.ptrace_scope is 3")

    monkeypatch.setattr(doctor, "probe", refuse)
    doctor.look_at_frida()
    assert capsys.readouterr().out.startswith("less Frida may not attach to process 7: kernel.yama.ptrace_scope is 3;")


def test_what_the_kernel_lends(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(machine, "why_no_fuse", lambda: "")
    monkeypatch.setattr(machine, "why_no_user_notification", lambda: "Linux 4.19: Function not implemented")
    doctor.look_at_kernel()
    fuse, seccomp = capsys.readouterr().out.splitlines()
    assert fuse.startswith("info FUSE can be used;")
    assert "is not available (Linux 4.19: Function not implemented)" in seccomp


async def test_a_cluster_that_admits_agents(capsys: pytest.CaptureFixture[str]) -> None:
    api = Admission()
    assert await doctor.look_at_admission(api, "shop") is True
    (pod,) = api.tried
    assert pod["spec"]["hostPID"] is True
    security, admission = capsys.readouterr().out.splitlines()
    assert security == "ok   PodSecurity does not refuse agents in namespace shop"
    assert admission == "ok   the cluster admits agents in namespace shop"


@pytest.mark.parametrize("level", ["baseline", "restricted"])
async def test_pod_security(level: str, capsys: pytest.CaptureFixture[str]) -> None:
    api = Admission(labels={LEVEL: level})
    assert await doctor.look_at_admission(api, "shop") is False
    assert api.tried == []
    said = capsys.readouterr().out
    assert said.startswith(f"no   PodSecurity {level} of namespace shop refuses agents beside pods (hostPID, ")
    assert "--agent-namespace" in said


@pytest.mark.parametrize("status", [400, 403, 422])
async def test_a_webhook(status: int, capsys: pytest.CaptureFixture[str]) -> None:
    api = Admission(ApiError(status, "", 'admission webhook "deny.kyverno" denied the request: no hostPID'))
    assert await doctor.look_at_admission(api, "shop") is False
    assert "no   the cluster's rule deny.kyverno refuses the agent's pod (no hostPID)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (ApiError(403, "Forbidden", NO_RIGHT), "user dev lacks the right to create pods in namespace shop"),
        (ApiError(400, "BadRequest", "webhook x does not support dry run"), "webhook x does not support dry run"),
    ],
)
async def test_what_cannot_be_tried(error: ApiError, why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert await doctor.look_at_admission(Admission(error), "shop") is True
    assert f"info whether quotas or webhooks refuse agents in namespace shop shows when one is started, as none " \
        f"can be tried ({why})" in capsys.readouterr().out  # fmt: skip


async def test_what_may_not_be_seen_at_all(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    async def refuse(*_: Any) -> NoReturn:
        raise ApiError(403, "Forbidden", NO_RIGHT.replace("create", "get").replace("pods", "namespaces"))

    api = Admission(ApiError(403, "Forbidden", NO_RIGHT))
    monkeypatch.setattr(api, "get", refuse)
    assert await doctor.look_at_admission(api, "shop") is True
    said = capsys.readouterr().out
    assert said.startswith("less whether PodSecurity, quotas or webhooks refuse agents")
    assert "lacks the right to create pods in namespace shop" in said
    assert "lacks the right to get namespaces in namespace shop" in said


class Rights(Api):
    """A cluster that grants some verbs."""

    def __init__(self, *granted: str) -> None:
        self.granted = granted

    async def create(self, path: str, body: Object, parameters: Mapping[str, str] | None = None) -> Object:
        return {"status": {"allowed": body["spec"]["resourceAttributes"]["verb"] in self.granted}}


@pytest.mark.parametrize(
    ("resource", "granted", "is_enough", "said"),
    [
        ("pods/portforward", ("create", "get"), True, ""),
        ("pods/portforward", ("create",), True, "less no right to get pods/portforward in namespace shop: agents can "),
        ("pods/portforward", ("get",), True, "less no right to create pods/portforward in namespace shop: agents can "),
        ("pods/portforward", (), False, "no   no right to create, get pods/portforward in namespace shop: agents cann"),
        ("pods", ("get", "list"), False, "no   no right to watch pods in namespace shop: no target can be found"),
        ("services", ("list",), True, "less no right to get services in namespace shop: service/ is no target"),
    ],
)
async def test_rights(
    resource: str, granted: Sequence[str], is_enough: bool, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    right = next(right for right in RIGHTS if right.resource == resource)
    assert await doctor.look_at_right(Rights(*granted), right, "shop") is is_enough
    printed = capsys.readouterr().out
    assert printed.startswith(said)
    assert bool(printed) == bool(said)


async def test_no_such_namespace() -> None:
    api = Admission()
    api.objects.clear()
    with pytest.raises(MirrorError, match="there is no namespace shop"):
        await doctor.look_at_admission(api, "shop")
