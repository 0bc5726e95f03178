"""The agent of a target in a cluster: found or begun, and reached through the API server."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Mapping

import trio

from mirror.cli.cluster import agents, ephemeral, failures, reach, reference, targets
from mirror.cli.cluster.access import find_access
from mirror.cli.cluster.api import Api, ApiError, open_api
from mirror.cli.cluster.failures import Refused, Running, Waiting
from mirror.cli.cluster.identity import GuardedStream
from mirror.cli.cluster.portforward import PodGone, PortRefused, PortStream, open_port
from mirror.cli.cluster.probes import Probes
from mirror.cli.cluster.targets import Found, Place
from mirror.cli.errors import MirrorError, TargetError
from mirror.cli.handover import Order
from mirror.cli.proxy.agent import Tell
from mirror.cli.settings import TARGETLESS

_LISTENS_WITHIN_S = 30.0
"""From its container's start until it listens; a busy machine needs some seconds."""
_RETRY_S = 0.02
_SETTLES_S = 0.5
"""From a container's end until the API server knows of it."""


class ClusterAgent:
    """An agent in a cluster: an `agent.Agent`.

    Args:
        order: The session's.
        place: Beside what it is to be; None: that is to be found.
        api: The cluster, for as long as this is used; None: that is to be connected to.
    """

    def __init__(self, order: Order, *, place: Place | None = None, api: Api | None = None) -> None:
        self._settings = order.settings
        self._order = order
        self._stack = contextlib.AsyncExitStack()
        self._place = place
        self._features = order.settings.features if place is None else ("incoming",)
        self._api = api
        self._agent: agents.Agent | None = None
        self._stream: PortStream | GuardedStream | None = None
        self._listens_by = 0.0
        self._has_broken = False
        self.probes = Probes()
        self.name = f"pod {place.pod}" if place is not None else order.settings.target
        self.replicas: tuple[ClusterAgent, ...] = ()
        self.reasons: Mapping[str, str] = {}

    @contextlib.asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Closes the connections to the API server in the end."""
        async with self._stack:
            yield

    async def connect(self, tell: Tell) -> trio.abc.Stream:
        """As `agent.Agent` says: starts the agent if need be."""
        try:
            if self._api is None:
                self._api = await self._open_api()
            while True:
                if self._agent is None:
                    self._agent = await self._start(self._api, tell)
                    self._listens_by = trio.current_time() + _LISTENS_WITHIN_S
                try:
                    if self._agent.is_guarded:
                        self._agent = await reach.identify(self._api, self._agent)
                        self._stream = await reach.open_guarded(self._api, self._agent)
                    else:
                        self._stream = await open_port(self._api, self._agent.namespace, self._agent.pod, agents.PORT)
                except ApiError as error:
                    if error.status == 403:
                        raise
                    self._stream = None
                    if (refusal := await self.explain(error)) is not None:
                        raise refusal from None
                else:
                    return self._stream
        except ApiError as error:
            namespace = self._agent.namespace if self._agent is not None else self._settings.namespace
            raise TargetError(failures.explain(error, "connect to the agent", namespace)) from None

    async def _open_api(self) -> Api:
        folder, variables = self._order.working_directory, dict(self._order.variables)
        if variables.get("KUBECONFIG"):
            # This process works in another directory.
            files = [
                file if file.startswith("~") else os.path.join(folder, file)
                for file in variables["KUBECONFIG"].split(os.pathsep)
                if file
            ]
            variables["KUBECONFIG"] = os.pathsep.join(files)
        chosen = self._settings.kubeconfig
        if chosen.startswith("~/"):
            chosen = os.path.join(variables.get("HOME", "/"), chosen[2:])
        access = await find_access(
            variables,
            kubeconfig=os.path.join(folder, chosen) if chosen else None,
            context=self._settings.context or None,
        )
        return await self._stack.enter_async_context(open_api(access))

    async def _start(self, api: Api, tell: Tell) -> agents.Agent:
        namespace = self._settings.namespace or api.access.namespace
        place = self._place
        if place is None and self._settings.target != TARGETLESS:
            named = reference.parse(self._settings.target)
            await tell(f"looking for {named} in namespace {namespace} of {api.access.server}")
            found = await targets.find(api, named, namespace)
            place = found.place
            await tell(f"target is {place} on node {place.node}{_say_others(found)}")
            self.probes = place.probes
            if self._settings.replicas == "all" and self._settings.incoming != "off":
                self.replicas = tuple(ClusterAgent(self._order, place=each, api=api) for each in found.replicas[1:])
        agent = self._settings.agent
        image = agent.image or agents.default_image()
        needs_incoming = self._settings.needs_incoming
        wish = agents.Wish(place, agent.namespace or namespace, self._features, agent, image, needs_incoming)
        start = ephemeral.start if agent.is_ephemeral else agents.start
        begun = await start(api, wish, tell)
        self.reasons = begun.reasons
        if "incoming" in self.reasons:
            self.replicas = ()
        return begun

    async def explain(self, error: Exception) -> MirrorError | None:
        """As `agent.Agent` says: one that does not listen yet is worth another try, and so is one that has ended."""
        assert self._api is not None
        assert self._agent is not None
        failure = self._stream.failure if self._stream is not None else None
        if isinstance(failure, MirrorError):
            return failure
        pod = f"/api/v1/namespaces/{self._agent.namespace}/pods/{self._agent.pod}"
        try:
            verdict = self._agent.judge(await self._api.get(pod))
        except ApiError as refusal:
            if refusal.status != 404:
                return TargetError(failures.explain(refusal, "look after the agent", self._agent.namespace))
            verdict = failures.Ended()
        except MirrorError as unreachable:
            return unreachable
        if isinstance(verdict, Refused):
            return TargetError(f"{self.name} cannot be entered: {verdict.sentence}")
        if isinstance(verdict, Running) and not isinstance(failure, PortRefused | PodGone):
            if self._has_broken:
                return TargetError(f"{self.name} cannot be entered: {failure or error}")
            # It may have been about to end when it was joined; what its pod says of that comes a little later.
            self._has_broken = True
            await trio.sleep(_SETTLES_S)
            return None
        if trio.current_time() > self._listens_by:
            return TargetError(f"the agent in pod {self._agent.pod} cannot be reached ({failure or error}); try again")
        if isinstance(verdict, Running | Waiting):
            await trio.sleep(_RETRY_S)  # that its container runs is known before its pod says so
        else:
            self._agent = None
        return None

    async def end(self, *, at_once: bool) -> None:
        """As `agent.Agent` says: the agent ends by itself, and the cluster removes its Job."""
        if at_once and self._api is not None and self._agent is not None and self._agent.is_begun and self._agent.job:
            await agents.remove(self._api, self._agent)


def _say_others(found: Found) -> str:
    others = len(found.replicas) - 1
    return f", the first of {others + 1} that are ready" if others else ""
