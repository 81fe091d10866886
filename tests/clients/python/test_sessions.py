"""Sessions: what stays, who is turned away, and files in and out."""

import asyncio
import hashlib
import uuid

import grpc
from client import Case, Run, v1
from isol8.v1 import session_pb2 as sessions

INVALID = ("invalid_request", grpc.StatusCode.INVALID_ARGUMENT)
ABSENT = ("not_found", grpc.StatusCode.NOT_FOUND)
PIECE_BYTES = 256 << 10


class Sessions(Case):
    async def asyncSetUp(self):
        await super().asyncSetUp()
        self.name = f"py-{uuid.uuid4().hex[:12]}"

    async def asyncTearDown(self):
        listed = await self.sessions.List(sessions.ListSessionsRequest())
        for session in listed.sessions:
            await self.remove(session.name, force=True)
        await super().asyncTearDown()

    async def remove(self, name, force=False):
        return await self.sessions.Remove(sessions.RemoveSessionRequest(name=name, force=force))

    async def inside(self, code, **start):
        return await self.run_it(code, session=self.name, **start)

    def put(self, path, *entries):
        """Entries are folders, or files with their content."""

        def messages():
            start = sessions.PutStart(session=self.name, path=path.encode())
            yield sessions.PutRequest(start=start)
            for name, content in entries:
                kind = sessions.FILE_KIND_FOLDER if content is None else sessions.FILE_KIND_FILE
                entry = sessions.FileEntry(
                    path=name.encode(), kind=kind, size_bytes=len(content or b"")
                )
                yield sessions.PutRequest(entry=entry)
                for at in range(0, len(content or b""), PIECE_BYTES):
                    yield sessions.PutRequest(data=content[at : at + PIECE_BYTES])

        return self.sessions.Put(messages())

    async def get(self, path, **more):
        """Files and folders below a path; of a folder the content is `None`."""
        found, done = {}, None
        async for message in self.sessions.Get(
            sessions.GetRequest(session=self.name, path=path.encode(), **more)
        ):
            match message.WhichOneof("message"):
                case "entry":
                    last = message.entry.path.decode()
                    is_file = message.entry.kind == sessions.FILE_KIND_FILE
                    found[last] = b"" if is_file else None
                case "data":
                    found[last] += message.data
                case "done":
                    done = message.done
        self.assertIsNotNone(done, "the last message says that all of it came")
        return found

    async def test_a_session_keeps_its_state(self):
        await self.inside("open('kept', 'w').write('here')")
        run = await self.inside("print(open('kept').read())")
        self.assertEqual(run.out, b"here\n")

        async def idle():
            asked = sessions.ListSessionsRequest(sizes=True)
            [session] = (await self.sessions.List(asked)).sessions
            self.assertEqual((session.name, session.runtime), (self.name, "python"))
            if session.state == sessions.SESSION_STATE_BUSY:
                return False
            self.assertEqual(session.state, sessions.SESSION_STATE_IDLE)
            return session.size_bytes >= len("here")

        await self.until(idle, "the session is busy")
        await self.remove(self.name)
        await self.refused(self.remove(self.name), *ABSENT, self.name)
        listed = (await self.sessions.List(sessions.ListSessionsRequest())).sessions
        self.assertEqual(len(listed), 0)

    async def test_a_session_says_no(self):
        await self.inside("1")
        mismatch = ("session_mismatch", grpc.StatusCode.FAILED_PRECONDITION)
        other = self.inside("1", limits=v1.Limits(memory_bytes=99 << 20))
        await self.refused(other, *mismatch)
        await self.refused(self.inside("1", runtime=v1.RUNTIME_BASH), *mismatch)
        code = "print('up', flush=True); input()"
        run = self.begin(code, session=self.name, stdin=True)
        await run.until(b"up\n")
        busy = ("session_busy", grpc.StatusCode.FAILED_PRECONDITION)
        await self.refused(self.remove(self.name), *busy)
        # Who comes next waits for its turn.
        second = self.begin("print('second')", session=self.name)
        run.send(stdin=b"\n")
        self.assertEqual((await run.end()).exited.code, 0)
        self.assertEqual((await second.end()).out, b"second\n")

    async def test_a_full_queue_says_when_to_come_back(self):
        code = "print('up', flush=True); input()"
        first = self.begin(code, session=self.name, stdin=True)
        await first.until(b"up\n")
        # One more than may wait for a session.
        runs = [
            self.begin("print('came')", session=self.name) for _ in range(65)
        ]
        ends = [asyncio.create_task(run.end()) for run in runs]
        done, waiting = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        [full] = done
        self.assertEqual(len(waiting), 64)

        async def call():
            await full

        capacity = ("at_capacity", grpc.StatusCode.RESOURCE_EXHAUSTED)
        told = await self.refused(call(), *capacity, "64 runs")
        self.assertGreater(told.retry_after_ms, 0)
        # Those who go make room; those who stay have their turn.
        staying, *leaving = (run for run, end in zip(runs, ends) if end is not full)
        for run in leaving:
            run.call.cancel()
        first.send(stdin=b"\n")
        await first.end()
        ended = await asyncio.gather(*ends, return_exceptions=True)
        self.assertEqual([run for run in ended if isinstance(run, Run)], [staying])
        self.assertEqual(staying.out, b"came\n")

    async def test_files_go_in_and_out(self):
        content = bytes((i * 31 + i // 255) % 256 for i in range(1 << 20)) * 8
        await self.inside("1")
        put = await self.put("work", ("", None), ("big.bin", content), ("deep", None), ("deep/empty", b""))
        self.assertEqual((put.bytes, put.files, put.folders), (8 << 20, 2, 2))
        digest = hashlib.sha256(content).hexdigest()
        run = await self.inside(
            "import hashlib; print(hashlib.sha256(open('work/big.bin', 'rb').read()).hexdigest())"
        )
        self.assertEqual(run.out.decode().strip(), digest)
        found = await self.get("/sandbox/work")
        self.assertEqual(set(found), {"", "big.bin", "deep", "deep/empty"})
        self.assertEqual(hashlib.sha256(found["big.bin"]).hexdigest(), digest)
        names = await self.get("work", names_only=True, depth=1)
        self.assertEqual(set(names), {"", "big.bin", "deep"})
        await self.sessions.Delete(
            sessions.DeleteRequest(session=self.name, path=b"work", recursive=True)
        )
        await self.refused(self.get("work"), *ABSENT)

    async def test_files_stay_inside(self):
        # Without a session there are no files.
        await self.refused(self.get("x"), *ABSENT)
        await self.inside("import os; os.symlink('/etc', 'link')")
        for path in ("/etc/passwd", "../../etc/passwd", "a/../../b"):
            with self.subTest(path):
                await self.refused(self.get(path), *INVALID)
                await self.refused(self.put(path, ("", b"x")), *INVALID)
        # A link is not followed.
        with self.assertRaises(grpc.aio.AioRpcError) as caught:
            await self.get("link/passwd")
        self.assertNotEqual(caught.exception.code(), grpc.StatusCode.INTERNAL)
        await self.refused(self.put("x", ("../y", b"x")), *INVALID)
