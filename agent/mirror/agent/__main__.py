"""`python -m mirror.agent`."""

import gc
import os
import sys

# What importing makes stays; looking through it for garbage is a tenth of the time it takes.
gc.disable()

# Others beside the target could reach into the agent meanwhile, and so to its secret. Without a target nobody is there.
if "--identity" in sys.argv and "--targetless" not in sys.argv:
    from mirror.agent.hiding import hide

    hide()

from mirror.agent.main import main  # noqa: E402

status = main(sys.argv[1:])
sys.stderr.flush()
# Threads that hang in a dead file system must not hold the process, and there is nothing to tidy up.
os._exit(status)
