"""The secret by which an agent and its clients know each other, where others can reach the agent's port too.

It is one key with one certificate, made at the agent's start. Both sides present the certificate and trust no other
(TLS 1.3), so that whoever has the key is served and believed, and nobody else is. It lies in one file of the agent's
own container, from where a client fetches it through `pods/exec`; this is the command for it:

    python -m mirror.agent.identity FILE

The containers of a pod share their network, their /dev/shm and, beside a target, their processes, but not their root
directories. What leads into another's (/proc/PID/root, /proc/PID/mem and the like) the kernel opens to the same user
with no fewer capabilities. An agent has some that its target lacks, but for one in a cluster that gives it none; that
one is kept shut by `hide`, as the first thing that it does, some milliseconds after its start. So is the command above,
which can read the file too. Who is root in the target and quicker than that gains nothing: such an agent may do no more
than the target's root. Who has CAP_SYS_PTRACE needs no agent.

What only `make` needs is imported there: the command is to hide at once, and cryptography takes 50 ms.
"""

from __future__ import annotations

import os
import sys
import time

from mirror.agent.hiding import hide

TYPE_CHECKING = False  # `typing` has it, but takes its time
if TYPE_CHECKING:
    import ssl

WAIT_S = 20.0
"""How long a client may be there before the agent has its secret."""
_LOOK_EVERY_S = 0.02

_NAME = "mirror-agent"
_CLOCKS_DIFFER_DAYS = 2
"""By how much a user's clock may be wrong."""
_DAYS = 365
"""More than any agent lives; the key is worthless when it ends."""


def make(path: str, port: int) -> ssl.SSLContext:
    """Makes the secret, and puts it where clients find it.

    Args:
        path: A file that becomes this process's user's alone: a line `port N`, then key and certificate in PEM.
        port: Where the agent listens.

    Returns:
        What lets in who has it.

    Raises:
        IdentityError: The file cannot be written.
    """
    import contextlib
    import ssl

    from mirror.agent.gate import IdentityError

    content = f"port {port}\n".encode() + _make_pem()
    partial = f"{path}.partial"
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(content)
        os.rename(partial, path)
    except OSError as error:
        raise IdentityError(f"mirror's agent cannot write {path}: {error.strerror}") from None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(path)
    context.load_verify_locations(path)
    return context


def _make_pem() -> bytes:
    """A key, and a certificate that it has signed itself and that signs no others."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, _NAME)])
    now = datetime.datetime.now(datetime.UTC)
    public = key.public_key()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=_CLOCKS_DIFFER_DAYS))
        .not_valid_after(now + datetime.timedelta(days=_DAYS))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(_NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ) + certificate.public_bytes(serialization.Encoding.PEM)


def read(path: str, *, wait_s: float = WAIT_S) -> bytes:
    """What `make` has written; waits until it has.

    Raises:
        OSError: In vain, or it may not be read.
    """
    end = time.monotonic() + wait_s
    while True:
        try:
            with open(path, "rb") as file:
                return file.read()
        except FileNotFoundError:
            if time.monotonic() >= end:
                raise
        time.sleep(_LOOK_EVERY_S)


def main() -> int:
    """Writes the secret to standard output; the exit status."""
    hide()
    try:
        [path] = sys.argv[1:]
        sys.stdout.buffer.write(read(path))
        sys.stdout.buffer.flush()
    except (ValueError, OSError) as error:
        print(f"the agent's identity cannot be read: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
