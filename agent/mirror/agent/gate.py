"""Where the agent's clients come from: one connection that was inherited, or a listener.

Nobody but a port-forward reaches the loopback of the agent's own pod, so whoever comes there is let in. Where others
can come too, a guarded gate lets in who proves to have the agent's secret (`identity`): nothing of others is looked at.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from typing import TYPE_CHECKING

import trio

from mirror.protocol.frame import encode_frame
from mirror.protocol.messages import Goodbye

if TYPE_CHECKING:
    import ssl

_HOST = "127.0.0.1"
_BACKLOG = 128
_SHORTAGE_PAUSE_S = 0.05
_GREETING_BYTES = 64 << 10
"""More than a client sends before it has heard anything."""
_PROVES_WITHIN_S = 20.0
"""The handshake: two messages each way, over whatever network there is."""


class IdentityError(Exception):
    """The secret cannot be made: a sentence."""


class Gate:
    """Exactly one of the first two attributes is set.

    Attributes:
        connection: A connected stream socket with the only client at its other end.
        listener: Clients may connect to it from the beginning, and wait there until they are accepted.
        guard: What who comes to the listener must prove; None: nothing.
    """

    guard: ssl.SSLContext | None = None

    def __init__(self, *, connection: socket.socket | None = None, listener: socket.socket | None = None) -> None:
        self.connection = connection
        self.listener = listener

    @classmethod
    def inherited(cls, fd: int) -> Gate:
        """The only client's connection, given to this process by its number.

        Raises:
            OSError: There is no such socket.
        """
        connection = socket.socket(fileno=fd)
        connection.set_inheritable(False)
        return cls(connection=connection)

    @classmethod
    def listening(cls, port: int, *, is_direct: bool = False) -> Gate:
        """A listener in this process's network namespace.

        Args:
            port: 0: any that is free.
            is_direct: On all addresses, not only on loopback.

        Raises:
            OSError: The port is in use, or may not be had.
        """
        if is_direct:
            both = socket.has_dualstack_ipv6()
            family = socket.AF_INET6 if both else socket.AF_INET
            return cls(listener=socket.create_server(("", port), family=family, backlog=_BACKLOG, dualstack_ipv6=both))
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((_HOST, port))
            listener.listen(_BACKLOG)
        except BaseException:
            listener.close()
            raise
        return cls(listener=listener)

    @property
    def address(self) -> str:
        """Where the listener is, for people to read."""
        assert self.listener is not None
        return f"{self.listener.getsockname()[0]}:{self.port}"

    @property
    def port(self) -> int:
        """Of the listener."""
        assert self.listener is not None
        return int(self.listener.getsockname()[1])

    async def accept(self) -> socket.socket:
        """The next client that connects to the listener. A shortage of descriptors only delays it."""
        assert self.listener is not None
        self.listener.setblocking(False)
        while True:
            try:
                return self.listener.accept()[0]
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self.listener)
            except OSError as error:  # accept(2): also the errors of a connection that is gone already
                if error.errno == errno.EBADF:
                    raise
                await trio.sleep(_SHORTAGE_PAUSE_S)

    async def admit(self, connection: socket.socket) -> trio.abc.Stream | None:
        """The stream to a client that has connected; None, and it is closed, if it does not prove what it must."""
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(connection))
        if self.guard is None or self.listener is None:
            return stream
        guarded = trio.SSLStream(stream, self.guard, server_side=True)
        with trio.move_on_after(_PROVES_WITHIN_S):
            try:
                await guarded.do_handshake()
                return guarded
            except trio.BrokenResourceError:
                pass
        stream.socket.close()
        return None

    def turn_away(self, sentence: str, *, is_targets_end: bool = False) -> None:
        """Says goodbye to who has connected and is not being served; nobody can connect from then on.

        Who was let in while this process ends would be left without a word, as those are who have yet to prove
        something: what the agent has to say is in its log. Never waits, never raises.
        """
        farewell = encode_frame(0, Goodbye(sentence, is_targets_end)) if self.guard is None else b""
        with contextlib.suppress(OSError):
            if self.connection is not None:
                self.connection.sendall(farewell)
            if self.listener is not None:
                self.listener.setblocking(False)
                while True:
                    with self.listener.accept()[0] as connection, contextlib.suppress(OSError):
                        connection.setblocking(False)
                        connection.sendall(farewell)
                        # Closed with something unread it would be reset, which some tunnels pass on first.
                        connection.shutdown(socket.SHUT_WR)
                        connection.recv(_GREETING_BYTES)
        if self.listener is not None:
            self.listener.close()
