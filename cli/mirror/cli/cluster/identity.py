"""The secret of an agent that others can reach as well: fetched through `pods/exec`, proven in TLS.

What it is, and how an agent makes and keeps it, says `mirror.agent.identity`.
"""

from __future__ import annotations

import dataclasses
import os
import re
import ssl

import trio

from mirror.cli.cluster import podexec
from mirror.cli.cluster.api import Api
from mirror.cli.cluster.podexec import CommandFailed
from mirror.cli.errors import MirrorError, TargetError

FILE = "/tmp/mirror-agent.pem"
"""In the agent's container: of its own root directory, or a volume that nobody else mounts."""
COMMAND = ("python3", "-m", "mirror.agent.identity", FILE)

_CONTENT = re.compile(
    r"port (?P<port>\d{1,5})\n(?P<pem>-----BEGIN PRIVATE KEY-----\n.*-----END CERTIFICATE-----\n)", re.S
)


@dataclasses.dataclass(frozen=True)
class Identity:
    """What an agent has made.

    Attributes:
        port: On which it listens.
        pem: Its key and its certificate.
    """

    port: int
    pem: str = dataclasses.field(repr=False)


async def fetch(api: Api, namespace: str, pod: str, container: str) -> Identity:
    """The identity of the agent in a container that runs; waits until it has one.

    Raises:
        CommandFailed: It has none. The container may have ended.
        ApiError: No permission, ...
        Unreachable: The API server cannot be reached.
    """
    return parse(await podexec.run(api, namespace, pod, container, COMMAND))


def parse(content: bytes) -> Identity:
    """What `mirror.agent.identity` prints. Raises CommandFailed."""
    found = _CONTENT.fullmatch(content.decode("ascii", errors="replace"))
    if found is None:
        raise CommandFailed("what it says is no identity; is its image an agent's of this release?")
    return Identity(int(found["port"]), found["pem"])


def context(identity: Identity) -> ssl.SSLContext:
    """What proves to the agent that we have its secret, and believes nobody else."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.check_hostname = False  # there is only that one certificate
    made.load_verify_locations(cadata=identity.pem[identity.pem.index("-----BEGIN CERTIFICATE") :])
    # It takes files only; this one has no name.
    fd = os.memfd_create("identity")
    try:
        os.write(fd, identity.pem.encode())
        made.load_cert_chain(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
    return made


class GuardedStream(trio.abc.Stream):
    """A stream to an agent that both sides have proven to have the secret.

    Args:
        below: To the agent's port. Its own `failure`, if it has such, says more about its end.
        identity: The agent's.
        place: Where that is, for sentences.
    """

    def __init__(self, below: trio.abc.Stream, identity: Identity, place: str) -> None:
        self._below = below
        self._stream = trio.SSLStream(below, context(identity))
        self._port = identity.port
        self._place = place
        self._impostor: MirrorError | None = None

    @property
    def failure(self) -> Exception | None:
        """Why it is broken; None while it works, and where that is not known."""
        return self._impostor or getattr(self._below, "failure", None)

    async def do_handshake(self) -> None:
        """To be called first; afterwards there may be a `failure`."""
        try:
            await self._stream.do_handshake()
        except trio.BrokenResourceError as error:
            self._explain(error)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """See trio.abc.ReceiveStream."""
        try:
            return bytes(await self._stream.receive_some(max_bytes))
        except trio.BrokenResourceError as error:
            self._explain(error)
            raise

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """See trio.abc.SendStream."""
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """See trio.abc.SendStream."""
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """Ends both directions."""
        await self._stream.aclose()

    def _explain(self, error: trio.BrokenResourceError) -> None:
        """Errors of TLS are told from those of the connection: one side finds that the other has not the secret."""
        if isinstance(error.__cause__, ssl.SSLError) and not isinstance(error.__cause__, ssl.SSLEOFError):
            self._impostor = TargetError(
                f"what listens on port {self._port} of {self._place} does not have the secret of mirror's agent, so it "
                "was told nothing; look what else runs there, and try again"
            )
