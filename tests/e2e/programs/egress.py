"""Speaks to the proxy of a filtered sandbox, byte for byte as it is told.

Standard input: {"width": how many at a time, "vectors": [{"id", "steps"}]}.
A step is one of
  {"send": base64}     bytes as they are
  {"answer": METHOD}   reads one answer to such a request
  {"tls": NAME|null}   TLS from here on, with that server name or with none
  {"rest": true}       reads to the end
  {"finish": true}     sends no more
Standard output: {id: [what came of the steps that read]}; a vector ends with
the first step that fails, and with a CONNECT that is refused.
"""

import base64
import json
import socket
import ssl
import sys
from concurrent.futures import ThreadPoolExecutor

PATIENCE = 20
PROXY = ("127.0.0.1", 8118)


class Wire:
    def __init__(self):
        self.socket = socket.create_connection(PROXY, PATIENCE)
        self.pending = b""

    def more(self):
        piece = self.socket.recv(65536)
        self.pending += piece
        return piece

    def until(self, end):
        while end not in self.pending:
            if not self.more():
                raise EOFError
        taken, self.pending = self.pending.split(end, 1)
        return taken

    def take(self, count):
        while len(self.pending) < count:
            if not self.more():
                raise EOFError
        taken, self.pending = self.pending[:count], self.pending[count:]
        return taken

    def answer(self, method):
        while True:
            lines = self.until(b"\r\n\r\n").decode("latin-1").split("\r\n")
            status = int(lines[0].split(" ")[1])
            if status >= 200:
                break
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        if method == "HEAD" or (method == "CONNECT" and status == 200):
            body = b""
        elif headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(self.until(b"\r\n"), 16):
                body += self.take(size)
                self.take(2)
            while self.until(b"\r\n"):
                pass
        elif "content-length" in headers:
            body = self.take(int(headers["content-length"]))
        else:
            while self.more():
                pass
            body, self.pending = self.pending, b""
        return {"status": status, "headers": headers, "body": body[:2000].decode("latin-1"), "length": len(body)}

    def secure(self, name):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self.socket = context.wrap_socket(self.socket, server_hostname=name)


def step(wire, what, seen):
    if "send" in what:
        wire.socket.sendall(base64.b64decode(what["send"]))
    elif "answer" in what:
        seen.append(wire.answer(what["answer"]))
    elif "tls" in what:
        wire.secure(what["tls"])
        seen.append("tls")
    elif "finish" in what:
        wire.socket.shutdown(socket.SHUT_WR)
    else:
        while wire.more():
            pass
        seen.append({"rest": len(wire.pending)})


def speak(vector):
    seen = []
    try:
        wire = Wire()
        wire.socket.settimeout(PATIENCE)
        for what in vector["steps"]:
            step(wire, what, seen)
            if what.get("answer") == "CONNECT" and seen[-1]["status"] != 200:
                break
        wire.socket.close()
    except TimeoutError:
        seen.append("late")
    except (EOFError, OSError) as error:
        seen.append("closed: " + type(error).__name__)
    return vector["id"], seen


order = json.load(sys.stdin)
with ThreadPoolExecutor(order["width"]) as pool:
    json.dump(dict(pool.map(speak, order["vectors"])), sys.stdout)
