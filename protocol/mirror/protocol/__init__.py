"""How mirror's processes talk: frames, messages and one multiplexed connection. Only `stream` does I/O, with trio.

What is not here: what a message makes anybody do (`mirror.agent`, `mirror.cli.proxy`), how a connection comes
to be (sockets, port-forwards), the layer's codec (layer/native/wire.c).

Glossary:
    layer       The C library in the user's process, with its hooks.
    proxy       The background process of a session, on the user's machine: the *client* of the agent.
    agent       The process in or next to the target: the *server*.
    target      The process whose surroundings the user's program is given.
    link        A way for messages: layer to proxy, or proxy to agent.
    frame       A length and one message with its request id, as they go over a link.
    request     A message that is answered: by its own kind of answer or by `Failed`.
    notification  A message that is not answered.
    channel     One of many byte streams within the connection of proxy and agent; each direction ends by itself.
    credit      How many bytes of a channel its receiver is still ready to hold.
    window      How many bytes of a channel its receiver is ready to hold when it has read everything.

Read in this order: `messages`, `frame`, `codec`, `answers`, `channels`, `events`, `connection`, `heartbeat`, `stream`.
"""
