// Sessions: what stays, who is turned away, and files in and out.

import assert from "node:assert/strict";
import { createHash, randomUUID } from "node:crypto";
import { once } from "node:events";
import { ask, refused, status, until } from "./client.mjs";
import { test as onDaemon } from "./stage.mjs";

const INVALID = ["invalid_request", status.INVALID_ARGUMENT];
const ABSENT = ["not_found", status.NOT_FOUND];
const MISMATCH = ["session_mismatch", status.FAILED_PRECONDITION];
const BUSY = ["session_busy", status.FAILED_PRECONDITION];
const PIECE_BYTES = 256 << 10;

const digest = (bytes) => createHash("sha256").update(bytes).digest("hex");

// A session that may not be there yet.
class Session {
  name = `node-${randomUUID()}`;

  constructor(connection) {
    this.connection = connection;
    this.service = connection.sessions;
  }

  begin(code, start = {}) {
    return this.connection.begin(code, { session: this.name, ...start });
  }

  async run(code, start = {}) {
    return await this.begin(code, start).end();
  }

  async list(sizes = false) {
    return (await ask(this.service, "list", { sizes })).sessions;
  }

  remove(force = false) {
    return ask(this.service, "remove", { name: this.name, force });
  }

  // Entries are folders, or files with their content.
  put(path, ...entries) {
    return new Promise((resolve, reject) => {
      const call = this.service.put((error, answer) => (error ? reject(error) : resolve(answer)));
      // What was refused is told by the answer.
      call.on("error", () => {});
      const send = async (message) => {
        if (!call.write(message)) await once(call, "drain");
      };
      (async () => {
        await send({ start: { session: this.name, path: Buffer.from(path) } });
        for (const [name, content] of entries) {
          const kind = content === null ? "FILE_KIND_FOLDER" : "FILE_KIND_FILE";
          await send({ entry: { path: Buffer.from(name), kind, sizeBytes: content?.length ?? 0 } });
          for (let at = 0; at < (content?.length ?? 0); at += PIECE_BYTES) {
            await send({ data: content.subarray(at, at + PIECE_BYTES) });
          }
        }
        call.end();
      })().catch(reject);
    });
  }

  // Files and folders below a path; of a folder the content is `null`.
  async get(path, more = {}) {
    const found = new Map();
    let last;
    let done;
    for await (const message of this.service.get({ session: this.name, path: Buffer.from(path), ...more })) {
      if (message.message === "entry") {
        last = message.entry.path.toString();
        found.set(last, message.entry.kind === "FILE_KIND_FILE" ? Buffer.alloc(0) : null);
      } else if (message.message === "data") {
        found.set(last, Buffer.concat([found.get(last), message.data]));
      } else done = message.done;
    }
    assert.ok(done, "the last message says that all of it came");
    return found;
  }
}

function test(name, body) {
  onDaemon(name, async (connection) => {
    const session = new Session(connection);
    try {
      await body(session);
    } finally {
      for (const { name } of await session.list()) {
        await ask(session.service, "remove", { name, force: true });
      }
    }
  });
}

test("a session keeps its state", async (session) => {
  await session.run("open('kept', 'w').write('here')");
  const run = await session.run("print(open('kept').read())");
  assert.equal(run.out.toString(), "here\n");
  await until("the session is busy", async () => {
    const [{ name, runtime, state, sizeBytes }, ...more] = await session.list(true);
    assert.deepEqual([name, runtime, more], [session.name, "python", []]);
    if (state === "SESSION_STATE_BUSY") return false;
    assert.equal(state, "SESSION_STATE_IDLE");
    return sizeBytes >= "here".length;
  });
  await session.remove();
  await refused(session.remove(), ...ABSENT, session.name);
  assert.equal((await session.list()).length, 0);
});

test("a session says no", async (session) => {
  await session.run("1");
  await refused(session.run("1", { limits: { memoryBytes: 99 << 20 } }), ...MISMATCH);
  await refused(session.run("1", { runtime: "RUNTIME_BASH" }), ...MISMATCH);
  const run = await session.begin("print('up', flush=True); input()", { stdin: true }).until("up\n");
  await refused(session.remove(), ...BUSY);
  // Who comes next waits for its turn.
  const second = session.begin("print('second')");
  run.send({ stdin: Buffer.from("\n") });
  assert.equal((await run.end()).exited.code, 0);
  assert.equal((await second.end()).out.toString(), "second\n");
});

test("a full queue says when to come back", async (session) => {
  const first = await session.begin("print('up', flush=True); input()", { stdin: true }).until("up\n");
  // One more than may wait for a session.
  const runs = Array.from({ length: 65 }, () => session.begin("print('came')"));
  const ends = runs.map((run) => run.end().catch((error) => Promise.reject(Object.assign(error, { run }))));
  const full = await Promise.race(ends).then(() => assert.fail("it waits"), (error) => error.run);
  const told = await refused(ends[runs.indexOf(full)], "at_capacity", status.RESOURCE_EXHAUSTED, "64 runs");
  assert.ok(told.retryAfterMs > 0);
  // Those who go make room; those who stay have their turn.
  const [, ...leaving] = runs.filter((run) => run !== full);
  for (const run of leaving) run.call.cancel();
  first.send({ stdin: Buffer.from("\n") });
  await first.end();
  const ended = await Promise.allSettled(ends);
  const came = ended.filter(({ status }) => status === "fulfilled");
  assert.deepEqual(came.map(({ value }) => value.out.toString()), ["came\n"]);
});

test("files go in and out", async (session) => {
  const mib = Buffer.from(Array.from({ length: 1 << 20 }, (_, i) => (i * 31 + Math.floor(i / 255)) % 256));
  const content = Buffer.concat(Array(8).fill(mib));
  await session.run("1");
  const empty = Buffer.alloc(0);
  const put = await session.put("work", ["", null], ["big.bin", content], ["deep", null], ["deep/empty", empty]);
  assert.deepEqual([put.bytes, put.files, put.folders], [8 << 20, 2, 2]);
  const run = await session.run(
    "import hashlib; print(hashlib.sha256(open('work/big.bin', 'rb').read()).hexdigest())",
  );
  assert.equal(run.out.toString().trim(), digest(content));
  const found = await session.get("/sandbox/work");
  assert.deepEqual([...found.keys()].sort(), ["", "big.bin", "deep", "deep/empty"]);
  assert.equal(digest(found.get("big.bin")), digest(content));
  const names = await session.get("work", { namesOnly: true, depth: 1 });
  assert.deepEqual([...names.keys()].sort(), ["", "big.bin", "deep"]);
  await ask(session.service, "delete", { session: session.name, path: Buffer.from("work"), recursive: true });
  await refused(session.get("work"), ...ABSENT);
});

test("files stay inside", async (session) => {
  // Without a session there are no files.
  await refused(session.get("x"), ...ABSENT);
  await session.run("import os; os.symlink('/etc', 'link')");
  for (const path of ["/etc/passwd", "../../etc/passwd", "a/../../b"]) {
    await refused(session.get(path), ...INVALID);
    await refused(session.put(path, ["", Buffer.from("x")]), ...INVALID);
  }
  // A link is not followed.
  await assert.rejects(session.get("link/passwd"), (error) => error.code !== status.INTERNAL);
  await refused(session.put("x", ["../y", Buffer.from("x")]), ...INVALID);
});
