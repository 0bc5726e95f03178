"""Pods as clusters have them: programs that are not root, images without a shell, odd volumes, names and variables.

Wherever a program can tell, it runs in the container and under `mirror exec`, and must write the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from mirror.cli import environment
from mirror.cli.errors import EXIT_FAILED
from tests.cluster.places import DNS_ADDRESS, DOMAIN, KUBERNETES_ADDRESS, PAUSE_IMAGE, WORKLOAD_IMAGE
from tests.e2e.cluster import WITHIN_S, Cluster, wait_until

POD = "odd"
NODE_POD = "odd-node"
ECHO_PORT = 7000

PREPARE = """
import os, socket
os.chdir("/data")
os.mkdir("many")
for number in range(2000):
    open(f"many/{number}", "w").close()
os.mkdir("names")
for name in b"a b", b"a\\nb", b"\\xff", b"'\\"", b"-r", b"*", b".hidden", "ü".encode(), b"x" * 255, b"end ", b"\\\\":
    with open(b"names/" + name, "wb") as file:
        file.write(name)
folder = "."
for number in range(40):
    folder += f"/{number:050}"
    os.mkdir(folder)
open(folder + "/end", "w").write("deep")
os.mkdir("links")
for number in range(18):  # a kernel that walks them twice counts them twice, and 40 are too many
    os.symlink(f"{number + 1}", f"links/{number}")
open("links/18", "w").write("the last one")
os.symlink("loop", "links/loop")
os.symlink("nowhere", "links/dangling")
os.symlink("../../etc/hostname", "links/out")
os.symlink("/conf/a.ini", "links/other-volume")
os.symlink("/data/names/", "links/folder")
os.mkfifo("fifo")
socket.socket(socket.AF_UNIX).bind("socket")
os.mknod("null", 0o020666, os.makedev(1, 3))
for name, mode, owner in ("closed", 0, 0), ("private", 0o400, 1000), ("group", 0o440, 0), ("suid", 0o4755, 2000):
    with open(name, "w") as file:
        file.write(name)
    os.chown(name, owner, 4000)
    os.chmod(name, mode)
os.makedirs("shut/inner")
open("shut/inner/file", "w").close()
os.chmod("shut", 0o600)
os.link("suid", "second-name")
os.utime("closed", (0, 1))
with open("large", "wb") as file:
    for number in range(50):
        file.write(bytes([number]) * (1 << 20))
open("too-large", "wb").truncate(70 << 20)
"""
LOOK = """
import errno, os, stat, sys
def tell(path, act, *more):
    try:
        return act(path, *more)
    except OSError as error:
        return errno.errorcode[error.errno]
def look(path):
    status = tell(path, os.lstat)
    if isinstance(status, str):
        print(path, status)
        return
    print(path, *(getattr(status, f"st_{name}") for name in "mode uid gid nlink size mtime rdev".split()), end=" ")
    print([os.access(path, mode) for mode in (os.R_OK, os.W_OK, os.X_OK)], end=" ")
    if stat.S_ISLNK(status.st_mode):
        print(os.readlink(path), tell(path, lambda path: os.stat(path).st_size), os.path.realpath(path), end=" ")
        print(tell(path, lambda path: open(path, "rb").read(99)))
    elif stat.S_ISDIR(status.st_mode):
        inner = tell(path, os.listdir)
        print(inner if len(inner) < 99 else len(inner))
        for name in [b"inner"] if isinstance(inner, str) else sorted(inner) if len(inner) < 99 else inner[:9]:
            look(os.path.join(path, name))
    elif stat.S_ISREG(status.st_mode) and status.st_size < 1 << 20:
        print(tell(path, lambda path: open(path, "rb").read()))
    else:
        print()
for path in sys.argv[1:]:
    look(os.fsencode(path))
"""
FOLDERS = (
    "/data", "/conf", "/app", "/login", "/memory", "/projected", "/nowhere", "/data/closed/below", "/data/suid/",
    "/var/run/secrets/kubernetes.io/serviceaccount", "/etc/hosts", "/etc/resolv.conf", "/etc/hostname",
)  # fmt: skip
NAMES = """
import socket
def tell(act, *arguments, **more):
    try:
        print(*arguments, act(*arguments, **more))
    except (OSError, UnicodeError) as error:
        print(*arguments, type(error).__name__, error)
def addresses(name, service, family=0):
    return sorted(socket.getaddrinfo(name, service, family))  # a name server may change their order
def all_of(name):
    name, aliases, addresses = socket.gethostbyname_ex(name)
    return name, aliases, sorted(addresses)
own = socket.gethostname()
print(own, socket.getfqdn())
for name in (own, "web", "web.NAMESPACE", "web.NAMESPACE.svc.DOMAIN", "kubernetes.default", "odd-set",
    "odd-host.odd-set", "odd-elsewhere", "odd-nothing", "odd-alias", "odd-alias.example", "odd-six", "odd-loop",
    "localhost", "nowhere", "x" * 63 + ".web", "KUBERNETES", "::1", ""):
    tell(addresses, name, "http")
    tell(addresses, name, 80, socket.AF_INET6)
    tell(all_of, name)
tell(addresses, "web", "no-such-service")
tell(addresses, "web", "_http._tcp")
for address in socket.gethostbyname("web"), "KUBERNETES", "192.0.2.7", "10.1.2.3":
    tell(socket.gethostbyaddr, address)
    tell(socket.getnameinfo, (address, 443), 0)
""".replace("DOMAIN", DOMAIN).replace("KUBERNETES", KUBERNETES_ADDRESS)
CALLS = """
import socket, urllib.request
def tell(act, *arguments):
    try:
        print(*arguments, act(*arguments))
    except OSError as error:
        print(*arguments, type(error).__name__, error)
def get(url):
    return urllib.request.urlopen(url, timeout=60).read()
for host in "web", "web.NAMESPACE", "odd-elsewhere", "odd-nothing":
    tell(get, f"http://{host}/")
def connect(host, port):
    with socket.create_connection((host, port), 60) as connection:
        local, peer = connection.getsockname()[0], connection.getpeername()
        connection.sendall(b"hello")
        return local, peer, connection.recv(5)
tell(connect, "odd-set", ECHO)
tell(connect, "127.0.0.1", ECHO)
tell(connect, "localhost", ECHO)
tell(connect, "odd-loop", ECHO)
tell(connect, "127.0.0.1", 9)
""".replace("ECHO", str(ECHO_PORT))
SERVE = f"""
import socket, threading
def echo(connection):
    with connection:
        while part := connection.recv(1 << 16):
            connection.sendall(part)
listener = socket.create_server(("", {ECHO_PORT}), backlog=500)
while True:
    threading.Thread(target=echo, args=(listener.accept()[0],), daemon=True).start()
"""
CARRY = f"""
import os, socket, threading
def connect():
    return socket.create_connection(("127.0.0.1", {ECHO_PORT}), {WITHIN_S})
def echo(size):
    sent, got = os.urandom(size), b""
    with connect() as connection:
        def send():
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
        sender = threading.Thread(target=send)
        sender.start()
        while part := connection.recv(1 << 20):
            got += part
        sender.join()
    same.append(got == sent)
same = []
callers = [threading.Thread(target=echo, args=(20000,)) for _ in range(200)]
for caller in callers:
    caller.start()
for caller in callers:
    caller.join()
echo(4 << 20)
with connect() as connection:
    for number in range(500):
        said = b"%d." % number
        connection.sendall(said)
        while said:
            assert said.startswith(part := connection.recv(len(said)))
            said = said[len(part):]
print(len(same), all(same))
"""


def _container(name: str, *command: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "image": WORKLOAD_IMAGE, "command": list(command or ("sleep", "infinity")), **more}


def _mounts(**paths: str) -> list[dict[str, str]]:
    return [{"name": name, "mountPath": path} for name, path in paths.items()]


_RESTRICTED = {
    "runAsUser": 1000,
    "runAsGroup": 1000,
    "readOnlyRootFilesystem": True,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
_VARIABLES = {
    "NEWLINES": "a\nb\n\n",
    "QUOTES": 'it\'s "q" `x` \\',
    "EQUALS": "a=b=c",
    "EMPTY": "",
    "UNICODE": "ü€😀",
    "EXPANDED": "$(NODE)-$$(NODE)",
    "with.dot": "1",
    "with-dash": "2",
    "LARGE": "v" * 100_000,
    "HOME": "/pod",
    "TZ": "Asia/Tokyo",
    "IFS": "x",
    "http_proxy": "",
}
_EVERYTHING = [*_mounts(data="/data", login="/login", memory="/memory", projected="/projected", conf="/conf")]


def configuration(namespace: str) -> list[dict[str, Any]]:
    """What the pods are configured by, and the names under which they are found."""

    def thing(kind: str, name: str, **content: Any) -> dict[str, Any]:
        return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, **content}

    port = {"name": "http", "port": ECHO_PORT}
    elsewhere = {"type": "ExternalName", "externalName": f"web.{namespace}.svc.{DOMAIN}"}
    nothing = {"type": "ExternalName", "externalName": "nothing.example.com"}
    return [
        thing("ConfigMap", "odd", data={"a.ini": "[a]\nx = 1\n", "dotted.name": "dots", "TWO": "one\ntwo"}),
        thing("Secret", "odd", stringData={"PASSWORD": "a secret"}),
        thing("Service", "odd-set", spec={"clusterIP": "None", "selector": {"app": POD}, "ports": [port]}),
        thing("Service", "odd-elsewhere", spec=elsewhere),
        thing("Service", "odd-nothing", spec=nothing),
    ]


def pods(namespace: str) -> list[dict[str, Any]]:
    """One with a container of each kind, and one that is in the node's namespaces."""
    field = {"fieldRef": {"fieldPath": "spec.nodeName"}}
    resource = {"resourceFieldRef": {"resource": "limits.memory"}}
    token = {"serviceAccountToken": {"path": "token", "audience": "somebody"}}
    labels = {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}
    single = {"name": "conf", "mountPath": "/app/config/a.ini", "subPath": "a.ini"}
    spec = {
        "shareProcessNamespace": True,
        "hostname": "odd-host",
        "subdomain": "odd-set",
        "setHostnameAsFQDN": True,
        "hostAliases": [
            {"ip": "10.1.2.3", "hostnames": ["odd-alias", "odd-alias.example"]},
            {"ip": "fd00::1", "hostnames": ["odd-six"]},
            {"ip": "127.0.0.1", "hostnames": ["odd-loop"]},
        ],
        "dnsPolicy": "None",
        "dnsConfig": {
            "nameservers": [DNS_ADDRESS],
            "searches": [f"{namespace}.svc.{DOMAIN}", f"svc.{DOMAIN}"],
            "options": [{"name": "ndots", "value": "2"}],
        },
        "securityContext": {"fsGroup": 4000, "supplementalGroups": [5000, 6000]},
        "initContainers": [_container("prepare", "python3", "-c", PREPARE, volumeMounts=_EVERYTHING)],
        "containers": [
            _container("user", securityContext=_RESTRICTED, volumeMounts=[*_EVERYTHING, single]),
            _container("other", securityContext={"runAsUser": 2000, "runAsGroup": 3000}, volumeMounts=_EVERYTHING),
            _container("root", "python3", "-c", SERVE, volumeMounts=_EVERYTHING),
            _container(
                "variables",
                envFrom=[
                    {"configMapRef": {"name": "odd"}, "prefix": "MAP_"},
                    {"secretRef": {"name": "odd"}},
                ],
                env=[
                    {"name": "NODE", "valueFrom": field},
                    {"name": "MEMORY", "valueFrom": resource},
                    *({"name": name, "value": value} for name, value in _VARIABLES.items()),
                ],
                resources={"limits": {"memory": "64Mi"}},
            ),
            _container(
                "wrapped", "sh", "-c", "export ADDED=1; sleep infinity; true", env=[{"name": "WHO", "value": "wrapped"}]
            ),
            # A title is written over the environment.
            _container("titled", "perl", "-e", '$0 = "worker: idle"; sleep', env=[{"name": "WHO", "value": "titled"}]),
            {"name": "static", "image": PAUSE_IMAGE, "volumeMounts": _EVERYTHING},
        ],
        "volumes": [
            {"name": "data", "emptyDir": {}},
            {"name": "memory", "emptyDir": {"medium": "Memory"}},
            {"name": "login", "secret": {"secretName": "odd", "defaultMode": 0o400}},
            {"name": "conf", "configMap": {"name": "odd"}},
            {"name": "projected", "projected": {"sources": [token, labels, {"secret": {"name": "odd"}}]}},
        ],
    }
    node = {
        "hostNetwork": True,
        "hostPID": True,
        "dnsPolicy": "ClusterFirstWithHostNet",
        "containers": [_container("root", env=[{"name": "WHO", "value": "node"}])],
    }
    return [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": {"app": name}},
            "spec": {"terminationGracePeriodSeconds": 0, **content},
        }
        for name, content in ((POD, spec), (NODE_POD, node))
    ]


@pytest.fixture(scope="module")
def odd(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster with these pods."""
    things = [*configuration(cluster.namespace), *pods(cluster.namespace)]
    try:
        cluster.apply(*things)
        cluster.wait_ready(POD, NODE_POD)
        # The name server hears of new addresses a moment later.
        wait_until(lambda: _knows(cluster, "odd-set"), WITHIN_S, "the pods have no names")
        yield cluster
    finally:
        for thing in things:
            cluster.remove(thing["kind"].lower(), thing["metadata"]["name"])


def _knows(cluster: Cluster, name: str) -> bool:
    command = ["sh", "-c", f"getent hosts {name} || true"]
    return bool(cluster.run_in_container(POD, *command, container="root"))


def both(cluster: Cluster, pod: str, container: str, *command: str) -> tuple[str, str]:
    """What a command writes in a container, and under `mirror exec`."""
    inside = cluster.run_in_container(pod, *command, container=container)
    outside = cluster.run(f"pod/{pod}/container/{container}", *command, options=["--no-incoming"], cwd="/")
    assert outside.returncode == 0, outside.stderr
    assert outside.stderr == ""
    return inside, outside.stdout


@pytest.mark.parametrize("container", ["user", "other", "root"])
def test_files(odd: Cluster, container: str) -> None:
    """Volumes, and who may read what in them."""
    inside, outside = both(odd, POD, container, "python3", "-c", LOOK, *FOLDERS)
    assert outside.splitlines() == inside.splitlines()


@pytest.mark.parametrize(("pod", "container"), [(POD, "user"), (NODE_POD, "root")])
def test_names(odd: Cluster, pod: str, container: str) -> None:
    program = NAMES.replace("NAMESPACE", odd.namespace)
    inside, outside = both(odd, pod, container, "python3", "-c", program)
    assert outside.splitlines() == inside.splitlines()


@pytest.mark.parametrize(("pod", "container"), [(POD, "user"), (NODE_POD, "root")])
def test_connections(odd: Cluster, pod: str, container: str) -> None:
    program = CALLS.replace("NAMESPACE", odd.namespace)
    inside, outside = both(odd, pod, container, "python3", "-c", program)
    assert outside.splitlines() == inside.splitlines()


def test_many_connections_and_many_bytes(odd: Cluster) -> None:
    inside, outside = both(odd, POD, "user", "python3", "-c", CARRY)
    assert outside == inside


@pytest.mark.parametrize(
    ("pod", "container"),
    [(POD, "variables"), (POD, "wrapped"), (POD, "titled"), (POD, "other"), (NODE_POD, "root")],
)
def test_variables(odd: Cluster, pod: str, container: str) -> None:
    """All but those that stay the user's are byte for byte what a command in the container is given."""
    inside, outside = (
        dict(environment.parse_block(text.encode())) for text in both(odd, pod, container, "cat", "/proc/self/environ")
    )
    wanted = {name: value for name, value in inside.items() if not environment.is_never_taken(name)}
    assert {name: outside.get(name) for name in wanted} == wanted
    assert "KUBERNETES_SERVICE_HOST" in wanted


def test_an_image_without_anything(odd: Cluster) -> None:
    """Nothing can be run in it: its volumes, names and network are those of the pod's other containers."""
    program = CALLS.replace("NAMESPACE", odd.namespace) + "print(socket.getfqdn())"
    for command in (["python3", "-c", LOOK, "/conf", "/login", "/etc/hosts"], ["python3", "-c", program]):
        inside = odd.run_in_container(POD, *command, container="root")
        outside = odd.run(f"pod/{POD}/container/static", *command, options=["--no-incoming"], cwd="/")
        assert (outside.returncode, outside.stderr) == (0, "")
        assert outside.stdout == inside
    root = odd.run(f"pod/{POD}/container/static", "sh", "-c", "wc -c </pause; ls /srv/*", options=["--no-incoming"])
    assert int(root.stdout) > 0
    assert "No such file" in root.stderr


def test_a_port_that_the_user_may_not_have(odd: Cluster) -> None:
    """Here ports below 1024 are root's; in the pod it is the program's nevertheless, and it sees no other."""
    program = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"user")
    def log_message(self, *_):
        pass
server = http.server.HTTPServer(("0.0.0.0", 80), Handler)
print(server.socket.getsockname(), flush=True)
server.serve_forever()
"""
    reduced = ["setpriv", "--bounding-set=-net_bind_service", "--"] if os.geteuid() == 0 else []
    command = [*reduced, "python3", "-c", program]
    with odd.start(f"pod/{POD}/container/user", *command, options=["--steal"], cwd="/") as session:
        try:
            assert session.stdout is not None
            assert session.stdout.readline() == "('0.0.0.0', 80)\n"
            call = ["curl", "-s", "-m", "60", f"http://{odd.pod_of(POD)['status']['podIP']}/"]
            assert odd.run_in_container(POD, *call, container="root") == "user"
        finally:
            session.kill()


def test_large_files(odd: Cluster) -> None:
    inside, outside = both(odd, POD, "user", "md5sum", "/data/large")
    assert outside == inside
    result = odd.run(f"pod/{POD}/container/user", "md5sum", "/data/too-large", options=["--no-incoming"])
    assert result.returncode == 1
    assert "/data/too-large of the target is larger than 64 MiB" in result.stderr
    assert "File too large" in result.stderr


def test_a_program_sees_that_a_volume_changes(odd: Cluster) -> None:
    """The node swaps the link `..data`, under which all of it is; what is open stays as it was."""
    program = """
import os, time
first, folder = open("/conf/a.ini"), os.open("/conf", os.O_RDONLY)
print("begun", flush=True)
while "new" not in os.listdir("/conf"):
    time.sleep(0.1)
second = os.open("a.ini", os.O_RDONLY, dir_fd=folder)
print(repr(first.read()), os.read(second, 99), open("/conf/new").read(), os.path.exists("/conf/TWO"))
"""
    command = ["python3", "-u", "-c", program]
    with odd.start(f"pod/{POD}/container/user", *command, options=["--no-incoming"], cwd="/") as session:
        try:
            assert session.stdout is not None
            assert session.stdout.readline() == "begun\n"
            _change(odd)
            said = session.stdout.read()
        finally:
            session.kill()
    assert said == "'[a]\\nx = 1\\n' b'[a]\\nx = 2\\n' yes False\n"


def _change(cluster: Cluster) -> None:
    path = f"/api/v1/namespaces/{cluster.namespace}"
    data = {"a.ini": "[a]\nx = 2\n", "new": "yes", "TWO": None}
    cluster.ask(lambda api: api.patch(f"{path}/configmaps/odd", {"data": data}))
    # The node looks after a pod that has changed at once, after others every now and then.
    touched = {"metadata": {"annotations": {"touched": "yes"}}}
    cluster.ask(lambda api: api.patch(f"{path}/pods/{POD}", touched))


STARTING = {
    "odd-slow": {"initContainers": [_container("migrate")], "containers": [_container("app")]},
    "odd-unmounted": {
        "containers": [_container("app", volumeMounts=_mounts(missing="/missing"))],
        "volumes": [{"name": "missing", "secret": {"secretName": "odd-missing"}}],
    },
}


@pytest.mark.parametrize(
    ("name", "reason", "remedy"),
    [
        ("odd-slow", "init container migrate has not ended", "wait for it, or mend it"),
        ("odd-unmounted", "container app: ContainerCreating", "describe pod/odd-unmounted` says why"),
    ],
)
def test_a_pod_that_does_not_come_up(cluster: Cluster, name: str, reason: str, remedy: str) -> None:
    spec = {"terminationGracePeriodSeconds": 0, **STARTING[name]}
    cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})
    try:
        said = ""

        def is_told() -> bool:
            nonlocal said
            result = cluster.run(f"pod/{name}", "true")
            assert result.returncode == EXIT_FAILED
            said = result.stderr
            return reason in said

        wait_until(is_told, WITHIN_S, f"instead: {said}")
        assert said.rstrip().endswith(remedy)
    finally:
        cluster.remove("pod", name)
