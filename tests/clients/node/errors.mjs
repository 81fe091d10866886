// What is refused, in a form that a program can read.

import assert from "node:assert/strict";
import { Run, definitions, refused, status } from "./client.mjs";
import { test } from "./stage.mjs";

const INVALID = ["invalid_request", status.INVALID_ARGUMENT];
const MIB = 1 << 20;
const WAITS = "print('up', flush=True); input()";

// Field 1000, a text.
const NEWER = Buffer.from("\xc2\x3e\x03new", "latin1");

test("errors carry their detail", async (connection) => {
  const refuse = (words, start) => refused(connection.run("print(1)", start), ...INVALID, words);
  const cases = [
    ["`runtime` is not given", { runtime: 0 }],
    ["`99` is not a runtime", { runtime: 99 }],
    ["too little", { limits: { memoryBytes: 1 } }],
    ["too long", { limits: { timeoutMs: 2 ** 50 } }],
    ["16777217 bytes", { code: Buffer.alloc(16 * MIB + 1, "#") }],
    ["variable name", { env: { "1=": "x" } }],
    ["file extension", { extension: "../x" }],
    ["name", { session: "../other" }],
    ["--index-url", { install: ["--index-url=elsewhere"] }],
  ];
  for (const [words, start] of cases) await refuse(words, start);
  let told = await refuse("name", { session: "../other" });
  assert.ok(told.hint && told.causes.length > 0, JSON.stringify(told));
  // More than the daemon takes at all; it need not have read the whole.
  await refuse("could not be read", { code: Buffer.alloc(21 * MIB, "#") });
  // What is long is cut: it has to fit into headers.
  told = await refuse("", { session: "x".repeat(100_000) });
  assert.ok(told.message.length < 2000);
  // During a run.
  const run = await connection.begin(WAITS, { stdin: true }).until("up\n");
  run.send({ signal: { number: 19 } });
  await refused(run.end(), ...INVALID, "signal 19");
});

test("newer clients are understood", async (connection) => {
  const request = definitions["isol8.v1.RunRequest"];
  const event = definitions["isol8.v1.RunEvent"];
  const raw = (method) =>
    connection.runs.makeBidiStreamRequest(`/isol8.v1.RunService/${method}`, (bytes) => bytes, event.deserialize);
  const varint = (value) => (value < 128 ? [value] : [(value & 127) | 128, value >> 7]);
  // Unknown inside of `start`, and passed over.
  const [, , ...start] = request.serialize({
    start: { runtime: "RUNTIME_PYTHON", code: Buffer.from("print('known')") },
  });
  const newer = [...start, ...NEWER];
  let run = new Run(raw("Run"));
  run.call.write(Buffer.from([0x0a, ...varint(newer.length), ...newer]));
  assert.equal((await run.end()).out.toString(), "known\n");
  // A message of a kind that is unknown here could mean anything.
  run = new Run(raw("Run"));
  run.call.write(request.serialize({ start: { runtime: "RUNTIME_PYTHON", code: Buffer.from(WAITS), stdin: true } }));
  await run.until("up\n");
  run.call.write(NEWER);
  const told = await refused(run.end(), ...INVALID, "does not know");
  assert.ok(told.hint.includes("versions"));
  // So could a call.
  await assert.rejects(new Run(raw("Newer")).end(), { code: status.UNIMPLEMENTED });
});
