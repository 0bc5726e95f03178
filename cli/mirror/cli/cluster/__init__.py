"""What mirror knows of a Kubernetes cluster, and what it does there: each step is a module here.

`access` finds the cluster and the user's credentials, `api` asks its API server, `portforward` opens a byte stream to
a port in a pod. On these stand `targets`, which finds the pod and container that the user has named, and `agents`,
which has an agent run there. What the cluster refuses becomes a sentence in `failures`.

No click and no Frida here, and nothing that knows the proxy.
"""
