"""The agent of a target in a cluster: found or begun, and reached through the API server.

    find the target ── find or begin its agent ── port-forward ── introduced ── lost ───┐
        ▲                 ▲                          ▲                                  │
        │                 │                          └── at first: it stays for a while ┤
        │                 └── the place is given ── it cannot be had ◀──────────────────┤
        ├── the place is not given, and may be another by now ◀─────────────────────────┤
        └── without the place that it had ◀── it has ended with its target ◀────────────┘

Where the target is, and which pods it has beside, is watched while the agent is connected; while there is no target,
whether there is one again. That a container has ended its agent says at once, and the API server up to some seconds
later: until then it is left out of what is found. So is, where another is ready, a pod on a node that does not answer,
which the cluster takes away only after minutes.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any

import trio

from mirror.cli.cluster import agents, ephemeral, failures, reach, reference, targets
from mirror.cli.cluster.access import find_access
from mirror.cli.cluster.api import Api, ApiError, open_api
from mirror.cli.cluster.failures import Refused, Running
from mirror.cli.cluster.identity import GuardedStream
from mirror.cli.cluster.portforward import PodGone, PortRefused, PortStream, open_port
from mirror.cli.cluster.probes import Probes
from mirror.cli.cluster.targets import Found, NoTarget, Place
from mirror.cli.errors import MirrorError, TargetError
from mirror.cli.handover import Order
from mirror.cli.proxy.agent import Agent, Tell
from mirror.cli.settings import TARGETLESS
from mirror.protocol.connection import TargetEnded
from mirror.protocol.heartbeat import LOST_AFTER_S

_LISTENS_WITHIN_S = 30.0
"""From its container's start until it listens; a busy machine needs some seconds."""
_RETRY_S = 0.02
_LONGEST_RETRY_S = 1.0
_RETRY_SHARE = 0.1
"""Between tries of a port that refuses: a tenth of the time for which it has done so, within these limits. Little time
is lost when an agent listens after a fraction of a second, and little is asked when it takes half a minute."""
_SETTLES_S = 0.5
"""From a container's end until the API server knows of it."""
_OUT_OF_REACH_S = 5.0
"""How long an agent is tried for beside a pod on a node that is not ready, if another pod is."""
_TRIES_REFUSED = 5
"""How often the node may say that there is no such pod while the API server has it: either may be late."""
_HUNG_S = LOST_AFTER_S
"""An agent that has let us wait for so long, over several connections, is removed: it hangs, or as good as that.

One that is merely slow is safe: to welcome a client takes one turn of its loop. A loop that stands still for a second
has lost the agent its rules already (its keeper gives them up), and one that does so for as long as this has lost it
its other clients, who give up what has been silent for just as long.
"""
_RETURNS_WITHIN_S = 2.0
"""An agent that listened before and now does not is dead, and the API server will know of that soon."""
_WATCH_AGAIN_S = 5.0
"""After a watch could not be had."""
_SHORTEST_PAUSE_S = 0.1
_LOOK_AGAIN_S = 5.0
"""For a target that there is not, beside watching the pods that it had: it may have others, or say why not."""


class ClusterAgent:
    """An agent in a cluster: an `agent.Agent`.

    Args:
        order: The session's.
        place: Beside what it is to be; None: that is to be found, and found again when it is gone.
        api: The cluster, for as long as this is used; None: that is to be connected to.
    """

    comes_back = True

    def __init__(self, order: Order, *, place: Place | None = None, api: Api | None = None) -> None:
        self._settings = order.settings
        self._order = order
        self._stack = contextlib.AsyncExitStack()
        self._place = place
        self._is_bound = place is not None
        self._scope: Mapping[str, str] = {}
        self._features = order.settings.features if place is None else ("incoming",)
        self._api = api
        self._agent: agents.Agent | None = None
        self._stream: PortStream | GuardedStream | None = None
        self._refused_since = self._listens_by = 0.0
        self._broken = 0
        """How often that has happened which could be because the agent was about to end when it was joined."""
        self._is_again = False
        self._met: Place | None = None
        """Beside what the agent is with which there is or was a connection last."""
        self._lost_at = math.inf
        """When that connection was lost."""
        self._is_leaving = False
        """Whether that is to be left as soon as there is another, though there is the connection."""
        self._ended: set[str] = set()
        """Ids of containers that have ended, whatever the API server says."""
        self._has_no_target = False
        """Whether that is why there is no agent."""
        self._silent_s: dict[str, float] = {}
        """For how long an agent has not answered, by its pod's name, since one did."""
        self._hung: set[str] = set()
        """Uids of the Jobs that were removed because of that."""
        self._is_unused = False
        """Whether it has been found and not yet met."""
        self.probes = Probes()
        self.name = f"pod {place.pod}" if place is not None else order.settings.target
        self.replicas: tuple[ClusterAgent, ...] = ()
        self.reasons: Mapping[str, str] = {}
        self._have_changed = trio.Event()

    @property
    def whereabouts(self) -> str:
        """As `agent.Agent` says."""
        return f"pod {self._place.pod}" if self._place is not None else self.name

    @property
    def target_id(self) -> str:
        """As `agent.Agent` says."""
        return self._place.container_id if self._place is not None else ""

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
            if self._is_again:
                await self._api.drop_idle()
            while True:
                if self._agent is None:
                    self._agent = await self._start(self._api, tell)
                    self._is_unused, self._broken = True, 0
                    self._give_time(_LISTENS_WITHIN_S)
                self._stream = None
                try:
                    if self._agent.is_guarded:
                        self._agent = await reach.identify(self._api, self._agent)
                        self._stream = await reach.open_guarded(self._api, self._agent)
                    else:
                        self._stream = await open_port(self._api, self._agent.namespace, self._agent.pod, agents.PORT)
                except reach.Silent:
                    if (refusal := await self.explain_silence(reach.PROVES_WITHIN_S)) is not None:
                        raise refusal from None
                except ApiError as error:
                    if error.status == 403:
                        raise
                    if (refusal := await self.explain(error)) is not None:
                        raise refusal from None
                else:
                    return self._stream
        except ApiError as error:
            namespace = self._agent.namespace if self._agent is not None else self._settings.namespace
            raise TargetError(failures.explain(error, "connect to the agent", namespace)) from None

    def _give_time(self, seconds: float) -> None:
        """Until its agent listens."""
        self._refused_since = trio.current_time()
        self._listens_by = self._refused_since + seconds

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
            folder=folder,
        )
        return await self._stack.enter_async_context(open_api(access))

    async def _start(self, api: Api, tell: Tell) -> agents.Agent:
        namespace = self._settings.namespace or api.access.namespace
        if self._is_bound and self._place is not None and self._place.container_id in self._ended:
            if self._is_again:
                await trio.sleep_forever()  # until it is left, as one of the target's pods that it is not any more
            raise NoTarget(targets.say_ended(self._place))
        if not self._is_bound and self._settings.target != TARGETLESS:
            named = reference.parse(self._settings.target)
            await tell(f"looking for {named} in namespace {namespace} of {api.access.server}")
            try:
                found = await targets.find(
                    api,
                    named,
                    namespace,
                    former=None if self._is_leaving else self._place,
                    is_out_of_reach=await self._is_out_of_reach(api),
                    known=self._known_replicas(),
                    ended=self._ended,
                )
            except NoTarget:
                self._has_no_target = True
                raise
            self._has_no_target = False
            self._place, self._scope = found.place, found.scope
            await tell(f"target is {found.place} on node {found.place.node}{_say_others(found)}", stays=True)
            self.probes = found.place.probes
            self._set_replicas(found.replicas[1:])
        agent = self._settings.agent
        image = agent.image or agents.default_image()
        needs_incoming = self._settings.needs_incoming
        wish = agents.Wish(
            self._place,
            agent.namespace or namespace,
            self._features,
            agent,
            image,
            needs_incoming=needs_incoming,
            avoided=frozenset(self._hung),
        )
        start = ephemeral.start if agent.is_ephemeral else agents.start
        begun = await start(api, wish, tell)
        self.reasons = begun.reasons
        if "incoming" in self.reasons:
            self._set_replicas(())
        return begun

    async def _is_out_of_reach(self, api: Api) -> bool:
        """Whether the agent could not be had again for a while, and its target's node may be why."""
        if self._place is None or trio.current_time() - self._lost_at < _OUT_OF_REACH_S:
            return False
        try:
            return bool(failures.say_node_silent(await api.get(f"/api/v1/nodes/{self._place.node}")))
        except ApiError:
            return True  # who may not see nodes goes by the pod, which is not ready then either

    async def explain(self, error: Exception) -> MirrorError | None:
        """As `agent.Agent` says: one that does not listen yet is worth another try, and so is one that has ended."""
        assert self._api is not None
        assert self._agent is not None
        if isinstance(error, TargetEnded) and self._place is not None:
            self._note_end(self._place)
            return None
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
            if self._broken > (_TRIES_REFUSED if isinstance(error, ApiError) else 0):
                return TargetError(f"{self.name} cannot be entered: {failure or error}")
            # It may have been about to end when it was joined; what its pod says of that comes a little later.
            self._broken += 1
            await trio.sleep(_SETTLES_S)
            return None
        if isinstance(verdict, failures.Ended):
            self._agent = None
            return None
        if trio.current_time() > self._listens_by:
            return TargetError(f"the agent in pod {self._agent.pod} cannot be reached ({failure or error}); try again")
        # That its container runs is known before its pod says so.
        refused_s = trio.current_time() - self._refused_since
        await trio.sleep(min(max(_RETRY_S, _RETRY_SHARE * refused_s), _LONGEST_RETRY_S))
        return None

    async def explain_silence(self, waited_s: float) -> MirrorError | None:
        """As `agent.Agent` says: one that hangs is removed if that is permitted, and another is worth a try."""
        assert self._api is not None
        agent = self._agent
        assert agent is not None
        silent_s = self._silent_s[agent.pod] = self._silent_s.get(agent.pod, 0.0) + waited_s
        if silent_s < _HUNG_S or (agent.is_begun and self._is_unused):
            return TargetError(f"the agent of {self.name} did not answer within {waited_s:.0f} s; try again")
        try:
            # What is silent may be the way there: then the API server does not answer either, or says that it is over.
            verdict = agent.judge(await self._api.get(f"/api/v1/namespaces/{agent.namespace}/pods/{agent.pod}"))
            if isinstance(verdict, Running):
                await agents.remove_hung(self._api, agent)
                self._hung.add(agent.job_uid)
        except ApiError as refusal:
            if refusal.status != 404:
                return TargetError(failures.explain(refusal, "look after the agent", agent.namespace))
        except MirrorError as error:
            return error
        self._agent = None
        return None

    def welcomed(self) -> None:
        """As `agent.Agent` says: it will end by itself when nobody uses it any more, even if others have come too."""
        self._is_unused = self._is_leaving = False
        self._met = self._place
        self._lost_at = math.inf
        self._silent_s.clear()

    def lost(self, error: Exception) -> str:
        """As `agent.Agent` says."""
        self._is_leaving = False
        self._lost_at = trio.current_time()
        if not isinstance(error, TargetEnded) or self._met is None:
            return ""
        self._note_end(self._met)
        return targets.say_ended(self._met)

    def _note_end(self, place: Place) -> None:
        self._ended.add(place.container_id)
        if self.target_id == place.container_id:
            self._agent = None

    async def pause(self, seconds: float) -> None:
        """As `agent.Agent` says: by a watch on the pods that the target had, if it is the target that is not there."""
        if not self._has_no_target or self._api is None or self._place is None:
            await trio.sleep(seconds)
            return

        def see(pods: Sequence[Mapping[str, Any]]) -> bool:
            return not targets.order_ready(targets.but_for(self._ended, pods))

        with trio.move_on_after(_LOOK_AGAIN_S):
            await trio.sleep(_SHORTEST_PAUSE_S)
            try:
                await targets.follow(self._api, self._place.namespace, self._scope, see)
            except (ApiError, MirrorError):
                await trio.sleep(seconds)

    def begin_again(self, failure: MirrorError | None) -> None:
        """As `agent.Agent` says: at first the same agent is tried, which stays for a while when nobody uses it."""
        self._broken, self._is_again = 0, True
        self._give_time(_RETURNS_WITHIN_S)
        if failure is not None and not failure.is_passing:
            self._agent = None

    # --- the target's pods --------------------------------------------------------------------------------

    async def until_gone(self, tell_user: Callable[[str], None], /) -> str:
        """As `agent.Agent` says: by a watch on the target's pods, where it was not told which one it is."""
        if self._is_bound or self._place is None:
            await trio.sleep_forever()
        assert self._api is not None
        place, why = self._place, ""

        def see(pods: Sequence[Mapping[str, Any]]) -> bool:
            nonlocal why
            why = targets.say_gone(place, pods)
            if not why:
                self._set_replicas(targets.other_places(place, pods, self._known_replicas()))
            return not why

        while not why:
            try:
                await targets.follow(self._api, place.namespace, self._scope, see)
            except (ApiError, MirrorError) as error:
                # When the API server is back the next connection begins it again.
                if isinstance(error, ApiError) and (right := failures.missing_right(error.message)):
                    tell_user(f"{right}, so pods of {self.name} that come and go are seen {_WATCH_AGAIN_S:.0f} s late")
                await trio.sleep(_WATCH_AGAIN_S)
        self._agent, self._is_leaving = None, True
        return why

    async def until_others(self, replicas: Sequence[Agent]) -> None:
        """As `agent.Agent` says."""
        while {*replicas} == {*self.replicas}:
            await self._have_changed.wait()

    def _known_replicas(self) -> list[Place]:
        return [agent._place for agent in self.replicas if agent._place is not None]

    def _set_replicas(self, places: Iterable[Place]) -> None:
        if self._settings.replicas == "one" or self._settings.incoming == "off" or "incoming" in self.reasons:
            places = ()
        known = {agent._place: agent for agent in self.replicas}
        replicas = tuple(known.get(each) or ClusterAgent(self._order, place=each, api=self._api) for each in places)
        if replicas != self.replicas:
            self.replicas = replicas
            self._have_changed.set()
            self._have_changed = trio.Event()

    async def end(self, *, at_once: bool) -> None:
        """As `agent.Agent` says: the agent ends by itself, and the cluster removes its Job."""
        agent = self._agent
        if agent is None or self._api is None or not agent.is_begun or not agent.job:
            return
        if at_once or self._is_unused:
            await agents.remove(self._api, agent)


def _say_others(found: Found) -> str:
    others = len(found.replicas) - 1
    return f", the first of {others + 1} that are ready" if others else ""
