"""`make demo` shows what it promises, soon, and leaves nothing behind."""

from __future__ import annotations

import subprocess
import sys


def test_the_tour_shows_every_step() -> None:
    tour = subprocess.run([sys.executable, "-m", "mirror.cli.tour"], capture_output=True, text=True, timeout=180)
    assert (tour.returncode, tour.stderr) == (0, "")
    mirrored, stolen = tour.stdout.split("\n2. ")
    for text in (
        "environment: SHOP_GREETING is 'Hello from inside the pod'",
        "file: /app/config/orders.ini says that the warehouse is in Rotterdam",
        "call: http://inventory/items/teapot has 418 of them; it was asked by fd00:10:244:7::17",
        "serving: port 8080",
        "from 10.244.9.40",
        "customer: orders-5c9f7b6d4-x2v8k answers",
    ):
        assert text in mirrored
    assert "customer: the app on the laptop answers" in stolen
    assert "exec -t demo -- COMMAND" in stolen
