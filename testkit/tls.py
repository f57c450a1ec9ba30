"""Speaks TLS in front of an app, as the Hub's proxy or an operator's does; the Host that a browser sends is kept."""

from __future__ import annotations

import datetime
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


@contextmanager
def tls_proxy(folder: Path, name: str, app_port: int) -> Iterator[int]:
    """The port on which `name` is served. Its certificate is its own: a browser must be told to accept it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(_certificate(folder / "certificate.pem", name))
    with socket.create_server(("127.0.0.1", 0)) as server:
        Thread(target=_accept, args=(server, context, app_port), daemon=True).start()
        yield server.getsockname()[1]


def _accept(server: socket.socket, context: ssl.SSLContext, app_port: int) -> None:
    with suppress(OSError):  # the test is over
        while True:
            client, _ = server.accept()
            Thread(target=_serve, args=(client, context, app_port), daemon=True).start()


def _serve(client: socket.socket, context: ssl.SSLContext, app_port: int) -> None:
    with (
        suppress(OSError),
        context.wrap_socket(client, server_side=True) as browser,
        socket.create_connection(("127.0.0.1", app_port)) as app,
    ):
        back = Thread(target=_pipe, args=(app, browser), daemon=True)
        back.start()
        _pipe(browser, app)
        back.join()


def _pipe(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def _certificate(path: Path, name: str) -> Path:
    """A file with a key and a certificate that the key itself signs."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(1))
        .not_valid_after(now + datetime.timedelta(1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return path
