"""Adds up numbers in a sandbox: input while it runs, output as it comes."""

import asyncio
import os
import sys

import grpc
from isol8.v1 import run_pb2 as isol8
from isol8.v1.run_pb2_grpc import RunServiceStub

PROGRAM = b"""
total = 0
for line in open(0):
    total += int(line)
    print("so far:", total, flush=True)
"""


def socket():
    """The daemon of the system, if there is one, else your own."""
    own = os.environ.get("XDG_RUNTIME_DIR")
    own = f"{own}/isol8" if own else f"/tmp/isol8-{os.getuid()}"
    folders = ["/run/isol8", own]
    found = (path for path in folders if os.access(f"{path}/isol8d.sock", os.W_OK))
    return os.environ.get("ISOL8_SOCKET") or f"{next(found, own)}/isol8d.sock"


async def add_up(channel, numbers):
    call = RunServiceStub(channel).Run()
    start = isol8.Start(runtime=isol8.RUNTIME_PYTHON, code=PROGRAM, stdin=True)
    await call.write(isol8.RunRequest(start=start))
    await call.write(isol8.RunRequest(stdin=b"%d\n" % numbers.pop(0)))
    async for event in call:
        match event.WhichOneof("event"):
            case "stdout":
                # A piece may end anywhere: bytes, not text, and not lines.
                os.write(1, event.stdout)
                for _ in range(event.stdout.count(b"\n")):
                    if numbers:
                        await call.write(isol8.RunRequest(stdin=b"%d\n" % numbers.pop(0)))
                    else:
                        await call.done_writing()
            case "stderr":
                os.write(2, event.stderr)
            case "exited":
                exited = event.exited
    return exited


async def main():
    async with grpc.aio.insecure_channel(f"unix:{socket()}") as channel:
        try:
            exited = await add_up(channel, [20, 20, 2])
            print(isol8.Verdict.Name(exited.verdict), exited.code)
        except grpc.aio.AioRpcError as error:
            details = dict(error.trailing_metadata()).get("grpc-status-details-bin", b"")
            hint = isol8.ErrorDetail.FromString(details).hint
            sys.exit(f"error: {error.details()}" + (f"\nhint: {hint}" if hint else ""))


asyncio.run(main())
