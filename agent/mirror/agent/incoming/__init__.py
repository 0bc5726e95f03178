"""Incoming traffic: connections to ports of the target, mirrored or stolen.

    with table rules in the target's network namespace ────────────────┐
                                                                       ▼
    caller ──▶ port of the target ──▶ our listener ──▶ owner's channel (steal)
                                          │
                                          ├──▶ the target's own process, from the caller's address (mirror, refused)
                                          └──▶ owners' channels, what the caller sends (mirror)

Who does what:

- `netlink` makes nf_tables messages, `ruleset` decides which; both pure. `support` asks the kernel what it can do.
- `keeper` is a process of its own that holds the table, so that neither a dead nor a stopped agent keeps the traffic
  (if it is stopped too, the rules expire); `table` is the agent's end of it.
- `namespace` and `sockets` make sockets inside the target.
- `interception` puts these together: connections arrive.
- `subscriptions` says whose they are; `relay`, `copies` and `connection` move their bytes; `callers` keeps the
  addresses that the target's process is to see; `claims` tells sessions of each other.
- `served` tells what the target's own process serves, `node` and `probes` which callers are its kubelet.
- `incoming` is what the agent uses.

Not here: which ports a program wants, HTTP (a filter would sit between `interception` and `relay`), and everything
about the user's machine.
"""

from mirror.agent.incoming.incoming import Incoming, open_incoming
from mirror.agent.incoming.owner import Channel, Owner
from mirror.agent.incoming.support import unavailable

__all__ = ["Channel", "Incoming", "Owner", "open_incoming", "unavailable"]
