"""Measures one way to an origin from inside of a sandbox.

Environment: ORIGIN (host:port), WAY (`direct` or `proxied`), SIZE in bytes.
Prints JSON: megabytes a second plain and in TLS, and the median microseconds of
a request on a connection that is kept and on a fresh one.
"""

import json
import os
import socket
import ssl
import statistics
import sys
import time

HOST, _, PORT = os.environ["ORIGIN"].partition(":")
PORT, WAY, SIZE = int(PORT), os.environ["WAY"], int(os.environ["SIZE"])
KEPT, FRESH = 400, 150


def connect():
    address = ("127.0.0.1", 8118) if WAY == "proxied" else (HOST, PORT)
    wire = socket.create_connection(address, 30)
    wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return wire


def ask(wire, path, plain=True):
    target = f"http://{HOST}:{PORT}{path}" if plain and WAY == "proxied" else path
    wire.sendall(f"GET {target} HTTP/1.1\r\nHost: {HOST}:{PORT}\r\n\r\n".encode())


def head(wire):
    taken = b""
    while b"\r\n\r\n" not in taken:
        piece = wire.recv(65536)
        if not piece:
            raise EOFError(taken)
        taken += piece
    text, rest = taken.split(b"\r\n\r\n", 1)
    if b" 200 " not in text.split(b"\r\n")[0]:
        raise ValueError(text)
    return text, len(rest)


def fetch(wire, plain):
    buffer = bytearray(1 << 18)
    begun = time.perf_counter()
    ask(wire, f"/bytes/{SIZE}", plain)
    left = SIZE - head(wire)[1]
    while left > 0:
        count = wire.recv_into(buffer)
        if not count:
            raise EOFError(left)
        left -= count
    return SIZE / 1e6 / (time.perf_counter() - begun)


def secure():
    wire = connect()
    if WAY == "proxied":
        wire.sendall(f"CONNECT {HOST}:{PORT} HTTP/1.1\r\nHost: {HOST}:{PORT}\r\n\r\n".encode())
        head(wire)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(wire)


def exchange(wire):
    begun = time.perf_counter()
    ask(wire, "/bytes/2")
    text, rest = head(wire)
    while rest < 2:
        rest += len(wire.recv(2))
    return (time.perf_counter() - begun) * 1e6


def fresh():
    begun = time.perf_counter()
    wire = connect()
    exchange(wire)
    wire.close()
    return (time.perf_counter() - begun) * 1e6


kept = connect()
exchange(kept)
json.dump(
    {
        "plain": fetch(connect(), True),
        "tls": fetch(secure(), False),
        "kept": statistics.median(exchange(kept) for _ in range(KEPT)),
        "fresh": statistics.median(fresh() for _ in range(FRESH)),
    },
    sys.stdout,
)
