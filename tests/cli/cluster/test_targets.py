from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from mirror.cli.cluster import targets
from mirror.cli.cluster.api import Api, ApiError, Event, Object, Unreachable
from mirror.cli.cluster.reference import parse
from mirror.cli.cluster.targets import NoTarget, choose_container
from mirror.cli.errors import TargetError
from tests.cli.cluster.objects import StoredApi, pod, workload

SHOP = "/api/v1/namespaces/shop"
APPS = "/apis/apps/v1/namespaces/shop"
BATCH = "/apis/batch/v1/namespaces/shop"


def names(pods: list[Any]) -> list[str]:
    return [each["metadata"]["name"] for each in targets.order_ready(pods)]


# --- which pod --------------------------------------------------------------------------------------------


def test_only_ready_pods() -> None:
    pods = [pod("a", ready=False), pod("b"), pod("c", deletionTimestamp="2026-01-02T00:00:00Z"), pod("d", status={})]
    assert names(pods) == ["b", "d"]
    assert names([{**pod("a"), "status": {}}]) == []


def test_the_oldest_of_the_youngest_owner() -> None:
    pods = [
        pod("old-1", owner="old", created="2026-01-01T00:00:00Z"),
        pod("new-2", owner="new", created="2026-02-03T00:00:00Z"),
        pod("new-1", owner="new", created="2026-02-02T00:00:00Z"),
    ]
    assert names(pods) == ["new-1", "new-2", "old-1"]


def test_the_choice_does_not_hang_on_the_order() -> None:
    pods = [pod(name, owner=owner) for name, owner in [("c", "x"), ("a", "y"), ("b", "x"), ("d", "y")]]
    assert names(pods) == names(pods[::-1]) == ["b", "c", "a", "d"]


# --- which container --------------------------------------------------------------------------------------

RUNNING: dict[str, Any] = {"running": {}}


def test_first_that_is_no_sidecar() -> None:
    place = targets.choose_container(pod(containers={"istio-proxy": RUNNING, "app": RUNNING, "more": RUNNING}))
    assert (place.container, place.container_id) == ("app", "id-app")
    assert (place.namespace, place.pod, place.pod_uid, place.node) == ("shop", "web-1", "uid-web-1", "node-1")
    assert str(place) == "container app of pod shop/web-1"


def test_annotation_goes_before() -> None:
    containers = {"app": RUNNING, "more": RUNNING}
    annotations = {targets.DEFAULT_CONTAINER: "more"}
    assert targets.choose_container(pod(containers=containers, annotations=annotations)).container == "more"
    assert targets.choose_container(pod(containers=containers, annotations=annotations), "app").container == "app"
    assert targets.choose_container(pod(annotations={targets.DEFAULT_CONTAINER: "gone"})).container == "app"


def test_a_sidecar_alone_or_named() -> None:
    assert targets.choose_container(pod(containers={"envoy": RUNNING})).container == "envoy"
    both = pod(containers={"app": RUNNING, "envoy": RUNNING})
    assert targets.choose_container(both, "envoy").container == "envoy"


def test_init_container_that_stays() -> None:
    sidecar = pod()
    sidecar["spec"]["initContainers"] = [{"name": "logs", "restartPolicy": "Always"}]
    sidecar["status"]["initContainerStatuses"] = [{"name": "logs", "state": RUNNING, "containerID": "cri-o://id-logs"}]
    assert targets.choose_container(sidecar, "logs").container_id == "id-logs"


def test_no_such_container() -> None:
    with pytest.raises(TargetError, match=r"no container ap \(did you mean app\?\); it has app, db"):
        targets.choose_container(pod(containers={"app": RUNNING, "db": RUNNING}), "ap")


def test_container_that_does_not_run() -> None:
    ended = {"terminated": {"reason": "Error", "exitCode": 3}}
    with pytest.raises(TargetError, match="Error with exit status 3"):
        targets.choose_container(pod(containers={"app": ended}), "app")


# --- why not ready ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("thing", "reason"),
    [
        (pod(deletionTimestamp="x"), "is being removed"),
        (pod(ready=False, status={"phase": "Succeeded"}), "has completed"),
        (
            pod(ready=False, status={"phase": "Failed", "reason": "Evicted", "message": "The node was low."}),
            "has failed: Evicted, The node was low",
        ),
        (
            pod(ready=False, containers={"app": {"waiting": {"reason": "ErrImagePull", "message": "not\nfound"}}}),
            "container app: ErrImagePull, not found",
        ),
        (
            pod(ready=False, containers={"app": {"terminated": {"reason": "Error", "exitCode": 1}}}),
            "container app: Error with exit status 1",
        ),
        (
            pod(
                ready=False,
                containers={},
                status={
                    "phase": "Pending",
                    "conditions": [
                        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}
                    ],
                },
            ),
            "Unschedulable, 0/1 nodes",
        ),
        (pod(ready=False), "container app runs, but its readiness probe fails"),
        (pod(ready=False, containers={}, status={"phase": "Pending"}), "is pending"),
    ],
)
def test_reasons(thing: dict[str, Any], reason: str) -> None:
    assert targets.say_why_unready(thing) == reason


def test_a_crash_names_its_status() -> None:
    crashed = pod(
        ready=False, containers={"app": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5m"}}}
    )
    crashed["status"]["containerStatuses"][0]["lastState"] = {"terminated": {"exitCode": 2}}
    assert targets.say_why_unready(crashed) == "container app: CrashLoopBackOff, it ended with exit status 2"


def test_an_init_container_that_hangs_explains_the_others() -> None:
    waiting = {"waiting": {"reason": "PodInitializing"}}
    stuck = pod(ready=False, containers={"app": waiting})
    stuck["status"]["initContainerStatuses"] = [
        {"name": "done", "ready": True, "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}},
        {"name": "migrate", "ready": False, "state": {"waiting": {"reason": "ErrImagePull"}}},
    ]
    assert targets.say_why_unready(stuck) == "container migrate: ErrImagePull"


def test_an_init_container_that_runs_is_what_the_others_wait_for() -> None:
    starting = pod(ready=False, containers={"app": {"waiting": {"reason": "PodInitializing"}}})
    starting["status"]["initContainerStatuses"] = [
        {"name": "proxy", "ready": False, "state": {"running": {}}},
        {"name": "migrate", "ready": False, "state": {"running": {}}},
    ]
    starting["spec"]["initContainers"] = [{"name": "proxy", "restartPolicy": "Always"}, {"name": "migrate"}]
    assert targets.say_why_unready(starting) == "init container migrate has not ended"


def test_what_a_container_waits_for_before_it_is_made_is_told_elsewhere() -> None:
    starting = pod(ready=False, containers={"app": {"waiting": {"reason": "ContainerCreating"}}})
    assert targets.say_none_ready(parse("pod/web-1"), "shop", {}, [starting]) == (
        "pod web-1 in namespace shop is not ready (container app: ContainerCreating); wait for it; if that lasts, "
        "`kubectl -n shop describe pod/web-1` says why"
    )


# --- selectors --------------------------------------------------------------------------------------------


def test_selector_as_a_query() -> None:
    selector = {
        "matchLabels": {"app": "web"},
        "matchExpressions": [
            {"key": "tier", "operator": "In", "values": ["a", "b"]},
            {"key": "old", "operator": "NotIn", "values": ["yes"]},
            {"key": "x", "operator": "Exists"},
            {"key": "y", "operator": "DoesNotExist"},
        ],
    }
    assert targets.format_selector(selector) == "app=web,tier in (a,b),old notin (yes),x,!y"


# --- each kind --------------------------------------------------------------------------------------------


def job(name: str, owner: str, *, active: int = 0, created: str = "2026-01-01T00:00:00Z") -> dict[str, Any]:
    return {
        **workload(name, {"job": name}),
        "metadata": {
            "name": name,
            "uid": f"uid-{name}",
            "creationTimestamp": created,
            "ownerReferences": [{"uid": owner, "controller": True}],
        },
        "status": {"active": active},
    }


def cluster() -> StoredApi:
    pods = [
        pod("web-1", labels={"app": "web"}, created="2026-01-01T00:00:00Z"),
        pod("web-2", labels={"app": "web"}, created="2026-01-02T00:00:00Z", owner="rs-2"),
        pod("web-3", labels={"app": "web"}, created="2026-01-03T00:00:00Z", owner="rs-2"),
        pod("sick", labels={"app": "sick"}, ready=False),
        pod("night-2-x", labels={"job": "night-2"}),
        pod("night-3-x", labels={"job": "night-3"}, ready=False, status={"phase": "Succeeded"}),
    ]
    return StoredApi(
        {
            "/api/v1/namespaces/shop": {"metadata": {"name": "shop"}},
            **{f"{SHOP}/pods/{each['metadata']['name']}": each for each in pods},
            **{
                f"{APPS}/{plural}/web": workload("web", {"app": "web"})
                for plural in ("deployments", "statefulsets", "daemonsets", "replicasets")
            },
            f"{APPS}/deployments/empty": workload("empty", {"app": "empty"}),
            f"{APPS}/deployments/idle": workload("idle", {"app": "idle"}, replicas=0),
            f"{APPS}/deployments/sick": workload("sick", {"app": "sick"}),
            f"{BATCH}/jobs/web": workload("web", {"app": "web"}),
            f"{BATCH}/jobs/night-1": job("night-1", "uid-nightly", created="2026-01-01T00:00:00Z"),
            f"{BATCH}/jobs/night-2": job("night-2", "uid-nightly", active=1, created="2026-01-02T00:00:00Z"),
            f"{BATCH}/jobs/night-3": job("night-3", "uid-nightly", created="2026-01-03T00:00:00Z"),
            f"{BATCH}/jobs/night-9": job("night-9", "uid-other", active=1, created="2026-01-09T00:00:00Z"),
            "/apis/batch/v1beta1/namespaces/shop/cronjobs/nightly": {
                "metadata": {"name": "nightly", "uid": "uid-nightly"},
                "spec": {"schedule": "@daily"},
            },
            "/apis/batch/v1beta1/namespaces/shop/cronjobs/never": {
                "metadata": {"name": "never", "uid": "uid-never"},
                "spec": {"schedule": "@yearly"},
            },
            f"{SHOP}/services/web": {"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}}},
            f"{SHOP}/services/idle": {"metadata": {"name": "idle"}, "spec": {"selector": {"app": "idle"}}},
            f"{SHOP}/services/outside": {"metadata": {"name": "outside"}, "spec": {"externalName": "example.org"}},
            "/apis/argoproj.io/v1alpha1/namespaces/shop/rollouts/web": workload("web", {"app": "web"}),
            "/apis/argoproj.io/v1alpha1/namespaces/shop/rollouts/borrows": {
                "metadata": {"name": "borrows"},
                "spec": {"workloadRef": {"kind": "Deployment", "name": "web"}},
            },
        }
    )


@pytest.mark.parametrize(
    "target",
    [
        "deployment/web", "statefulset/web", "daemonset/web", "replicaset/web", "job/web", "service/web", "rollout/web",
        "rollout/borrows", "label/app=web",
    ],
)  # fmt: skip
async def test_kinds_that_select_pods(target: str) -> None:
    found = await targets.find(cluster(), parse(target), "shop")
    assert found.place.pod == "web-2"
    assert [place.pod for place in found.replicas] == ["web-2", "web-3", "web-1"]


async def test_a_pod() -> None:
    found = await targets.find(cluster(), parse("pod/web-3"), "shop")
    assert [place.pod for place in found.replicas] == ["web-3"]


async def test_a_cronjob_is_its_newest_job_that_runs() -> None:
    api = cluster()
    assert (await targets.find(api, parse("cronjob/nightly"), "shop")).place.pod == "night-2-x"
    del api.objects[f"{BATCH}/jobs/night-2"]
    with pytest.raises(TargetError, match=r"night-3-x .*has completed"):
        await targets.find(api, parse("cronjob/nightly"), "shop")


# --- what there is not ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("pod/web-9", "there is no pod/web-9 in namespace shop (did you mean web-"),
        ("deployment/wbe", "(did you mean web?)"),
        ("deployment/zzzz", "(there is empty, idle, sick, web)"),
        ("deployment/empty", "has no pods; `kubectl -n shop describe deployment/empty` says why"),
        ("deployment/idle", "is scaled to 0; `kubectl -n shop scale deployment/idle --replicas=1` gives it a pod"),
        (
            "deployment/sick",
            "pod sick in namespace shop is not ready (container app runs, but its readiness probe fails)",
        ),
        ("pod/sick", "is not ready"),
        ("pod/web-1/container/db", "no container db; it has app"),
        ("service/outside", "has no selector"),
        ("service/none", "did you mean"),
        ("service/idle", "no pod in namespace shop has the labels app=idle, which service/idle selects"),
        ("cronjob/never", "create job --from=cronjob/never"),
        ("cronjob/nightli", "did you mean nightly?"),
        ("label/app=none", "no pod in namespace shop has the labels app=none"),
        ("rollout/gone", "did you mean"),
    ],
)
async def test_no_such_target(target: str, sentence: str) -> None:
    api = cluster()
    api.objects[f"{SHOP}/services/nine"] = api.objects[f"{SHOP}/services/web"] | {"metadata": {"name": "nine"}}
    api.objects["/apis/argoproj.io/v1alpha1/namespaces/shop/rollouts/gon"] = workload("gon", {})
    with pytest.raises(TargetError) as caught:
        await targets.find(api, parse(target), "shop")
    assert sentence in caught.value.sentence
    assert "\n" not in caught.value.sentence


@pytest.mark.parametrize(
    ("target", "replicas", "pods", "sentence"),
    [
        (
            "deployment/web",
            0,
            [pod("web-1", deletionTimestamp="x")],
            "deployment/web in namespace shop is scaled to 0, and its last pods are being removed; "
            "`kubectl -n shop scale deployment/web --replicas=1` gives it a pod",
        ),
        (
            "deployment/web",
            2,
            [pod("web-1", deletionTimestamp="x"), pod("web-2", deletionTimestamp="x")],
            "the pods of deployment/web in namespace shop are all being removed; wait for those that take their place",
        ),
        (
            "pod/web-1",
            None,
            [pod("web-1", deletionTimestamp="x")],
            "pod/web-1 in namespace shop is being removed; name another, or the object that makes such pods",
        ),
        (
            "job/web",
            None,
            [pod("web-1", ready=False, status={"phase": "Succeeded"})],
            "pod web-1 in namespace shop is not ready (has completed); begin it anew, or name one that runs",
        ),
        (
            "deployment/web",
            1,
            [pod("web-1", deletionTimestamp="x"), pod("web-2", ready=False)],
            "pod web-2 in namespace shop is not ready (container app runs, but its readiness probe fails); "
            "wait for it, or mend it",
        ),
        (
            "deployment/web",
            2,
            [pod("web-1", ready=False), pod("web-2", ready=False)],
            "none of the 2 pods of deployment/web in namespace shop is ready (container app runs, but its readiness "
            "probe fails); wait for one, or mend them",
        ),
    ],
)
def test_the_remedy_fits_the_reason(
    target: str, replicas: int | None, pods: list[dict[str, Any]], sentence: str
) -> None:
    assert targets.say_none_ready(parse(target), "shop", {"replicas": replicas}, pods) == sentence


async def test_no_right_in_a_namespace_that_does_not_exist() -> None:
    class Forbidding(StoredApi):
        async def get(self, path: str, parameters: Mapping[str, str] | None = None) -> Object:
            if path.startswith("/apis/"):
                message = 'User "dev" cannot get resource "deployments" in API group "apps" in the namespace "shop"'
                raise ApiError(403, "Forbidden", message)
            return await super().get(path, parameters)

    api = Forbidding({"/api/v1/namespaces/shop": {"metadata": {"name": "shop"}}})
    with pytest.raises(TargetError, match="user dev lacks the right to get deployments"):
        await targets.find(api, parse("deployment/web"), "shop")
    api.objects.clear()
    with pytest.raises(TargetError, match="there is no namespace shop"):
        await targets.find(api, parse("deployment/web"), "shop")


async def test_no_right_to_see_what_else_there_might_be() -> None:
    """Neither others of the kind nor the namespace itself."""

    def forbid(verb: str, path: str) -> ApiError:
        resource = "namespaces" if path.endswith("/shop") else path.split("/shop/")[1].split("/")[0]
        return ApiError(403, "Forbidden", f'User "dev" cannot {verb} resource "{resource}" in API group ""')

    class Forbidding(StoredApi):
        async def get(self, path: str, parameters: Mapping[str, str] | None = None) -> Object:
            if path.endswith("/shop"):
                raise forbid("get", path)
            return await super().get(path, parameters)

        async def list(self, path: str, parameters: Mapping[str, str] | None = None) -> list[Object]:
            raise forbid("list", path)

    with pytest.raises(TargetError) as caught:
        await targets.find(Forbidding({}), parse("service/web"), "shop")
    assert "there is no service/web in namespace shop" in caught.value.sentence
    assert "user dev lacks the right to list services" in caught.value.sentence
    assert "the right to get namespaces" in caught.value.sentence


async def test_agents_are_not_suggested() -> None:
    api = cluster()
    api.objects[f"{SHOP}/pods/web-8"] = pod("web-8", labels=targets.AGENT_LABELS)
    with pytest.raises(TargetError) as caught:
        await targets.find(api, parse("pod/web-9"), "shop")
    assert "web-8" not in caught.value.sentence


async def test_several_pods_that_are_not_ready_give_each_reason_once() -> None:
    api = cluster()
    for number in range(4):
        waiting = {"waiting": {"reason": "ErrImagePull" if number else "CreateContainerError"}}
        api.objects[f"{SHOP}/pods/bad-{number}"] = pod(
            f"bad-{number}", labels={"app": "bad"}, ready=False, containers={"app": waiting}
        )
    with pytest.raises(TargetError) as caught:
        await targets.find(api, parse("label/app=bad"), "shop")
    assert "none of the 4 pods" in caught.value.sentence
    assert caught.value.sentence.count("ErrImagePull") == 1


async def test_a_cluster_without_that_kind() -> None:
    api = cluster()
    for path in [path for path in api.objects if "argoproj" in path]:
        del api.objects[path]
    with pytest.raises(TargetError, match=r"has no rollouts \(argoproj.io/v1alpha1\)"):
        await targets.find(api, parse("rollout/web"), "shop")


async def test_no_such_namespace() -> None:
    for target in ("pod/web", "label/app=web"):
        with pytest.raises(TargetError, match="no namespace elsewhere"):
            await targets.find(cluster(), parse(target), "elsewhere")


async def test_no_right_to_look() -> None:
    class Forbidding(StoredApi):
        async def get(self, path: str, parameters: Any = None) -> Any:
            message = (
                'pods "web" is forbidden: User "dev" cannot get resource "pods" in API group "" in the namespace "shop"'
            )
            raise ApiError(403, "Forbidden", message)

    with pytest.raises(TargetError, match="user dev lacks the right to get pods in namespace shop"):
        await targets.find(Forbidding({}), parse("pod/web"), "shop")


# --- coming and going -------------------------------------------------------------------------------------


def deleted(name: str) -> Object:
    return pod(name, deletionTimestamp="2026-01-02T00:00:00Z")


PLACE = choose_container(pod("web-1"))


@pytest.mark.parametrize(
    ("pods", "why"),
    [
        ([pod("web-1")], ""),
        ([pod("web-1", ready=False), pod("web-2")], ""),
        ([pod("web-2")], "pod web-1 is gone"),
        ([pod("web-1", uid="another")], "pod web-1 is gone"),
        ([deleted("web-1")], "pod web-1 is being removed"),
        ([pod("web-1", containers={"app": {"terminated": {}}})], "container app of pod web-1 has ended"),
        ([pod("web-1", containers={"other": {"running": {}}})], "container app of pod web-1 has ended"),
    ],
)
def test_why_a_place_is_no_more(pods: list[Object], why: str) -> None:
    assert targets.say_gone(PLACE, pods) == why


def test_a_container_that_was_restarted_is_another() -> None:
    restarted = pod("web-1")
    restarted["status"]["containerStatuses"][0]["containerID"] = "containerd://id-of-the-next"
    assert targets.say_gone(PLACE, [restarted]) == "container app of pod web-1 has ended"


def test_replicas_come_when_they_are_ready_and_go_when_they_are_gone() -> None:
    two, three = choose_container(pod("web-2")), choose_container(pod("web-3"))
    assert targets.other_places(PLACE, [pod("web-1"), pod("web-2"), pod("web-3", ready=False)]) == (two,)
    # One that is not ready for a while stays.
    pods = [pod("web-1"), pod("web-2", ready=False), pod("web-3")]
    assert targets.other_places(PLACE, pods, [two]) == (two, three)
    assert targets.other_places(PLACE, [pod("web-1"), deleted("web-2"), pod("web-3")], [two]) == (three,)
    assert targets.other_places(two, [pod("web-1"), pod("web-2")], [two]) == (PLACE,)


async def test_what_a_target_meant_is_kept_while_it_is_there() -> None:
    api = cluster()
    former = choose_container(api.objects[f"{SHOP}/pods/web-1"])
    assert (await targets.find(api, parse("deployment/web"), "shop")).place.pod == "web-2"
    found = await targets.find(api, parse("deployment/web"), "shop", former=former)
    assert found.place == former
    assert [place.pod for place in found.replicas] == ["web-1", "web-2", "web-3"]
    del api.objects[f"{SHOP}/pods/web-1"]
    assert (await targets.find(api, parse("deployment/web"), "shop", former=former)).place.pod == "web-2"


async def test_what_has_ended_is_not_found_again() -> None:
    """The API server may not know it yet."""
    two = {f"{APPS}/deployments/web": workload("web", {"app": "web"})}
    for number in 1, 2:
        made = pod(f"web-{number}", labels={"app": "web"}, containers={f"app-{number}": {"running": {}}})
        two[f"{SHOP}/pods/web-{number}"] = made
    api = StoredApi(two)
    former = choose_container(two[f"{SHOP}/pods/web-1"])
    found = await targets.find(api, parse("deployment/web"), "shop", former=former, ended={"id-app-1"})
    assert (found.place.pod, found.replicas) == ("web-2", (found.place,))
    with pytest.raises(NoTarget, match="has ended, as the cluster has yet to see"):
        await targets.find(api, parse("deployment/web"), "shop", former=former, ended={"id-app-1", "id-app-2"})
    # Its next container has another id, while the last one's state tells of the one before.
    del api.objects[f"{SHOP}/pods/web-2"]
    (status,) = two[f"{SHOP}/pods/web-1"]["status"]["containerStatuses"]
    status.update(
        containerID="containerd://id-app-3", lastState={"terminated": {"containerID": "containerd://id-app-1"}}
    )
    found = await targets.find(api, parse("deployment/web"), "shop", former=former, ended={"id-app-1"})
    assert found.place.container_id == "id-app-3"


async def test_what_is_out_of_reach_is_kept_if_it_is_ready_or_no_other_is() -> None:
    api = cluster()
    former = choose_container(api.objects[f"{SHOP}/pods/web-1"])

    async def place() -> str:
        found = await targets.find(api, parse("deployment/web"), "shop", former=former, is_out_of_reach=True)
        return found.place.pod

    assert await place() == "web-1"
    api.objects[f"{SHOP}/pods/web-1"] = pod("web-1", labels={"app": "web"}, ready=False)
    assert await place() == "web-2"
    for number in 2, 3:
        api.objects[f"{SHOP}/pods/web-{number}"] = pod(f"web-{number}", labels={"app": "web"}, ready=False)
    assert await place() == "web-1"


async def test_replicas_stay_when_the_target_is_found_anew() -> None:
    """Also one that happens not to be ready just then."""
    api = cluster()
    one, two = (choose_container(api.objects[f"{SHOP}/pods/web-{number}"]) for number in (1, 2))
    api.objects[f"{SHOP}/pods/web-2"] = pod("web-2", labels={"app": "web"}, ready=False)
    found = await targets.find(api, parse("deployment/web"), "shop", former=one, known=[two])
    assert [place.pod for place in found.replicas] == ["web-1", "web-2", "web-3"]
    del api.objects[f"{SHOP}/pods/web-1"]
    found = await targets.find(api, parse("deployment/web"), "shop", former=one, known=[two])
    assert [place.pod for place in found.replicas] == ["web-3", "web-2"]


async def test_what_is_being_removed_is_kept_if_there_is_no_other() -> None:
    leaving = pod("web-1", labels={"app": "web"}, deletionTimestamp="2026-01-02T00:00:00Z")
    api = StoredApi({f"{APPS}/deployments/web": workload("web", {"app": "web"}), f"{SHOP}/pods/web-1": leaving})
    former = choose_container(leaving)
    assert (await targets.find(api, parse("deployment/web"), "shop", former=former)).place == former
    with pytest.raises(NoTarget, match="are all being removed"):
        await targets.find(api, parse("deployment/web"), "shop")
    api.objects[f"{SHOP}/pods/web-2"] = pod("web-2", labels={"app": "web"})
    assert (await targets.find(api, parse("deployment/web"), "shop", former=former)).place.pod == "web-2"
    del api.objects[f"{SHOP}/pods/web-2"]
    leaving["status"]["containerStatuses"][0]["state"] = {"terminated": {"exitCode": 0}}
    with pytest.raises(NoTarget):
        await targets.find(api, parse("deployment/web"), "shop", former=former)


class Events:
    """Some events, and the end of the API server."""

    def __init__(self, events: list[Event]) -> None:
        self._events = iter(events)

    def __aiter__(self) -> Events:
        return self

    async def __anext__(self) -> Event:
        for event in self._events:
            return event
        raise Unreachable("it is gone")


class Watched(Api):
    """Lists, and the events that follow each."""

    def __init__(self, *rounds: tuple[list[Object], list[Event]]) -> None:
        self.rounds = list(rounds)
        self.watched: list[tuple[str, Any, str | None]] = []

    async def get(self, path: str, parameters: Mapping[str, str] | None = None) -> Object:
        return {"metadata": {"resourceVersion": str(len(self.rounds))}, "items": self.rounds[0][0]}

    @asynccontextmanager
    async def watch(
        self, path: str, parameters: Mapping[str, str] | None = None, *, version: str | None = None
    ) -> AsyncIterator[AsyncIterator[Event]]:
        self.watched.append((path, parameters, version))
        _, events = self.rounds.pop(0)

        yield Events(events)


async def test_pods_are_followed() -> None:
    one, two, three = pod("web-1"), pod("web-2"), pod("web-3")
    changed = pod("web-1", ready=False)
    api = Watched(
        ([one, two], [("MODIFIED", changed), ("ADDED", three), ("DELETED", two), ("ADDED", changed), ("ADDED", two)]),
        ([three], [("DELETED", three)]),
    )
    seen: list[list[Mapping[str, Any]]] = []

    def see(pods: Sequence[Mapping[str, Any]]) -> bool:
        seen.append([*pods])
        return True

    scope = {"labelSelector": "app=web"}
    with pytest.raises(Unreachable):
        await targets.follow(api, "shop", scope, see)
    # An ADDED of what was there says that the watch was begun again: web-1 may have gone meanwhile, and has.
    assert seen == [[one, two], [changed, two], [changed, two, three], [changed, three], [three], []]
    assert api.watched == [(f"{SHOP}/pods", scope, "2"), (f"{SHOP}/pods", scope, "1")]


async def test_pods_are_followed_until_it_is_enough() -> None:
    one = pod("web-1")
    await targets.follow(Watched(([one], [])), "shop", {}, lambda pods: False)
    await targets.follow(Watched(([one], [("DELETED", one)])), "shop", {}, lambda pods: bool(pods))
