"""The agent: stands next to a target process and acts in its place. `main` is where it begins.

Two processes. The *worker* is in the target: its root directory, network, ids and capabilities; everything that may
block is done there, by threads, with plain system calls (`files`, `names`, `sockets`). The *agent* itself keeps its
privileges and a loop that never blocks: connections, channels, clients, incoming traffic.

    client ══ mirror.protocol ══ agent (trio) ── datagrams, descriptors ── worker (threads)
              client, outgoing, incoming/         worker │ worker_process

Not here: how an agent comes to run next to a target, and what its answers are used for (`mirror.cli`).
"""
