"""Requests to a Service: copied to the program, or taken over by it; the callers are other pods."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator

from tests.e2e.cluster import WITHIN_S, Cluster, wait_until
from tests.e2e.workloads import PORT

SERVER = f"""
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"user\\n")
    def log_message(self, *_):
        sys.stdout.write(f"{{self.path}} {{self.client_address[0]}}\\n")  # at once: others do so meanwhile
        sys.stdout.flush()
class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
server = Server(("", {PORT}), Handler)
print("listening", flush=True)
server.serve_forever()
"""
CALL = ("sh", "-c", "curl -s -m 60 http://web/hello; hostname -i")


@contextlib.contextmanager
def serving(cluster: Cluster, *options: str, target: str = "service/web") -> Iterator[subprocess.Popen[str]]:
    """The user's program, once it listens."""
    with cluster.start(target, "python3", "-c", SERVER, options=options) as program:
        try:
            assert program.stdout is not None
            assert program.stdout.readline() == "listening\n"
            yield program
        finally:
            program.kill()


def wait_for_request(program: subprocess.Popen[str], path: str) -> str:
    """Who made the first request for a path; copies of probes may come before."""
    assert program.stdout is not None
    for line in program.stdout:
        words = line.split()
        if words[0] == path:
            return words[1]
    raise AssertionError("the program has ended")


def test_stealing(cluster: Cluster) -> None:
    with serving(cluster, "--steal") as program:
        answer, caller = cluster.run_in_pod(*CALL).splitlines()
        assert answer == "user"
        assert wait_for_request(program, "/hello") == caller.strip()


def test_probes_stay_with_the_pod(cluster: Cluster) -> None:
    with serving(cluster, "--steal") as program:
        pod = cluster.pod_of("web")["metadata"]["name"]
        before = cluster.log(pod).count("request /ready")
        wait_until(lambda: cluster.log(pod).count("request /ready") > before + 1, WITHIN_S, "the pod is not probed")
        assert cluster.run_in_pod(*CALL).splitlines()[0] == "user"
        assert program.stdout is not None
        assert program.stdout.readline().split()[0] == "/hello"


def test_probes_can_be_stolen_too(cluster: Cluster) -> None:
    with serving(cluster, "--steal", "--steal-probes") as program:
        assert wait_for_request(program, "/ready")


def test_after_stealing_the_pod_answers(cluster: Cluster) -> None:
    with serving(cluster, "--steal"):
        pass
    answer, caller = cluster.run_in_pod(*CALL).splitlines()
    assert answer == f"pod, to {caller.strip()}"


def test_mirroring(cluster: Cluster) -> None:
    with serving(cluster, "--mirror") as program:
        answer, caller = cluster.run_in_pod(*CALL).splitlines()
        assert answer == f"pod, to {caller.strip()}"
        assert wait_for_request(program, "/hello") == caller.strip()
    pod = cluster.pod_of("web")["metadata"]["name"]
    wait_until(lambda: "request /hello" in cluster.log(pod), WITHIN_S, "the pod was not asked")


def test_no_incoming(cluster: Cluster) -> None:
    with serving(cluster, "--no-incoming"):
        answer, caller = cluster.run_in_pod(*CALL).splitlines()
        assert answer == f"pod, to {caller.strip()}"
