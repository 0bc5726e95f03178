"""One round trip for all who ask the same at the same time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from typing import Any, TypeVar, cast

import outcome
import trio

from mirror.protocol.stream import RequestFailed

_T = TypeVar("_T")


class _Flight:
    def __init__(self) -> None:
        self.landed = trio.Event()
        self.outcome: outcome.Outcome[Any] | None = None


class Flights:
    """The questions that are under way. Whoever asks first does the work, in its own task; the others wait for it."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, _Flight] = {}

    async def share(self, key: Hashable, ask: Callable[[], Awaitable[_T]]) -> _T:
        """What `ask` returns, or what it returns for the one who asked first.

        Args:
            key: Equal for equal questions.
            ask: Makes the round trip.

        Raises:
            Exception: Whatever `ask` raises; everybody gets it.
        """
        flight = self._flights.get(key)
        while flight is not None:
            await flight.landed.wait()
            if flight.outcome is not None:
                value: _T = _copy(flight.outcome)
                return value
            # The one who asked first was cancelled: the next one asks.
            flight = self._flights.get(key)
        flight = self._flights[key] = _Flight()
        try:
            result = await ask()
            flight.outcome = outcome.Value(result)
            return result
        except Exception as error:
            flight.outcome = outcome.Error(error)
            raise
        finally:
            del self._flights[key]
            flight.landed.set()


def _copy(result: outcome.Outcome[_T]) -> _T:
    """Each waiter raises an exception of its own, so that tracebacks do not pile up in one."""
    if isinstance(result, outcome.Error):
        error = result.error
        if isinstance(error, RequestFailed):
            raise RequestFailed(error.errno, error.reason)
        raise type(error)(*error.args) from error
    assert isinstance(result, outcome.Value)
    return cast(_T, result.value)  # unwrap() can be called once only
