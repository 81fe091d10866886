"""Who goes, and what must go with them."""

import asyncio
import os
import sys

import grpc
from client import Case, Run, admin, v1

SLEEPS = "import time; print('up', flush=True); time.sleep(600)"


class Endings(Case):
    async def one_run(self):
        self.assertEqual((await self.status()).runs_in_flight, 1)

    async def test_a_cancelled_call_ends_its_run(self):
        run = await self.begin(SLEEPS).until(b"up\n")
        await self.one_run()
        run.call.cancel()
        with self.assertRaises(grpc.RpcError) as caught:
            await run.end()
        self.assertEqual(caught.exception.code(), grpc.StatusCode.CANCELLED)
        await self.until_idle()

    async def test_a_deadline_ends_its_run(self):
        run = Run(self.plain, seconds=3).start(SLEEPS)
        with self.assertRaises(grpc.RpcError) as caught:
            await run.end()
        self.assertEqual(caught.exception.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        self.assertEqual(run.out, b"up\n")
        await self.until_idle()

    async def test_a_killed_client_ends_its_run(self):
        victim = await asyncio.create_subprocess_exec(
            sys.executable,
            os.path.join(os.path.dirname(__file__), "victim.py"),
            stdout=asyncio.subprocess.PIPE,
        )
        self.assertEqual(await victim.stdout.readline(), b"up\n")
        await self.one_run()
        victim.kill()
        await victim.wait()
        await self.until_idle()

    async def test_a_client_finds_the_next_daemon(self):
        before = await self.status()
        code = "print('up', flush=True); print(input())"
        run = await self.begin(code, stdin=True).until(b"up\n")
        await self.admin.Shutdown(admin.ShutdownRequest())
        # The daemon waits for the runs that it has.
        run.send(stdin=b"and down\n")
        self.assertEqual((await run.end()).out, b"up\nand down\n")
        self.assertEqual(run.exited.verdict, v1.VERDICT_EXITED)

        async def gone():
            try:
                await self.status()
            except grpc.aio.AioRpcError as error:
                return error.code() == grpc.StatusCode.UNAVAILABLE

        await self.until(gone, "the daemon answers")
        start = await asyncio.create_subprocess_exec(
            os.environ["ISOL8"], "daemon", "start", stdout=asyncio.subprocess.DEVNULL
        )
        self.assertEqual(await start.wait(), 0)
        # The same channel, as if nothing had happened.
        status = await self.admin.Status(
            admin.StatusRequest(), wait_for_ready=True, timeout=60
        )
        self.assertNotEqual(status.pid, before.pid)
        run = await self.run_it("print('again')")
        self.assertEqual(run.out, b"again\n")
