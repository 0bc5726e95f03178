"""Where the agent's clients come from: one connection that was inherited, or a listener on its own loopback.

Nobody but a port-forward reaches the loopback of a pod, so whoever comes is let in.
"""

from __future__ import annotations

import contextlib
import errno
import socket

import trio

from mirror.protocol.frame import encode_frame
from mirror.protocol.messages import Goodbye

_HOST = "127.0.0.1"
_BACKLOG = 128
_SHORTAGE_PAUSE_S = 0.05
_GREETING_BYTES = 64 << 10
"""More than a client sends before it has heard anything."""


class Gate:
    """Exactly one of the two attributes is set.

    Attributes:
        connection: A connected stream socket with the only client at its other end.
        listener: Clients may connect to it from the beginning, and wait there until they are accepted.
    """

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
    def listening(cls, port: int) -> Gate:
        """A listener on loopback in this process's network namespace.

        Args:
            port: 0: any that is free.

        Raises:
            OSError: The port is in use, or may not be had.
        """
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
        host, port = self.listener.getsockname()
        return f"{host}:{port}"

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

    def turn_away(self, sentence: str) -> None:
        """Says goodbye to who has connected and is not being served; nobody can connect from then on.

        Who was let in while this process ends would be left without a word. Never waits, never raises.
        """
        farewell = encode_frame(0, Goodbye(sentence))
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
