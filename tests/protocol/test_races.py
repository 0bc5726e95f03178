"""Two connections that keep the rules never accuse each other, whatever is on its way when either of them acts."""

from __future__ import annotations

from collections import Counter, defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.protocol import events as e
from mirror.protocol import messages as m
from mirror.protocol.connection import Connection
from mirror.protocol.frame import LocalProtocolError

HERE = m.SocketAddress(b"\x7f\0\0\1", 80)
STAT = m.Stat(*range(13))

ACTS = (
    *("connect", "open file", "accept", "ask", "abandon request", "answer", "fail", "complete"),
    *("data", "data", "end", "reset", "abandon channel", "acknowledge", "tick", "deliver", "deliver", "deliver"),
)

steps = st.lists(st.tuples(st.sampled_from(ACTS), st.booleans(), st.integers(0, 300)), max_size=120)


class Side:
    """One connection, what it knows, and the bytes that are on their way to it."""

    def __init__(self, *, is_client: bool) -> None:
        self.connection = Connection(is_client=is_client)
        self.arriving = bytearray()
        self.asked: list[int] = []
        self.to_answer: dict[int, m.Message] = {}
        self.channels: list[int] = []
        self.held: Counter[int] = Counter()
        self.sent: defaultdict[int, bytes] = defaultdict(bytes)
        self.received: defaultdict[int, bytes] = defaultdict(bytes)
        self.left: set[int] = set()
        """Channels that were reset or given up, by whichever side."""
        self.time_s = 0.0

    def act(self, what: str, number: int) -> None:
        """Does something, if there is something to do it to. What the rules forbid is refused by this side."""
        connection = self.connection
        channel = self.channels[number % len(self.channels)] if self.channels else 0
        try:
            match what:
                case "connect":
                    self.begin(m.Connect(connection.channels.open(), HERE))
                case "open file":
                    self.begin(m.OpenFile(b"/f", 0, channel=connection.channels.open()))
                case "accept":
                    opened = connection.channels.open()
                    self.channels.append(opened)
                    connection.send_notification(m.Accepted(opened, HERE, HERE, steal=True))
                case "ask":
                    self.asked.append(connection.send_request(m.StatFile(b"/f", follow=True)))
                case "abandon request" if self.asked:
                    connection.abandon(self.asked[number % len(self.asked)])
                case "answer" | "fail" | "complete" if self.to_answer:
                    self.answer(what, sorted(self.to_answer)[number % len(self.to_answer)])
                case "data":
                    data = bytes([number % 256]) * (number + 1) * 500
                    self.sent[channel] += data[: connection.send_data(channel, data)]
                case "end":
                    connection.send_end(channel)
                case "reset":
                    connection.reset(channel, number % 100)
                    self.left.add(channel)
                case "abandon channel":
                    connection.abandon_channel(channel)
                    self.left.add(channel)
                case "acknowledge":
                    size_bytes = self.held[channel] * number // 300
                    connection.acknowledge(channel, size_bytes)
                    self.held[channel] -= size_bytes
                case "tick":
                    connection.tick(self.time_s)
                    self.time_s += 1
                    connection._heartbeat.hear()  # time is not what this is about
        except LocalProtocolError:
            pass

    def begin(self, message: m.Connect | m.OpenFile) -> None:
        self.channels.append(message.channel)
        self.asked.append(self.connection.send_request(message))

    def answer(self, what: str, request_id: int) -> None:
        message = self.to_answer.pop(request_id)
        answer: m.Message
        match message:
            case _ if what == "fail":
                answer = m.Failed(5)
            case m.Connect():
                answer = m.Connected(HERE, HERE)
            case m.OpenFile():
                answer = m.FileOpened(STAT, b"", complete=what == "complete")
            case _:
                answer = m.FileStatted(STAT)
        ended = self.connection.send_answer(request_id, answer)
        if ended:
            self.left.add(ended)

    def take(self, size_bytes: int) -> None:
        """Lets some of the bytes arrive. A RemoteProtocolError here is what must never be."""
        data = bytes(self.arriving[:size_bytes])
        del self.arriving[:size_bytes]
        if data:
            self.connection.receive_data(data)
        while (event := self.connection.next_event()) is not None:
            match event:
                case e.RequestReceived(request_id=request_id, message=message):
                    self.to_answer[request_id] = message
                    if isinstance(message, m.Connect | m.OpenFile):
                        self.channels.append(message.channel)
                case e.NotificationReceived(message=m.Accepted(channel=channel)):
                    self.channels.append(channel)
                case e.DataReceived(channel=channel, payload=payload):
                    self.held[channel] += len(payload)
                    self.received[channel] += payload
                case e.ResetReceived(channel=channel):
                    self.left.add(channel)


@settings(max_examples=max(500, settings().max_examples))
@given(steps)
def test_peers_that_keep_the_rules_never_accuse_each_other(steps: list[tuple[str, bool, int]]) -> None:
    client, agent = Side(is_client=True), Side(is_client=False)

    def transmit() -> None:
        agent.arriving += client.connection.data_to_send()
        client.arriving += agent.connection.data_to_send()

    for _ in range(2):
        transmit()
        client.take(100)
        agent.take(100)
    for what, is_client, number in steps:
        side = client if is_client else agent
        if what == "deliver":
            side.take(number * number)
        else:
            side.act(what, number)
        transmit()
    while client.arriving or agent.arriving:
        client.take(10**9)
        agent.take(10**9)
        transmit()

    for here, there in ((client, agent), (agent, client)):
        for channel, data in there.received.items():
            assert here.sent[channel].startswith(data)
        for channel, data in here.sent.items():
            if channel not in here.left | there.left:
                assert there.received[channel] == data
    both = client.connection.channels, agent.connection.channels
    for channel in {*client.channels, *agent.channels}:
        assert (channel in both[0]) == (channel in both[1]) or channel in client.left | agent.left
