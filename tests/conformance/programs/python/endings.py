"""An uncaught exception, a status, a signal: each its own."""

import os
import signal
import subprocess
import sys

for code in (
    "import sys; sys.exit(5)",
    "raise SystemExit('bye')",
    "1/0",
    "import os; os.abort()",
    "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
    "import os; os._exit(200)",
    "import signal, os; signal.signal(2, lambda *a: os._exit(33)); os.kill(os.getpid(), 2); signal.pause()",
):
    print(subprocess.run([sys.executable, "-c", code], stderr=subprocess.DEVNULL).returncode)
print(signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGPIPE), signal.pthread_sigmask(signal.SIG_BLOCK, []))
sys.stdout.flush()
os.kill(os.getpid(), signal.SIGTERM)
