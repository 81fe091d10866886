"""Begins a run that never ends and says so: somebody will kill this process."""

import asyncio

from client import Run, connect_for_runs


async def main():
    with connect_for_runs() as channel:
        run = Run(channel).start("import time; print('up', flush=True); time.sleep(600)")
        await run.until(b"up\n")
        print("up", flush=True)
        await run.end()


asyncio.run(main())
