"""One process that serves one session: it holds the connection to the agent and answers the hooked processes.

- `__main__`: its start, before anything slow is imported.
- `session`: what the parts share, the order of the start, and the end.
- `layers`: the hooked processes and their connections; `lifeline`: whether any of them still lives.
- `uplink`: the connection to the agent, which is made again when it breaks.
- `rules`: which paths are the target's; `surroundings`: what of the user's machine they must know.
- `files`, `directories`, `cache`, `names`, `outgoing`, `incoming`: the parts that answer, a family each.
- `console`: sentences for the user after the start.

Nothing here hooks a process (`inject`) or knows how a target is found (`targets`).
"""
