"""Runs: what goes in, what comes out, how they end."""

import asyncio
import hashlib
import signal

from client import Case, Run, v1

# More stdin that nobody has taken than this, and signals wait behind it.
UNTAKEN_BYTES = 1 << 20
PIECE_BYTES = 256 << 10


class Runs(Case):
    async def test_output_comes_while_the_run_goes_on(self):
        run = self.begin(
            "print('first', flush=True); input(); print('second')", stdin=True
        )
        await run.until(b"first\n")
        self.assertNotIn(b"second", run.out)
        self.assertEqual((await self.status()).runs_in_flight, 1)
        run.send(stdin=b"\n")
        await run.end()
        self.assertEqual(run.out, b"first\nsecond\n")
        self.assertEqual(run.exited.verdict, v1.VERDICT_EXITED)

    async def test_bytes_and_exit_code_are_exact(self):
        code = "import sys; sys.stdout.buffer.write(bytes(range(256)) * 64); sys.stderr.buffer.write(b'\\xff\\x00'); sys.exit(7)"
        run = await self.run_it(code)
        self.assertEqual(run.out, bytes(range(256)) * 64)
        self.assertEqual(run.err, b"\xff\x00")
        self.assertEqual((run.exited.verdict, run.exited.code), (v1.VERDICT_EXITED, 7))
        self.assertFalse(run.exited.HasField("signal"))
        self.assertEqual(run.exited.usage.stdout_bytes, 256 * 64)
        self.assertIn("accepted", run.events)

    async def test_stdin_is_live(self):
        run = self.begin(
            "for line in open(0): print(line.upper(), end='', flush=True)\nprint('end')", stdin=True
        )
        for word in (b"one", b"two"):
            run.send(stdin=word + b"\n")
            await run.until(word.upper() + b"\n")
        run.send(close_stdin=v1.CloseStdin())
        await run.end()
        self.assertEqual(run.out, b"ONE\nTWO\nend\n")
        # The end of the client's own stream closes it too.
        run = self.begin("print(open(0).read())", stdin=True)
        run.send(stdin=b"half")
        run.done_writing()
        self.assertEqual((await run.end()).out, b"half\n")

    async def test_much_stdin_comes_back(self):
        block = bytes((i * 7 + i // 251) % 256 for i in range(PIECE_BYTES))
        pieces = [block[i:] + block[:i] for i in range(20)]
        code = "import sys, shutil; shutil.copyfileobj(sys.stdin.buffer, sys.stdout.buffer)"
        room = v1.Limits(max_output_bytes=16 << 20)
        run = self.begin(code, stdin=True, limits=room)
        moved = asyncio.Event()
        most = 0

        async def read():
            while await run.take():
                moved.set()

        reader = asyncio.create_task(read())
        sent = 0
        for piece in pieces:
            while sent + len(piece) - run.taken > UNTAKEN_BYTES:
                moved.clear()
                await moved.wait()
            run.send(stdin=piece)
            sent += len(piece)
            most = max(most, sent - run.taken)
        run.send(close_stdin=v1.CloseStdin())
        await reader
        self.assertEqual(run.exited.code, 0)
        # A program may end before the client hears of the last piece.
        self.assertTrue(4 << 20 <= run.taken <= 5 << 20, run.taken)
        self.assertLessEqual(most, UNTAKEN_BYTES)
        digest = hashlib.sha256(b"".join(pieces)).hexdigest()
        self.assertEqual(hashlib.sha256(run.out).hexdigest(), digest)

    async def test_big_output_fits_the_default_message_size(self):
        code = "import sys; sys.stdout.buffer.write(b'x' * (8 << 20))"
        for buffered in (False, True):
            run = await self.run_it(
                code, buffered=buffered, limits=v1.Limits(max_output_bytes=16 << 20)
            )
            self.assertEqual(run.out, b"x" * (8 << 20))
            self.assertFalse(run.exited.stdout_truncated)
            self.assertGreater(run.events.count("stdout"), 2)

    async def test_two_runs_share_a_connection(self):
        code = "for line in open(0): print(NAME, line, end='', flush=True)"
        first = self.begin(f"NAME = 'a'\n{code}", stdin=True)
        second = self.begin(f"NAME = 'b'\n{code}", stdin=True)
        for turn in (b"1", b"2", b"3"):
            for run, name in ((first, b"a"), (second, b"b")):
                run.send(stdin=turn + b"\n")
                await run.until(name + b" " + turn + b"\n")
        self.assertEqual((await self.status()).runs_in_flight, 2)
        for run in (first, second):
            run.send(close_stdin=v1.CloseStdin())
            await run.end()
        self.assertEqual(first.out, b"a 1\na 2\na 3\n")
        self.assertEqual(second.out, b"b 1\nb 2\nb 3\n")

    async def test_secrets_are_masked(self):
        code = "import os, sys; print(os.environ['PLAIN'], os.environ['TOKEN']); sys.exit(len(os.environ['TOKEN']))"
        run = await self.run_it(code, env={"PLAIN": "shown"}, secrets={"TOKEN": "s3cr3t-v4lue"})
        self.assertTrue(run.out.startswith(b"shown "), run.out)
        self.assertNotIn(b"s3cr3t-v4lue", run.out)
        # The program has it.
        self.assertEqual(run.exited.code, 12)

    async def test_time_and_memory_run_out(self):
        run = await self.run_it(
            "import time; time.sleep(600)", limits=v1.Limits(timeout_ms=500)
        )
        self.assertEqual(run.exited.verdict, v1.VERDICT_TIMED_OUT)
        run = await self.run_it(
            "held = bytearray(200 << 20); print(len(held))",
            limits=v1.Limits(memory_bytes=64 << 20),
        )
        self.assertEqual(run.exited.verdict, v1.VERDICT_OOM_KILLED)
        self.assertEqual(run.out, b"")

    async def test_signals_reach_the_program(self):
        code = "import signal, sys\nsignal.signal(signal.SIGINT, lambda *_: sys.exit(5))\nprint('up', flush=True)\nwhile True: signal.pause()"
        run = await self.begin(code).until(b"up\n")
        run.send(signal=v1.Signal(number=signal.SIGINT))
        await run.end()
        self.assertEqual((run.exited.verdict, run.exited.code), (v1.VERDICT_EXITED, 5))
        run = await self.begin(code).until(b"up\n")
        run.send(signal=v1.Signal(number=signal.SIGKILL))
        await run.end()
        self.assertEqual((run.exited.verdict, run.exited.signal), (v1.VERDICT_SIGNALLED, 9))
        self.assertFalse(run.exited.HasField("code"))
