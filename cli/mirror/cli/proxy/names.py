"""Name look-ups in the target: one round trip each, none within the lease, one for all who ask at once.

Failures are kept too: programs ask for names that do not exist again and again (search domains, AAAA of IPv4-only
hosts). A look-up that failed for a passing reason (EAI_AGAIN and the like) is kept no longer than it took.
"""

from __future__ import annotations

import socket
from collections import OrderedDict

import trio

from mirror.cli.proxy.connections import Session
from mirror.cli.proxy.layers import Handler, LayerConnection, Reply
from mirror.protocol.messages import (
    LookUpAddress,
    LookUpFailed,
    LookUpHost,
    LookUpHostByAddress,
    LookUpName,
    Message,
)

LEASE_S = 1.0
"""How long an answer is given again."""

MOST = 4096
"""Answers kept; the oldest goes first."""

_TRY_AGAIN = 2
"""h_errno of <netdb.h>."""

_NETDB_INTERNAL = -1


class _Answer:
    """One look-up: under way until `done` is set."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.reply: Message | None = None
        self.failure: Exception | None = None
        self.expires_at = float("inf")


class Names:
    """Looks names up.

    Args:
        session: For the agent.
        lease_s: How long an answer is given again.
    """

    def __init__(self, session: Session, *, lease_s: float = LEASE_S) -> None:
        self._session = session
        self._lease_s = lease_s
        self._answers: OrderedDict[Message, _Answer] = OrderedDict()

    def handlers(self) -> dict[type[Message], Handler]:
        """For the layer's messages."""
        return dict.fromkeys((LookUpAddress, LookUpHost, LookUpHostByAddress, LookUpName), self._look_up)

    def forget(self) -> None:
        """Whatever is known was said by an agent that may have stood in for somebody else."""
        for answer in self._answers.values():
            if answer.done.is_set():
                answer.expires_at = 0

    async def _look_up(self, _: LayerConnection, message: Message, __: list[int]) -> Reply:
        answer = self._answers.get(message)
        if answer is None or answer.expires_at <= trio.current_time():
            answer = self._answers[message] = _Answer()
            self._answers.move_to_end(message)
            if len(self._answers) > MOST:
                self._answers.popitem(last=False)
            # In a task of its own: whoever asked first may go away.
            self._session.start(self._ask, message, answer)
        await answer.done.wait()
        if answer.reply is None:
            assert answer.failure is not None
            raise answer.failure
        return Reply(answer.reply)

    async def _ask(self, message: Message, answer: _Answer) -> None:
        try:
            answer.reply = await self._session.uplink.request(message)
        except Exception as error:
            answer.failure = error
        finally:
            if answer.failure is not None or _is_passing(answer.reply):
                answer.expires_at = 0
            else:
                answer.expires_at = trio.current_time() + self._lease_s
            answer.done.set()


def _is_passing(reply: Message | None) -> bool:
    """Whether the same question could have another answer at once."""
    if not isinstance(reply, LookUpFailed):
        return reply is None
    return reply.code in (socket.EAI_AGAIN, socket.EAI_SYSTEM, socket.EAI_MEMORY, _TRY_AGAIN, _NETDB_INTERNAL)
