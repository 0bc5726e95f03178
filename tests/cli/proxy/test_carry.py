"""Sockets towards the program: what becomes of a connection that nothing has been carried over yet."""

from __future__ import annotations

import errno
import socket

import pytest
import trio

from mirror.cli.proxy.carry import open_socket
from mirror.cli.proxy.endpoints import to_python
from mirror.cli.proxy.stub import Stub


def test_closed_by_whatever_means_is_no_end_of_data() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with open_socket(socket.AF_INET) as ours:
            assert ours.connect_ex(listener.getsockname()) in (0, errno.EINPROGRESS)
            accepted, _ = listener.accept()
        with accepted, pytest.raises(ConnectionResetError):
            accepted.recv(1)


async def test_so_is_a_connection_of_the_stub_from_its_first_moment() -> None:
    with Stub() as stub, socket.socket() as program_socket:
        program_socket.setblocking(False)
        assert program_socket.connect_ex(to_python(stub.address)) == errno.EINPROGRESS
        ours = await stub.complete(program_socket)
        assert ours is not None
        ours.close()
        await trio.lowlevel.wait_readable(program_socket)
        with pytest.raises(ConnectionResetError):
            program_socket.recv(1)
