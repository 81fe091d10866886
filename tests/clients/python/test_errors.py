"""What is refused, in a form that a program can read."""

import grpc
from client import Case, Run, v1

INVALID = ("invalid_request", grpc.StatusCode.INVALID_ARGUMENT)


class Errors(Case):
    async def refused_run(self, kind, code, words, start):
        async def go():
            run = Run(self.plain)
            run.send(start=start)
            await run.end()

        return await self.refused(go(), kind, code, words)

    async def test_errors_carry_their_detail(self):
        python = v1.RUNTIME_PYTHON

        def start(**more):
            return v1.Start(runtime=python, code=b"print(1)", **more)

        mib = 1 << 20
        cases = [
            ("`runtime` is not given", v1.Start(code=b"1")),
            ("`99` is not a runtime", v1.Start(runtime=99, code=b"1")),
            ("too little", start(limits=v1.Limits(memory_bytes=1))),
            ("too long", start(limits=v1.Limits(timeout_ms=1 << 50))),
            ("16777217 bytes", v1.Start(runtime=python, code=b"#" * (16 * mib + 1))),
            ("variable name", start(env={"1=": "x"})),
            ("file extension", start(extension="../x")),
            ("name", start(session="../other")),
            ("--index-url", start(install=["--index-url=elsewhere"])),
        ]
        for words, message in cases:
            with self.subTest(words):
                await self.refused_run(*INVALID, words, message)
        told = await self.refused_run(*INVALID, "name", start(session="../other"))
        self.assertTrue(told.hint and told.causes, told)
        # More than the daemon takes at all; it need not have read the whole.
        await self.refused_run(
            *INVALID, "could not be read", v1.Start(runtime=python, code=b"#" * (21 * mib))
        )
        # What is long is cut: it has to fit into headers.
        told = await self.refused_run(*INVALID, "", start(session="x" * 100_000))
        self.assertLess(len(told.message), 2000)
        # During a run.
        run = await self.begin("print('up', flush=True); input()", stdin=True).until(b"up\n")
        run.send(signal=v1.Signal(number=19))
        await self.refused(run.end(), *INVALID, "signal 19")

    async def test_newer_clients_are_understood(self):
        # Field 1000, a text: unknown here, and passed over.
        start = v1.Start(runtime=v1.RUNTIME_PYTHON, code=b"print('known')").SerializeToString()
        newer = v1.Start.FromString(start + b"\xc2\x3e\x03new")
        run = Run(self.plain)
        run.send(start=newer)
        self.assertEqual((await run.end()).out, b"known\n")
        # A message of a kind that is unknown here could mean anything.
        run = await self.begin("print('up', flush=True); input()", stdin=True).until(b"up\n")
        run.said.put(v1.RunRequest.FromString(b"\xc2\x3e\x03new"))
        told = await self.refused(run.end(), *INVALID, "does not know")
        self.assertIn("versions", told.hint)
        # So could a call.
        with self.assertRaises(grpc.aio.AioRpcError) as caught:
            await self.channel.unary_unary("/isol8.v1.RunService/Newer")(b"")
        self.assertEqual(caught.exception.code(), grpc.StatusCode.UNIMPLEMENTED)
