"""What the tests share: a connection, a run with what came of it, patience."""

import asyncio
import os
import queue
import unittest
from concurrent.futures import ThreadPoolExecutor

import grpc
from isol8.v1 import admin_pb2 as admin
from isol8.v1 import run_pb2 as v1
from isol8.v1.admin_pb2_grpc import AdminServiceStub
from isol8.v1.run_pb2_grpc import RunServiceStub
from isol8.v1.session_pb2_grpc import SessionServiceStub

SOCKET = os.environ["ISOL8_SOCKET"]
PATIENCE_SECONDS = 60


def connect():
    """A connection as anybody would make it: no option is set."""
    return grpc.aio.insecure_channel(f"unix:{SOCKET}")


def connect_for_runs():
    """The same without asyncio, for runs: the tests write while programs end, and
    there a late `write` hides the status of the call (grpc/grpc#36066)."""
    return grpc.insecure_channel(f"unix:{SOCKET}")


def detail(error):
    """The `ErrorDetail` of a failed call."""
    return v1.ErrorDetail.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])


class Run:
    """One run of the daemon."""

    def __init__(self, channel, seconds=None):
        self.said = queue.SimpleQueue()
        # `None` ends the client's stream.
        self.call = RunServiceStub(channel).Run(iter(self.said.get, None), timeout=seconds)
        self.call.add_callback(lambda: self.said.put(None))
        self.events, self.out, self.err, self.taken = [], b"", b"", 0
        self.exited = None

    def start(self, code, runtime=v1.RUNTIME_PYTHON, **more):
        code = code.encode() if isinstance(code, str) else code
        self.send(start=v1.Start(runtime=runtime, code=code, **more))
        return self

    def send(self, **message):
        self.said.put(v1.RunRequest(**message))

    def done_writing(self):
        self.said.put(None)

    async def take(self):
        """Takes one event; false at the end."""
        event = await asyncio.to_thread(next, self.call, None)
        if event is None:
            return False
        kind = event.WhichOneof("event")
        self.events.append(kind)
        if kind == "stdout":
            self.out += event.stdout
        elif kind == "stderr":
            self.err += event.stderr
        elif kind == "stdin_taken":
            self.taken += event.stdin_taken.bytes
        elif kind == "exited":
            self.exited = event.exited
        return True

    async def until(self, text):
        """Takes events until the program has said this."""
        while text not in self.out:
            if not await self.take():
                raise AssertionError(f"no {text!r} in {self.out!r}, {self.err!r}: {self.exited}")
        return self

    async def end(self):
        """Takes all that comes; the last event is the verdict."""
        while await self.take():
            pass
        assert self.events[-1] == "exited" and self.events.count("exited") == 1, self.events
        return self


class Case(unittest.IsolatedAsyncioTestCase):
    """A test with a connection of its own, on a daemon that does nothing else."""

    async def asyncSetUp(self):
        # Every run that is read takes a thread.
        threads = ThreadPoolExecutor(max_workers=100)
        asyncio.get_running_loop().set_default_executor(threads)
        self.channel = connect()
        self.plain = connect_for_runs()
        self.admin = AdminServiceStub(self.channel)
        self.sessions = SessionServiceStub(self.channel)

    async def asyncTearDown(self):
        await self.until_idle()
        await self.channel.close()
        self.plain.close()

    def begin(self, code, **start):
        return Run(self.plain).start(code, **start)

    async def run_it(self, code, **start):
        return await self.begin(code, **start).end()

    async def status(self):
        return await self.admin.Status(admin.StatusRequest())

    async def until_idle(self):
        """No run goes on or waits at the daemon."""

        async def idle():
            status = await self.status()
            return status.runs_in_flight == 0 and status.runs_queued == 0

        await self.until(idle, "the daemon has runs")

    async def until(self, holds, what):
        async def look():
            while not await holds():
                await asyncio.sleep(0.02)

        try:
            await asyncio.wait_for(look(), PATIENCE_SECONDS)
        except asyncio.TimeoutError:
            self.fail(f"still after {PATIENCE_SECONDS} s: {what}")

    async def refused(self, call, kind, code, words=""):
        """The call fails with this kind, and says why."""
        with self.assertRaises(grpc.RpcError) as caught:
            await call
        error = caught.exception
        self.assertEqual(error.code(), code, error)
        told = detail(error)
        self.assertEqual(told.kind, kind, told)
        self.assertEqual(told.message, error.details())
        self.assertIn(words, told.message)
        return told
