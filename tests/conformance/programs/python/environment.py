"""os.environ, and what children get of it."""

import os
import subprocess
import sys

for name in (
    "SHOP_REGION",
    "SHOP_GREETING",
    "ORDERS_CONFIG",
    "PORT",
    "KUBERNETES_SERVICE_PORT",
    "MISSING",
    "LD_PRELOAD",
):
    print(name, os.environ.get(name), os.getenvb(name.encode()))
print([name for name in os.environ if name.startswith("MIRROR_")])
sys.stdout.flush()
code = "import os; print(sorted(n for n in os.environ if n.startswith('SHOP_') or n in ('LD_PRELOAD', 'ONLY')))"
subprocess.run([sys.executable, "-c", code])
subprocess.run([sys.executable, "-c", code], env={"ONLY": "this"})
subprocess.run([sys.executable, "-c", code], env={**os.environ, "SHOP_EXTRA": "mine"})
os.environ["SHOP_REGION"] = "elsewhere"
subprocess.run([sys.executable, "-c", "import os; print(os.environ['SHOP_REGION'])"])
