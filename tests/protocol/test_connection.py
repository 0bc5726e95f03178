"""Conversations, as transcripts: what each side is told, what events that makes, what it says by itself."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.protocol import messages as m
from mirror.protocol.answers import ANSWERS, NOTIFICATIONS
from mirror.protocol.channels import INITIAL_WINDOW_BYTES, MAX_PAYLOAD_BYTES
from mirror.protocol.connection import MAX_REQUESTS, Connection, ConnectionLost
from mirror.protocol.events import (
    AnswerReceived,
    CreditReceived,
    DataReceived,
    EndReceived,
    Event,
    GoodbyeReceived,
    HandshakeDone,
    NotificationReceived,
    RequestReceived,
    ResetReceived,
    StreamEnded,
)
from mirror.protocol.frame import FrameReader, LocalProtocolError, RemoteProtocolError, encode_frame
from mirror.protocol.heartbeat import LOST_AFTER_S, PING_AFTER_S, TICK_S
from tests.protocol.strategies import AGENT_MESSAGES, agent_messages, chunked

HERE = m.SocketAddress(b"\x7f\0\0\1", 80)
STAT = m.Stat(*range(13))
STAT_FILE = m.StatFile(b"/etc/hosts", follow=True)
STATTED = m.FileStatted(STAT)
HELLO, WELCOME = m.Hello(1, 1, ()), m.Welcome(1, (), {})


def events(connection: Connection) -> list[Event]:
    found = []
    while (event := connection.next_event()) is not None:
        found.append(event)
    return found


def told(connection: Connection, *frames: tuple[int, m.Message]) -> list[Event]:
    """The events that these frames make."""
    if frames:
        connection.receive_data(b"".join(encode_frame(*frame) for frame in frames))
    return events(connection)


def said(connection: Connection) -> list[tuple[int, m.Message]]:
    """What the connection has to send."""
    reader = FrameReader(m.AgentMessage)
    reader.feed(connection.data_to_send())
    frames = [(frame.request_id, frame.message) for frame in reader]
    assert reader.is_between_frames
    return frames


def client() -> Connection:
    """A client that has been welcomed."""
    connection = Connection(is_client=True)
    assert said(connection) == [(0, HELLO)]
    assert told(connection, (0, WELCOME)) == [HandshakeDone(WELCOME, 1)]
    return connection


def agent() -> Connection:
    """An agent that has welcomed its client."""
    connection = Connection(is_client=False)
    assert told(connection, (0, HELLO)) == [HandshakeDone(HELLO, 1)]
    assert said(connection) == [(0, WELCOME)]
    return connection


# --- introduction -----------------------------------------------------------------------------------------


def test_introductions_carry_versions_and_capabilities() -> None:
    ours = Connection(is_client=True, capabilities=["half-close"])
    theirs = Connection(is_client=False, capabilities=["files"], reasons={"incoming": "no NET_ADMIN"})
    theirs.receive_data(bytes(ours.data_to_send()))
    assert events(theirs) == [HandshakeDone(m.Hello(1, 1, ("half-close",)), 1)]
    ours.receive_data(bytes(theirs.data_to_send()))
    assert events(ours) == [HandshakeDone(m.Welcome(1, ("files",), {"incoming": "no NET_ADMIN"}), 1)]


def test_a_newer_client_is_spoken_to_in_the_older_version() -> None:
    connection = Connection(is_client=False)
    assert told(connection, (0, m.Hello(7, 1))) == [HandshakeDone(m.Hello(7, 1), 1)]
    assert said(connection) == [(0, WELCOME)]


@pytest.mark.parametrize("hello", [m.Hello(7, 2), m.Hello(0, 0)])
def test_a_client_without_a_common_version_is_told_so(hello: m.Hello) -> None:
    connection = Connection(is_client=False)
    with pytest.raises(RemoteProtocolError, match="use the same release"):
        told(connection, (0, hello))
    [(_, goodbye)] = said(connection)
    assert isinstance(goodbye, m.Goodbye)
    assert goodbye.reason.startswith("the client speaks versions ")
    assert goodbye.reason.endswith("; use the same release of both")


def test_a_version_that_was_not_offered_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="not offered"):
        told(Connection(is_client=True), (0, m.Welcome(2)))


@pytest.mark.parametrize("frame", [(0, WELCOME), (1, HELLO), (1, STAT_FILE), (1, m.Ping()), (0, m.Credit(1, 1))])
def test_an_agent_wants_the_hello_first(frame: tuple[int, m.Message]) -> None:
    with pytest.raises(RemoteProtocolError, match="before the introduction"):
        told(Connection(is_client=False), frame)


@pytest.mark.parametrize("frame", [(0, HELLO), (0, m.Data(1, b"x")), (-1, m.Done()), (0, m.Notice("hi"))])
def test_a_client_wants_the_welcome_first(frame: tuple[int, m.Message]) -> None:
    with pytest.raises(RemoteProtocolError, match="before the introduction"):
        told(Connection(is_client=True), frame)


def test_a_client_may_ask_before_it_is_welcomed_and_an_agent_not() -> None:
    connection = Connection(is_client=True)
    assert connection.send_request(STAT_FILE) == 1
    assert told(connection, (0, WELCOME), (-1, STATTED)) == [HandshakeDone(WELCOME, 1), AnswerReceived(1, STATTED)]
    with pytest.raises(LocalProtocolError, match="introduction comes first"):
        Connection(is_client=False).send_notification(m.Notice("hi"))


@pytest.mark.parametrize("message", [HELLO, WELCOME])
def test_introductions_come_once(message: m.Message) -> None:
    for connection in (client(), agent()):
        with pytest.raises(RemoteProtocolError, match="not a notification"):
            told(connection, (0, message))


# --- requests ---------------------------------------------------------------------------------------------


def test_answers_come_in_any_order() -> None:
    ours, theirs = client(), agent()
    first, second = ours.send_request(STAT_FILE), ours.send_request(m.ReadLink(b"/x"))
    assert told(theirs, *said(ours)) == [RequestReceived(1, STAT_FILE), RequestReceived(2, m.ReadLink(b"/x"))]
    theirs.send_answer(2, m.Failed(2))
    theirs.send_answer(1, STATTED)
    assert told(ours, *said(theirs)) == [AnswerReceived(second, m.Failed(2)), AnswerReceived(first, STATTED)]


def test_both_sides_may_ask_with_the_same_numbers() -> None:
    ours, theirs = client(), agent()
    assert ours.send_request(STAT_FILE) == theirs.send_request(STAT_FILE) == 1
    frames = said(ours)
    assert told(ours, *said(theirs)) == told(theirs, *frames) == [RequestReceived(1, STAT_FILE)]
    ours.send_answer(1, STATTED)
    assert told(theirs, *said(ours)) == [AnswerReceived(1, STATTED)]


def test_the_answer_to_an_abandoned_request_is_swallowed() -> None:
    ours = client()
    ours.abandon(ours.send_request(STAT_FILE))
    assert told(ours, (-1, STATTED)) == []
    with pytest.raises(RemoteProtocolError, match="not under way"):
        told(ours, (-1, STATTED))


def test_an_abandoned_request_counts_until_its_answer_comes() -> None:
    ours = client()
    for _ in range(MAX_REQUESTS):
        ours.abandon(ours.send_request(STAT_FILE))
    assert not ours.may_ask
    with pytest.raises(LocalProtocolError, match="requests at a time"):
        ours.send_request(STAT_FILE)
    told(ours, (-1, STATTED))
    assert ours.may_ask


def test_too_many_requests_are_refused() -> None:
    theirs = agent()
    assert len(told(theirs, *((number, STAT_FILE) for number in range(1, MAX_REQUESTS + 1)))) == MAX_REQUESTS
    with pytest.raises(RemoteProtocolError, match="requests at a time"):
        told(theirs, (MAX_REQUESTS + 1, STAT_FILE))


def test_request_numbers_go_round_and_spare_those_under_way() -> None:
    ours = client()
    ours._last_id = 2**31 - 2
    assert [ours.send_request(STAT_FILE) for _ in range(2)] == [2**31 - 1, 1]
    ours._last_id = 2**31 - 2
    assert ours.send_request(STAT_FILE) == 2


@pytest.mark.parametrize(
    ("frame", "complaint"),
    [
        ((-1, STATTED), "answers request 1, which is not under way"),
        ((-5, m.Done()), "not under way"),
        ((1, STATTED), "FileStatted is not a request"),
        ((1, m.Notice("x")), "Notice is not a request"),
        ((1, m.Data(1, b"x")), "Data is not a request"),
        ((0, STAT_FILE), "StatFile is not a notification"),
        ((0, m.Done()), "Done is not a notification"),
        ((0, m.Ping()), "Ping is not a notification"),
        ((0, m.Accepted(0, HERE, HERE, steal=True)), "Accepted without a channel"),
    ],
)
def test_messages_out_of_place_are_refused(frame: tuple[int, m.Message], complaint: str) -> None:
    for connection in (client(), agent()):
        with pytest.raises(RemoteProtocolError, match=complaint):
            told(connection, frame)
        [(_, goodbye)] = said(connection)
        assert isinstance(goodbye, m.Goodbye)
        assert complaint in goodbye.reason
        assert events(connection) == [], "what comes after a broken rule is not looked at"


@pytest.mark.parametrize("answer", [m.Done(), m.LinkRead(b"x"), m.Failed(0)])
def test_an_answer_of_another_kind_is_refused(answer: m.Message) -> None:
    ours, theirs = client(), agent()
    ours.send_request(STAT_FILE)
    told(theirs, *said(ours))
    with pytest.raises(RemoteProtocolError):
        told(ours, (-1, answer))
    with pytest.raises(LocalProtocolError):
        theirs.send_answer(1, answer)
    theirs.send_answer(1, STATTED)
    with pytest.raises(LocalProtocolError, match="not under way"):
        theirs.send_answer(1, STATTED)


def test_a_request_number_may_not_be_used_twice() -> None:
    with pytest.raises(RemoteProtocolError, match="used twice"):
        told(agent(), (1, STAT_FILE), (1, STAT_FILE))


def test_what_the_other_side_would_refuse_is_not_sent() -> None:
    ours = client()
    for message in (m.StatFile(b"", follow=True), m.StatFile(b"/" * 5000, follow=True), m.CheckAccess(b"/", -1)):
        with pytest.raises(LocalProtocolError, match="cannot send"):
            ours.send_request(message)
    for misplaced in (STATTED, m.Data(1, b"x"), HELLO):
        with pytest.raises(LocalProtocolError, match="is not a request"):
            ours.send_request(misplaced)
        with pytest.raises(LocalProtocolError, match="is not a notification"):
            ours.send_notification(misplaced)
    assert said(ours) == []
    assert ours.send_request(STAT_FILE) == 4, "the numbers of the refused ones are not reused"


def test_every_message_has_its_place() -> None:
    """As a request, an answer, a notification or a part of the connection itself."""
    answers = {answer for kinds in ANSWERS.values() for answer in kinds}
    connection = {m.Failed, m.Hello, m.Welcome, m.Goodbye, m.Data, m.Credit, m.EndOfData, m.Reset}
    assert set(ANSWERS) | answers | NOTIFICATIONS | connection == set(AGENT_MESSAGES)


# --- channels ---------------------------------------------------------------------------------------------


def connected() -> tuple[Connection, Connection, int]:
    """A client and an agent with an open channel."""
    ours, theirs = client(), agent()
    channel = ours.channels.open()
    ours.send_request(m.Connect(channel, HERE))
    assert told(theirs, *said(ours)) == [RequestReceived(1, m.Connect(channel, HERE))]
    assert theirs.send_answer(1, m.Connected(HERE, HERE)) == 0
    assert told(ours, *said(theirs)) == [AnswerReceived(1, m.Connected(HERE, HERE))]
    return ours, theirs, channel


def test_data_flows_and_ends_each_way_by_itself() -> None:
    ours, theirs, channel = connected()
    assert ours.send_data(channel, b"hello") == 5
    ours.send_end(channel)
    assert told(theirs, *said(ours)) == [DataReceived(channel, b"hello"), EndReceived(channel)]
    assert theirs.send_data(channel, b"bye") == 3
    theirs.send_end(channel)
    assert channel not in theirs.channels
    assert told(ours, *said(theirs)) == [DataReceived(channel, b"bye"), EndReceived(channel)]
    assert channel not in ours.channels


def test_data_is_cut_into_payloads_and_stops_with_the_credit() -> None:
    ours, theirs, channel = connected()
    sent = 0
    while size := ours.send_data(channel, memoryview(b"x" * 100_000)):
        sent += size
    assert sent == INITIAL_WINDOW_BYTES
    frames = said(ours)
    assert {len(message.payload) for _, message in frames if isinstance(message, m.Data)} == {MAX_PAYLOAD_BYTES}
    assert len(told(theirs, *frames)) == len(frames)
    theirs.acknowledge(channel, INITIAL_WINDOW_BYTES)
    assert told(ours, *said(theirs)) == [CreditReceived(channel)]
    assert ours.send_data(channel, b"more") == 4


def test_data_may_follow_its_request_at_once() -> None:
    ours, theirs = client(), agent()
    channel = ours.channels.open()
    ours.send_request(m.Connect(channel, HERE))
    ours.send_data(channel, b"early")
    assert told(theirs, *said(ours))[1:] == [DataReceived(channel, b"early")]


def test_a_reset_ends_both_ways_and_what_is_in_flight_is_ignored() -> None:
    ours, theirs, channel = connected()
    ours.send_data(channel, b"in flight")
    ours.send_end(channel)
    theirs.reset(channel, 104)
    assert told(theirs, *said(ours)) == []
    assert told(ours, *said(theirs)) == [ResetReceived(channel, 104)]
    theirs.reset(channel, 104)
    assert said(theirs) == []


def test_a_failed_request_takes_its_channel_with_it() -> None:
    ours, theirs = client(), agent()
    channel = ours.channels.open()
    ours.send_request(m.Connect(channel, HERE))
    told(theirs, *said(ours))
    assert theirs.send_answer(1, m.Failed(111)) == channel
    assert told(ours, *said(theirs)) == [ResetReceived(channel, 0), AnswerReceived(1, m.Failed(111))]
    assert len(ours.channels) == len(theirs.channels) == 0


def test_a_file_that_came_whole_needs_no_channel() -> None:
    ours, theirs = client(), agent()
    for complete in (True, False):
        channel = ours.channels.open()
        number = ours.send_request(m.OpenFile(b"/f", 0, channel=channel))
        told(theirs, *said(ours))
        answer = m.FileOpened(STAT, b"content", complete)
        assert theirs.send_answer(number, answer) == (channel if complete else 0)
        assert told(ours, *said(theirs))[-1] == AnswerReceived(number, answer)
        assert (channel in ours.channels) == (channel in theirs.channels) == (not complete)


def test_a_channel_given_up_before_the_answer() -> None:
    """The agent learns of it in the middle of its work and answers all the same."""
    ours, theirs = client(), agent()
    channel = ours.channels.open()
    ours.abandon(ours.send_request(m.Connect(channel, HERE)))
    ours.abandon_channel(channel)
    assert told(theirs, *said(ours))[1:] == [ResetReceived(channel, 0)]
    theirs.send_answer(1, m.Connected(HERE, HERE))
    assert told(ours, *said(theirs)) == []


def test_a_channel_begun_by_a_notification() -> None:
    ours, theirs = client(), agent()
    channel = theirs.channels.open()
    accepted = m.Accepted(channel, HERE, HERE, steal=True)
    theirs.send_notification(accepted)
    theirs.send_data(channel, b"GET /")
    assert told(ours, *said(theirs)) == [NotificationReceived(accepted), DataReceived(channel, b"GET /")]


def test_a_channel_given_up_before_anybody_heard_of_it() -> None:
    ours = client()
    for give_up in (ours.reset, ours.abandon_channel):
        channel = ours.channels.open()
        give_up(channel)
        assert channel not in ours.channels
    assert said(ours) == []


def test_a_message_may_only_begin_a_channel_that_was_opened_for_it() -> None:
    ours, theirs = client(), agent()
    for channel in (2, 1):
        with pytest.raises(LocalProtocolError, match="has not been opened"):
            ours.send_request(m.Connect(channel, HERE))
    with pytest.raises(LocalProtocolError, match="has not been opened"):
        theirs.send_notification(m.Accepted(0, HERE, HERE, steal=True))
    with pytest.raises(RemoteProtocolError, match="only this side may give"):
        told(theirs, (1, m.Connect(2, HERE)))


def test_bytes_for_an_owner_that_has_left_are_refused_once() -> None:
    ours, theirs, channel = connected()
    theirs.send_data(channel, b"all there is")
    theirs.send_end(channel)
    theirs.abandon_channel(channel)
    assert told(ours, *said(theirs)) == [DataReceived(channel, b"all there is"), EndReceived(channel)]
    ours.send_data(channel, b"and now")
    ours.send_data(channel, b"this")
    assert told(theirs, *said(ours)) == []
    assert said(theirs) == [(0, m.Reset(channel))]


# --- heartbeat --------------------------------------------------------------------------------------------


def run_clock(connection: Connection, start_s: float, end_s: float) -> list[tuple[float, m.Message]]:
    """Ticks from `start_s` to `end_s`; what was said, and when."""
    heard = []
    now_s = start_s
    while now_s <= end_s:
        connection.tick(now_s)
        heard += [(now_s - start_s, message) for _, message in said(connection)]
        now_s += TICK_S
    return heard


def test_a_quiet_peer_is_asked_and_a_silent_one_given_up() -> None:
    ours = client()
    assert run_clock(ours, 100, 100 + LOST_AFTER_S - TICK_S) == [(PING_AFTER_S, m.Ping())]
    with pytest.raises(ConnectionLost, match=f"agent has not answered for {LOST_AFTER_S:.0f} seconds"):
        ours.tick(100 + LOST_AFTER_S)


def test_a_peer_that_answers_lives_on() -> None:
    ours, theirs = client(), agent()
    now_s = 0.0
    for _ in range(100):
        ours.tick(now_s)
        now_s += TICK_S
        assert told(theirs, *said(ours)) == []
        assert told(ours, *said(theirs)) == []


def test_anything_that_is_heard_counts_as_life() -> None:
    ours, _, channel = connected()
    for now_s in range(100):
        ours.tick(now_s)
        told(ours, (0, m.Data(channel, b"x")))
        assert said(ours) == []


def test_an_agent_does_not_ping_before_it_has_introduced_itself() -> None:
    theirs = Connection(is_client=False)
    assert run_clock(theirs, 0, LOST_AFTER_S - TICK_S) == []
    with pytest.raises(ConnectionLost, match="client has not answered"):
        theirs.tick(LOST_AFTER_S)


def test_time_in_which_this_side_was_stopped_is_not_held_against_the_other() -> None:
    """SIGSTOP, a suspended laptop: the other side's answer waits in the socket."""
    ours = client()
    assert run_clock(ours, 0, PING_AFTER_S) == [(PING_AFTER_S, m.Ping())]
    ours.tick(3600)
    told(ours, (-1, m.Done()))
    assert run_clock(ours, 3601, 3601 + PING_AFTER_S - TICK_S) == []


# --- the end ----------------------------------------------------------------------------------------------


def test_goodbye_is_the_last_word() -> None:
    ours, theirs = client(), agent()
    ours.say_goodbye("enough")
    ours.say_goodbye("really")
    with pytest.raises(LocalProtocolError, match="said goodbye"):
        ours.send_request(STAT_FILE)
    assert told(theirs, *said(ours), (1, STAT_FILE)) == [GoodbyeReceived("enough")]
    theirs.receive_data(b"")
    assert events(theirs) == []


def test_an_agent_says_that_its_target_has_ended() -> None:
    ours, theirs = client(), agent()
    theirs.say_goodbye("process 42 has ended", is_targets_end=True)
    assert told(ours, *said(theirs)) == [GoodbyeReceived("process 42 has ended", is_targets_end=True)]


def test_a_long_goodbye_is_cut() -> None:
    ours = client()
    ours.say_goodbye("x" * 5_000_000)
    assert len(ours.data_to_send()) < 2000


def test_an_agent_may_refuse_without_an_introduction() -> None:
    assert told(Connection(is_client=True), (0, m.Goodbye("no such process"))) == [GoodbyeReceived("no such process")]


def test_the_stream_may_end_at_any_byte() -> None:
    stream = encode_frame(0, WELCOME) + encode_frame(0, m.Notice("hi"))
    for size in range(len(stream)):
        connection = Connection(is_client=True)
        connection.receive_data(stream[:size])
        connection.receive_data(b"")
        assert events(connection)[-1:] == [StreamEnded()]
        assert events(connection) == []


# --- hostile ----------------------------------------------------------------------------------------------

ids = st.integers(-3, 3)


@given(st.data(), st.booleans(), st.lists(st.tuples(ids, agent_messages), max_size=12))
def test_any_messages_end_in_events_or_an_error(
    data: st.DataObject, is_client: bool, frames: list[tuple[int, m.Message]]
) -> None:
    connection = client() if is_client else agent()
    try:
        for piece in data.draw(chunked(b"".join(encode_frame(*frame) for frame in frames))):
            connection.receive_data(piece)
            events(connection)
    except RemoteProtocolError:
        [*_, (_, goodbye)] = said(connection)
        assert isinstance(goodbye, m.Goodbye)
        assert "broke the protocol: " in goodbye.reason


small = st.integers(0, 6)
channel_messages = st.one_of(
    st.builds(m.Data, small, st.binary(max_size=3) | st.just(b"x" * MAX_PAYLOAD_BYTES)),
    st.builds(m.Credit, small, st.sampled_from([0, 1, 2**20, 2**31])),
    st.builds(m.EndOfData, small),
    st.builds(m.Reset, small, small),
    st.builds(m.Connect, small, st.just(HERE)),
    st.builds(m.OpenFile, st.just(b"/f"), small, channel=small),
    st.builds(lambda channel: m.Accepted(channel, HERE, HERE, steal=True), small),
    st.just(m.Ping()),
    st.just(m.Failed(5)),
    st.just(m.Connected(HERE, HERE)),
)
acts = st.tuples(st.sampled_from(["open", "data", "end", "reset", "abandon", "acknowledge", "answer"]), small)


@given(st.booleans(), st.lists(st.tuples(ids, channel_messages) | acts, max_size=40))
def test_any_order_of_channel_messages_and_acts(is_client: bool, steps: list[tuple[object, object]]) -> None:
    """Whatever the other side sends and whatever this side does: only ProtocolErrors, and memory in bounds."""
    connection = client() if is_client else agent()
    held = 0
    for step in steps:
        try:
            if isinstance(step[1], m.Message):
                assert isinstance(step[0], int)
                for event in told(connection, (step[0], step[1])):
                    held += len(event.payload) if isinstance(event, DataReceived) else 0
            else:
                assert isinstance(step[1], int)
                act(connection, str(step[0]), step[1])
        except LocalProtocolError:
            pass
        except RemoteProtocolError:
            return
        assert held <= INITIAL_WINDOW_BYTES * 7 * 2


def act(connection: Connection, what: str, channel: int) -> None:
    match what:
        case "open":
            connection.send_request(m.Connect(connection.channels.open(), HERE))
        case "data":
            connection.send_data(channel, b"data")
        case "end":
            connection.send_end(channel)
        case "reset":
            connection.reset(channel)
        case "abandon":
            connection.abandon_channel(channel)
        case "acknowledge":
            connection.acknowledge(channel, 1)
        case "answer":
            connection.send_answer(channel, m.Failed(5))


@given(st.data(), st.binary(max_size=3000))
def test_any_bytes_end_in_events_or_an_error(data: st.DataObject, stream: bytes) -> None:
    for connection in (Connection(is_client=True), agent()):
        try:
            for piece in data.draw(chunked(stream)):
                connection.receive_data(piece)
                events(connection)
        except RemoteProtocolError:
            assert events(connection) == []


def test_a_peer_that_only_sends_cannot_make_us_hold_more_than_the_window() -> None:
    ours, theirs, channel = connected()
    payload = encode_frame(0, m.Data(channel, b"x" * MAX_PAYLOAD_BYTES))
    held = []
    tracemalloc.start()
    try:
        for _ in range(INITIAL_WINDOW_BYTES // MAX_PAYLOAD_BYTES):
            theirs.receive_data(payload)
            held += events(theirs)
        theirs.receive_data(payload)
        with pytest.raises(RemoteProtocolError, match="more data"):
            theirs.next_event()
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(held) == INITIAL_WINDOW_BYTES // MAX_PAYLOAD_BYTES
    assert peak_bytes < 2 * INITIAL_WINDOW_BYTES
    assert said(ours) == []
