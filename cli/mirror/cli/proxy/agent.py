"""Where a session's agent is: what both ways of having one offer, beside this process or in a cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import trio

from mirror.cli.cluster.probes import Probes
from mirror.cli.errors import MirrorError


class Tell(Protocol):
    """Shows the user a step of the start."""

    async def __call__(self, text: str, /, *, stays: bool = False) -> None:
        """Shows it.

        Args:
            text: What is being done.
            stays: Whether a terminal goes on showing it once the program runs.
        """
        ...


async def tell_nobody(text: str, /, *, stays: bool = False) -> None:
    """The program runs already, and what it shows is its own: a `Tell`."""


class Agent(Protocol):
    """An agent of one session.

    Attributes:
        probes: Of its target, once it is connected.
        name: What it is beside, for sentences.
        reasons: For each capability that it cannot have though it was wanted, a better sentence than its own; known
            once it is connected.
        whereabouts: Where that is at present, for sentences, once it is connected.
        target_id: What tells its present target from all others, once it is connected.
        replicas: Agents for the other pods of its target, as they are at present; known once it is connected.
        comes_back: Whether another connection can be had when one has broken.
    """

    @property
    def probes(self) -> Probes: ...  # noqa: D102 - said above

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def reasons(self) -> Mapping[str, str]: ...  # noqa: D102
    @property
    def whereabouts(self) -> str: ...  # noqa: D102
    @property
    def target_id(self) -> str: ...  # noqa: D102
    @property
    def replicas(self) -> Sequence[Agent]: ...  # noqa: D102
    @property
    def comes_back(self) -> bool: ...  # noqa: D102

    def held(self) -> AbstractAsyncContextManager[None]:
        """To be entered before anything else is done, and left after everything."""
        ...

    async def connect(self, tell: Tell) -> trio.abc.Stream:
        """A connection to it, which may break before the agent has introduced itself; see `explain`.

        Raises:
            MirrorError: There is no agent; the sentence says why.
        """
        ...

    async def explain(self, error: Exception) -> MirrorError | None:
        """Why the connection broke.

        Args:
            error: How it looks from here.

        Returns:
            What to tell the user; None: it is worth another `connect`.
        """
        ...

    async def explain_silence(self, waited_s: float) -> MirrorError | None:
        """Why it has not introduced itself within some seconds; as `explain`."""
        ...

    def welcomed(self) -> None:
        """It has introduced itself."""
        ...

    def begin_again(self, failure: MirrorError | None) -> None:
        """To be called before another `connect`, once the agent has introduced itself.

        Args:
            failure: Why the last attempt failed; None: it has worked until now.
        """
        ...

    async def pause(self, seconds: float) -> None:
        """Waits before another attempt: so long, or until what made the last one fail is over, if that can be seen."""
        ...

    def lost(self, error: Exception) -> str:
        """To be called when the connection is lost.

        Returns:
            Why the target is where it was no more, if that is known from the error; `connect` then leads to where it
            is. Else empty.
        """
        ...

    async def until_gone(self, tell_user: Callable[[str], None], /) -> str:
        """Returns when the target is about to go from where it was, or has gone, with the reason.

        `connect` then leads to where else it is. To be called while there is a connection, which may last for as long
        as the target does; `replicas` are kept up to date meanwhile.

        Args:
            tell_user: Is told what keeps it from seeing that as soon as it happens.
        """
        ...

    async def until_others(self, replicas: Sequence[Agent]) -> None:
        """Returns when its replicas are others than these."""
        ...

    async def end(self, *, at_once: bool) -> None:
        """Sees that nothing is left when the connection is closed. Cannot be cancelled; takes a second at most.

        Args:
            at_once: It has done nothing yet that it would have to undo.
        """
        ...
