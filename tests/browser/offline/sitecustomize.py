"""On PYTHONPATH: every connection beyond this machine fails, and is written down."""

import os
import socket

HERE = {"127.0.0.1", "::1", "localhost", "0.0.0.0", "", None, socket.gethostname()}
_connect, _resolve = socket.socket.connect, socket.getaddrinfo


def _check(host):
    host = host.decode() if isinstance(host, bytes) else host
    if host not in HERE:
        with open(os.environ["AKT_LAB_OUTSIDE"], "a") as file:
            file.write(f"{host}\n")
        raise OSError(f"a connection to {host}")


def connect(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6):
        _check(address[0])
    return _connect(self, address)


def resolve(host, *rest, **named):
    _check(host)
    return _resolve(host, *rest, **named)


socket.socket.connect, socket.getaddrinfo = connect, resolve
