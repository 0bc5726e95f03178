"""Lets processes into the session: puts the hooks in where they are missing, and says what the session is like."""

from __future__ import annotations

import os

import trio

from mirror.cli import inject
from mirror.cli.proxy import console
from mirror.cli.proxy.incoming import Incoming
from mirror.cli.proxy.layers import Handler, LayerConnection, Reply
from mirror.cli.proxy.outgoing import Outgoing
from mirror.cli.proxy.session import Session
from mirror.protocol.messages import PROTOCOL_VERSION, Message, Refused, Register, Registered

_DIES_WITHIN_S = 0.2
"""After an attachment that failed, if at all."""


class Registration:
    """Answers `Register`.

    Args:
        session: The session.
        injector: Puts the hooks in.
        outgoing: Knows where a remote connection's socket connects to.
        incoming: Knows whence connections are delivered, and which listeners are elsewhere than asked.
    """

    def __init__(self, session: Session, injector: inject.Injector, outgoing: Outgoing, incoming: Incoming) -> None:
        self._session = session
        self._injector = injector
        self._outgoing = outgoing
        self._incoming = incoming

    def handlers(self) -> dict[type[Message], Handler]:
        """By the kind of message."""
        return {Register: self._register}

    async def _register(self, layer: LayerConnection, message: Register, fds: list[int]) -> Reply:
        for fd in fds:
            os.close(fd)
        if message.lifeline_port:
            self._session.lifelines.name(message.lifeline_port)
        if message.version != PROTOCOL_VERSION:
            return Reply(Refused("mirror has been updated while this session was running; end it and start it again"))
        recipe = b""
        if message.cause == "exec":
            try:
                recipe = self._injector.known(message.libc) or await self._inject(layer, message.libc)
            except inject.InjectFailed as error:
                return Reply(Refused(str(error)))
        layer.is_registered = True
        return Reply(self._registered(recipe))

    async def _inject(self, layer: LayerConnection, libc: bytes) -> bytes:
        """The recipe, or none when the hooks are in.

        A process may die of it, and then cannot tell the user why; and the session may be without processes then.
        """
        with self._session.lifelines.held(), console.held(layer.pid, self._session.order.console) as tell:
            try:
                return await self._injector.hook(layer.pid, libc)
            except inject.InjectFailed as error:
                with trio.move_on_after(_DIES_WITHIN_S):
                    await layer.process.ended.wait()
                if tell is not None and layer.process.ended.is_set():
                    await trio.to_thread.run_sync(tell, str(error))
                raise

    def _registered(self, recipe: bytes) -> Registered:
        settings = self._session.settings
        return Registered(
            rules=self._session.rules,
            outgoing=settings.outgoing,
            names=settings.names,
            incoming=settings.incoming != "off",
            stub=self._outgoing.stub,
            delivery=self._incoming.delivery,
            listeners=self._incoming.moved(),
            recipe=recipe,
            host_name=self._session.host_name,
            domain_name=self._session.domain_name,
        )
