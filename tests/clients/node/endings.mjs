// Who goes, and what must go with them.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { ask, status, until } from "./client.mjs";
import { test } from "./stage.mjs";

const SLEEPS = "import time; print('up', flush=True); time.sleep(600)";

async function oneRun(connection) {
  assert.equal((await connection.status()).runsInFlight, 1);
}

test("a cancelled call ends its run", async (connection) => {
  const run = await connection.begin(SLEEPS).until("up\n");
  await oneRun(connection);
  run.call.cancel();
  await assert.rejects(run.end(), { code: status.CANCELLED });
  await connection.untilIdle();
});

test("a deadline ends its run", async (connection) => {
  const run = connection.begin(SLEEPS, {}, { deadline: Date.now() + 3000 });
  await assert.rejects(run.end(), { code: status.DEADLINE_EXCEEDED });
  assert.equal(run.out.toString(), "up\n");
  await connection.untilIdle();
});

test("a killed client ends its run", async (connection) => {
  const victim = spawn(process.execPath, ["victim.mjs"], { stdio: ["ignore", "pipe", "inherit"] });
  const [said] = await once(victim.stdout, "data");
  assert.equal(said.toString(), "up\n");
  await oneRun(connection);
  victim.kill("SIGKILL");
  await once(victim, "close");
  await connection.untilIdle();
});

test("a client finds the next daemon", async (connection) => {
  const before = await connection.status();
  const asks = "print('up', flush=True); print(input())";
  const run = await connection.begin(asks, { stdin: true }).until("up\n");
  await ask(connection.admin, "shutdown", {});
  // The daemon waits for the runs that it has.
  run.send({ stdin: Buffer.from("and down\n") });
  assert.equal((await run.end()).out.toString(), "up\nand down\n");
  assert.equal(run.exited.verdict, "VERDICT_EXITED");
  const gone = () => connection.status().then(() => false, (error) => error.code === status.UNAVAILABLE);
  await until("the daemon answers", gone);
  const start = spawn(process.env.ISOL8, ["daemon", "start"], { stdio: "ignore" });
  const [code] = await once(start, "close");
  assert.equal(code, 0);
  // The same channel, as if nothing had happened.
  const after = await connection.status({ waitForReady: true });
  assert.notEqual(after.pid, before.pid);
  assert.equal((await connection.run("print('again')")).out.toString(), "again\n");
});
