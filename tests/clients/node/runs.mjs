// Runs: what goes in, what comes out, how they end.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "./stage.mjs";

// More stdin that nobody has taken than this, and signals wait behind it.
const UNTAKEN_BYTES = 1 << 20;
const PIECE_BYTES = 256 << 10;

const digest = (bytes) => createHash("sha256").update(bytes).digest("hex");
const text = (run) => run.out.toString();

test("output comes while the run goes on", async (connection) => {
  const code = "print('first', flush=True); input(); print('second')";
  const run = connection.begin(code, { stdin: true });
  await run.until("first\n");
  assert.ok(!run.out.includes("second"));
  assert.equal((await connection.status()).runsInFlight, 1);
  run.send({ stdin: Buffer.from("\n") });
  await run.end();
  assert.equal(text(run), "first\nsecond\n");
  assert.equal(run.exited.verdict, "VERDICT_EXITED");
});

test("bytes and exit code are exact", async (connection) => {
  const code =
    "import sys; sys.stdout.buffer.write(bytes(range(256)) * 64); sys.stderr.buffer.write(b'\\xff\\x00'); sys.exit(7)";
  const run = await connection.run(code);
  const all = Buffer.from(Array.from({ length: 256 * 64 }, (_, i) => i % 256));
  assert.ok(run.out.equals(all));
  assert.ok(run.err.equals(Buffer.from([0xff, 0])));
  assert.deepEqual([run.exited.verdict, run.exited.code], ["VERDICT_EXITED", 7]);
  assert.equal(run.exited.signal, undefined);
  assert.equal(run.exited.usage.stdoutBytes, 256 * 64);
  assert.ok(run.events.includes("accepted"));
});

test("stdin is live", async (connection) => {
  const code = "for line in open(0): print(line.upper(), end='', flush=True)\nprint('end')";
  let run = connection.begin(code, { stdin: true });
  for (const word of ["one", "two"]) {
    run.send({ stdin: Buffer.from(`${word}\n`) });
    await run.until(`${word.toUpperCase()}\n`);
  }
  run.send({ closeStdin: {} });
  await run.end();
  assert.equal(text(run), "ONE\nTWO\nend\n");
  // The end of the client's own stream closes it too.
  run = connection.begin("print(open(0).read())", { stdin: true });
  run.send({ stdin: Buffer.from("half") });
  run.call.end();
  assert.equal(text(await run.end()), "half\n");
});

test("much stdin comes back", async (connection) => {
  const block = Buffer.from(Array.from({ length: PIECE_BYTES }, (_, i) => (i * 7 + Math.floor(i / 251)) % 256));
  const pieces = Array.from({ length: 20 }, (_, i) => Buffer.concat([block.subarray(i), block.subarray(0, i)]));
  const code = "import sys, shutil; shutil.copyfileobj(sys.stdin.buffer, sys.stdout.buffer)";
  const run = connection.begin(code, { stdin: true, limits: { maxOutputBytes: 16 << 20 } });
  let sent = 0;
  let most = 0;
  for (const piece of pieces) {
    while (sent + piece.length - run.taken > UNTAKEN_BYTES) assert.ok(await run.take());
    run.send({ stdin: piece });
    sent += piece.length;
    most = Math.max(most, sent - run.taken);
  }
  run.send({ closeStdin: {} });
  await run.end();
  assert.equal(run.exited.code, 0);
  // A program may end before the client hears of the last piece.
  assert.ok(run.taken >= 4 << 20 && run.taken <= 5 << 20, String(run.taken));
  assert.ok(most <= UNTAKEN_BYTES);
  assert.equal(digest(run.out), digest(Buffer.concat(pieces)));
});

test("big output fits the default message size", async (connection) => {
  const code = "import sys; sys.stdout.buffer.write(b'x' * (8 << 20))";
  for (const buffered of [false, true]) {
    const run = await connection.run(code, { buffered, limits: { maxOutputBytes: 16 << 20 } });
    assert.ok(run.out.equals(Buffer.alloc(8 << 20, "x")));
    assert.equal(run.exited.stdoutTruncated, false);
    assert.ok(run.events.filter((event) => event === "stdout").length > 2);
  }
});

test("two runs share a connection", async (connection) => {
  const code = "for line in open(0): print(NAME, line, end='', flush=True)";
  const first = connection.begin(`NAME = 'a'\n${code}`, { stdin: true });
  const second = connection.begin(`NAME = 'b'\n${code}`, { stdin: true });
  for (const turn of [1, 2, 3]) {
    for (const [run, name] of [[first, "a"], [second, "b"]]) {
      run.send({ stdin: Buffer.from(`${turn}\n`) });
      await run.until(`${name} ${turn}\n`);
    }
  }
  assert.equal((await connection.status()).runsInFlight, 2);
  for (const run of [first, second]) {
    run.send({ closeStdin: {} });
    await run.end();
  }
  assert.equal(text(first), "a 1\na 2\na 3\n");
  assert.equal(text(second), "b 1\nb 2\nb 3\n");
});

test("secrets are masked", async (connection) => {
  const code =
    "import os, sys; print(os.environ['PLAIN'], os.environ['TOKEN']); sys.exit(len(os.environ['TOKEN']))";
  const run = await connection.run(code, {
    env: { PLAIN: "shown" },
    secrets: { TOKEN: "s3cr3t-v4lue" },
  });
  assert.ok(text(run).startsWith("shown "), text(run));
  assert.ok(!run.out.includes("s3cr3t-v4lue"));
  // The program has it.
  assert.equal(run.exited.code, 12);
});

test("time and memory run out", async (connection) => {
  let run = await connection.run("import time; time.sleep(600)", { limits: { timeoutMs: 500 } });
  assert.equal(run.exited.verdict, "VERDICT_TIMED_OUT");
  run = await connection.run("held = bytearray(200 << 20); print(len(held))", {
    limits: { memoryBytes: 64 << 20 },
  });
  assert.equal(run.exited.verdict, "VERDICT_OOM_KILLED");
  assert.equal(text(run), "");
});

test("signals reach the program", async (connection) => {
  const code =
    "import signal, sys\nsignal.signal(signal.SIGINT, lambda *_: sys.exit(5))\nprint('up', flush=True)\nwhile True: signal.pause()";
  let run = await connection.begin(code).until("up\n");
  run.send({ signal: { number: 2 } });
  await run.end();
  assert.deepEqual([run.exited.verdict, run.exited.code], ["VERDICT_EXITED", 5]);
  run = await connection.begin(code).until("up\n");
  run.send({ signal: { number: 9 } });
  await run.end();
  assert.deepEqual([run.exited.verdict, run.exited.signal], ["VERDICT_SIGNALLED", 9]);
  assert.equal(run.exited.code, undefined);
});
