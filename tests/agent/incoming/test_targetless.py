"""An agent that stands in for its own container: the traffic of its own network namespace."""

from __future__ import annotations

import subprocess
import sys

import trio

from .stage import PATIENCE_S, Client, Pod, read_line, serving, until


async def test_a_targetless_agent_with_net_admin_steals_its_own_containers_traffic(pod: Pod, port: int) -> None:
    within = ["nsenter", "--user", "--net", "--preserve-credentials", "--target", str(pod.process.pid)]
    command = [*within, sys.executable, "-m", "mirror.agent", "--listen", "0", "--targetless", "--grace", "0"]
    with subprocess.Popen([*command, "--features", "incoming"], stdout=subprocess.PIPE) as agent:
        try:
            assert agent.stdout is not None
            listening = int(agent.stdout.readline().rpartition(b":")[2])
            # A tunnel into the pod ends inside it.
            stream = await pod.connect(listening, where="target", address="127.0.0.1")
            client = Client(stream)
            async with serving(pod.listen(port)), trio.open_nursery() as nursery:
                welcome = await nursery.start(client.run)
                assert welcome.capabilities == ("incoming",)
                await client.subscribe(port, steal=True)
                caller = await pod.connect(port)
                _, channel = await client.accept()
                await channel.send(b"outside\n")
                assert await read_line(caller) == b"outside\n"
                await client.peer.aclose()
                with trio.fail_after(PATIENCE_S):
                    assert await trio.to_thread.run_sync(agent.wait) == 0
                assert await read_line(await pod.connect(port)) == b"target sees 10.99.0.2\n"
        finally:
            agent.kill()
    await until(lambda: pod.run("target", "nft", "list", "ruleset") == "")
