"""The connection to an agent that others can reach too: by a port-forward or directly, and proven by its secret."""

from __future__ import annotations

import dataclasses

import trio

from mirror.cli.cluster import identity
from mirror.cli.cluster.agents import Agent
from mirror.cli.cluster.api import Api, ApiError
from mirror.cli.cluster.identity import GuardedStream
from mirror.cli.cluster.podexec import CommandFailed
from mirror.cli.cluster.portforward import open_port
from mirror.cli.errors import TargetError

_CONNECTS_WITHIN_S = 10.0
PROVES_WITHIN_S = 10.0
"""A busy node may take a while over it; an agent that has been stopped takes for ever."""


class Silent(TargetError):
    """The agent does not answer, though there is a connection to its port."""


async def identify(api: Api, agent: Agent) -> Agent:
    """The agent with what it takes to reach it. Waits until it has its secret.

    Raises:
        ApiError: No permission, or the container does not run any more, or the cluster does not know its address yet.
        Unreachable: The API server cannot be reached.
    """
    if agent.identity is not None:
        return agent
    address = ""
    if agent.is_direct:
        pod = await api.get(f"/api/v1/namespaces/{agent.namespace}/pods/{agent.pod}")
        address = pod["status"].get("podIP", "")
        if not address:  # the node says that the container runs before it says how the pod is
            place = f"{agent.namespace}/{agent.pod}"
            raise ApiError(503, "", f"the cluster does not yet know the address of the pod {place}")
    try:
        found = await identity.fetch(api, agent.namespace, agent.pod, agent.container)
    except CommandFailed as error:
        raise ApiError(500, "", f"the agent's secret cannot be read: {error}") from None
    return dataclasses.replace(agent, identity=found, address=address)


async def open_guarded(api: Api, agent: Agent) -> GuardedStream:
    """A stream to an agent that has been identified. If it is not there, or not the agent, there is a `failure`.

    Raises:
        TargetError: Its address cannot be reached from here.
        Silent: It does not answer.
        ApiError: Nothing listens at its address; or as `open_port`.
        Unreachable: The API server cannot be reached.
    """
    assert agent.identity is not None
    port = agent.identity.port
    place = f"the pod {agent.namespace}/{agent.pod}"
    below: trio.abc.Stream
    if agent.is_direct:
        place = f"{agent.address}, the address of {place}"
        below = await _connect(agent.address, port)
    else:
        below = await open_port(api, agent.namespace, agent.pod, port)
    stream = GuardedStream(below, agent.identity, place)
    try:
        with trio.fail_after(PROVES_WITHIN_S):
            await stream.do_handshake()
    except trio.TooSlowError:
        await trio.aclose_forcefully(stream)
        raise Silent(f"the agent in {place} did not answer within {PROVES_WITHIN_S:.0f} s; try again") from None
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return stream


async def _connect(address: str, port: int) -> trio.SocketStream:
    """A connection to a pod's address."""
    family = trio.socket.AF_INET6 if ":" in address else trio.socket.AF_INET
    connection = trio.socket.socket(family, trio.socket.SOCK_STREAM)
    try:
        with trio.fail_after(_CONNECTS_WITHIN_S):
            await connection.connect((address, port))
        return trio.SocketStream(connection)
    except ConnectionRefusedError:  # it was there when its secret was read
        connection.close()
        raise ApiError(503, "", f"nothing listens on port {port} of {address}") from None
    except (OSError, trio.TooSlowError) as error:
        connection.close()
        why = error.strerror if isinstance(error, OSError) else f"no answer within {_CONNECTS_WITHIN_S:.0f} s"
        raise TargetError(
            f"the agent cannot be reached from this machine at its pod's address {address}, port {port} ({why}); leave "
            "out --agent-transport direct, or see to your VPN and the cluster's network policies"
        ) from None
    except BaseException:
        connection.close()
        raise
