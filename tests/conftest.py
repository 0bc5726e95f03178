"""What holds for every test.

In a run that must prove everything, a skipped test is a failed one. And the programs that tests start can be
interrupted, also where the tests run in the background: a shell without job control has its background jobs ignore
Ctrl-C, and whatever they start inherits that.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator

import pytest

for _number in (signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number is signal.SIGINT else signal.SIG_DFL)


# Not for the programs that tests start: some compare environments.
_nothing_skipped = bool(os.environ.pop("MIRROR_NO_SKIPS", ""))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turns a skip into a failure where MIRROR_NO_SKIPS is set."""
    report = yield
    if report.skipped and _nothing_skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, but nothing may be skipped in this run: {report.longrepr}"
    return report
