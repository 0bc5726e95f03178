"""Equal questions at the same time make one round trip."""

from __future__ import annotations

import errno

import pytest
import trio
import trio.testing

from mirror.cli.proxy.flights import Flights
from mirror.protocol.stream import RequestFailed


class Question:
    """Counts how often it is asked, and answers when it is told to."""

    def __init__(self) -> None:
        self.asked = 0
        self.may_answer = trio.Event()
        self.error: Exception | None = None

    async def ask(self) -> int:
        self.asked += 1
        await self.may_answer.wait()
        if self.error is not None:
            raise self.error
        return self.asked


async def test_all_get_the_first_answer() -> None:
    flights, question, answers = Flights(), Question(), []

    async def client() -> None:
        answers.append(await flights.share("key", question.ask))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(client)
        await trio.testing.wait_all_tasks_blocked()
        question.may_answer.set()
    assert answers == [1] * 5
    assert await flights.share("key", question.ask) == 2


async def test_other_questions_are_asked() -> None:
    flights, question = Flights(), Question()
    question.may_answer.set()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(flights.share, "one", question.ask)
        nursery.start_soon(flights.share, "other", question.ask)
    assert question.asked == 2


async def test_all_get_the_same_error_each_its_own() -> None:
    flights, question, errors = Flights(), Question(), []
    question.error = RequestFailed(errno.EACCES, "because")

    async def client() -> None:
        with pytest.raises(RequestFailed) as raised:
            await flights.share("key", question.ask)
        errors.append(raised.value)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(client)
        await trio.testing.wait_all_tasks_blocked()
        question.may_answer.set()
    assert [(error.errno, error.reason) for error in errors] == [(errno.EACCES, "because")] * 3
    assert len({id(error) for error in errors}) == 3


async def test_when_the_first_is_cancelled_the_next_asks() -> None:
    flights, question, answers = Flights(), Question(), []
    first = trio.CancelScope()

    async def impatient() -> None:
        with first:
            await flights.share("key", question.ask)

    async def patient() -> None:
        answers.append(await flights.share("key", question.ask))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(impatient)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(patient)
        nursery.start_soon(patient)
        await trio.testing.wait_all_tasks_blocked()
        first.cancel()
        await trio.testing.wait_all_tasks_blocked()
        question.may_answer.set()
    assert answers == [2, 2]
