"""What exists in the sandbox, as tables: the pod of a shop's order service, and the cluster around it.

No address here is one of the user's machine: they are valid in the sandbox's own network namespaces only.
"""

from __future__ import annotations

NAMESPACE = "shop"
DOMAIN = "cluster.local"
HOST_NAME = "orders-5c9f7b6d4-x2v8k"
UID = GID = 1000
"""The pod does not run as root, so that permissions mean something."""

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOSTNAME": HOST_NAME,
    "HOME": "/app",
    "LANG": "C.UTF-8",
    "PORT": "8080",
    "SHOP_REGION": "eu-central-2",
    "SHOP_GREETING": "Hello from inside the pod",
    "ORDERS_CONFIG": "/app/config/orders.ini",
    "INVENTORY_URL": "http://inventory/items/teapot",
    "STOREFRONT_URL": "http://storefront/seen",
    "KUBERNETES_SERVICE_HOST": "10.96.0.1",
    "KUBERNETES_SERVICE_PORT": "443",
}

# --- addresses: IPv4 as in a cluster made by kubeadm, IPv6 unique local ------------------------------------------

POD_ADDRESS = "10.244.7.23"
POD_ADDRESS_V6 = "fd00:10:244:7::17"
GATEWAY = "10.244.7.1"
GATEWAY_V6 = "fd00:10:244:7::1"
POD_PREFIX = 24
POD_PREFIX_V6 = 64
CALLER = "10.244.9.40"
"""Another pod, from which the requests come."""
DNS = "10.96.0.10"
INVENTORY = "10.96.14.5"
INVENTORY_V6 = "fd00:10:96::e05"
STOREFRONT = "10.96.14.9"
CLUSTER_ADDRESSES = (CALLER, DNS, INVENTORY, INVENTORY_V6, STOREFRONT)
"""Those of the machine beyond the pod's cable, without its own (the gateways)."""
UNREACHABLE = "10.97.0.0/16"
"""A network to which the pod's routes say that there is no way (EHOSTUNREACH)."""
POD_PORT = 8080
ECHO_PORT = 7
"""At every cluster address: sends back what it gets (RFC 862)."""

# --- names -------------------------------------------------------------------------------------------------------

SERVICES: dict[str, tuple[str, ...]] = {
    f"inventory.{NAMESPACE}": (INVENTORY, INVENTORY_V6),
    f"storefront.{NAMESPACE}": (STOREFRONT,),
    f"orders.{NAMESPACE}": (POD_ADDRESS, POD_ADDRESS_V6),
    f"audit.{NAMESPACE}": (INVENTORY_V6,),
    f"fleet.{NAMESPACE}": tuple(f"10.96.200.{number}" for number in range(1, 61)),
    "kubernetes.default": ("10.96.0.1",),
    "kube-dns.kube-system": (DNS,),
}
"""Names below `svc.DOMAIN`. `audit` has no IPv4 address; `fleet` is too long an answer for UDP."""
ALIASES = {f"stock.{NAMESPACE}": f"inventory.{NAMESPACE}"}
BROKEN = f"broken.{NAMESPACE}"
"""The name server fails when it is asked for this one."""

# --- files -------------------------------------------------------------------------------------------------------

ETC = {
    "hostname": f"{HOST_NAME}\n",
    "hosts": f"""\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
{POD_ADDRESS}\t{HOST_NAME}
""",
    "resolv.conf": f"""\
nameserver {DNS}
search {NAMESPACE}.svc.{DOMAIN} svc.{DOMAIN} {DOMAIN}
options ndots:5
""",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n",
    "passwd": f"root:x:0:0:root:/root:/bin/sh\napp:x:{UID}:{GID}:the shop:/app:/bin/sh\n"
    "nobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n",
    "group": f"root:x:0:\napp:x:{GID}:\nnogroup:x:65534:\n",
    "os-release": 'ID=demo\nPRETTY_NAME="The demo pod of mirror"\n',
}
ETC_OF_THIS_MACHINE = ("alternatives", "gai.conf", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime",
                       "protocols", "services", "ssl", "ca-certificates", "mime.types")  # fmt: skip
"""What programs and libraries, which are this machine's, expect to find beside them; where there is such a thing."""

CONFIG_VERSION = "..2024_02_29_12_34_56.1234567890"
CONFIG = {
    "orders.ini": "[orders]\ncurrency = EUR\nlimit_per_customer = 12\nwarehouse = Rotterdam\n",
    "features.json": '{"gift_wrap": true, "express": false}\n',
}
"""Mounted by Kubernetes' way at /app/config: links through `..data` to a directory with a date in its name."""

SECRETS = "/var/run/secrets/kubernetes.io/serviceaccount"
SECRET_FILES = {
    "namespace": NAMESPACE,
    "token": "not-a-real-token.of-the-demo-pod",
    "ca.crt": "-----BEGIN CERTIFICATE-----\nnot a real certificate\n-----END CERTIFICATE-----\n",
}
