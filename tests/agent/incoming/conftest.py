from __future__ import annotations

import itertools
import shutil
import socket
from collections.abc import AsyncIterator, Iterator

import pytest

from .stage import PATH, AgentProcess, Client, Pod, make_pod, start_agent, until

REDIRECT = {"tproxy4": False, "tproxy6": False}

_ports = itertools.count(8000)


@pytest.fixture(scope="session")
def standing_pod() -> Iterator[Pod]:
    if shutil.which("nft", path=PATH) is None:
        pytest.skip("nft shows what is in the kernel")
    try:
        with make_pod() as pod:
            yield pod
    except RuntimeError as error:
        pytest.skip(str(error))


@pytest.fixture
def pod(standing_pod: Pod) -> Iterator[Pod]:
    """Used by all tests, and without connections before each."""
    yield standing_pod
    standing_pod.close_connections()


@pytest.fixture
def port() -> int:
    """One that no other test uses."""
    return next(_ports)


@pytest.fixture(params=[socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
def family(request: pytest.FixtureRequest) -> socket.AddressFamily:
    value: socket.AddressFamily = request.param
    return value


@pytest.fixture(params=[{}, REDIRECT], ids=["tproxy", "redirect"], scope="session")
def support(request: pytest.FixtureRequest) -> dict[str, bool]:
    """What of the kernel's an agent is to do without."""
    value: dict[str, bool] = request.param
    return value


@pytest.fixture(scope="session")
def agent(standing_pod: Pod, support: dict[str, bool]) -> Iterator[AgentProcess]:
    """Shared by all tests that do it no harm."""
    with start_agent(standing_pod, clients=1000, **support) as agent:
        yield agent


@pytest.fixture
async def client(pod: Pod, agent: AgentProcess) -> AsyncIterator[Client]:
    async with agent.client() as client:
        yield client
    pod.close_connections()
    await until(lambda: pod.run("target", "nft", "list", "ruleset") == "")
