// What the tests share: a connection, a run with what came of it, patience.

import assert from "node:assert/strict";
import { setTimeout as pause } from "node:timers/promises";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

export const SOCKET = process.env.ISOL8_SOCKET;
const TARGET = `unix:${SOCKET}`;
const PATIENCE_MS = 60_000;

const OPTIONS = { enums: String, longs: Number, oneofs: true, defaults: true };
const FILES = ["run", "session", "admin"].map((name) => `isol8/v1/${name}.proto`);

export const definitions = loader.loadSync(FILES, { ...OPTIONS, includeDirs: ["proto"] });
const { v1 } = grpc.loadPackageDefinition(definitions).isol8;

export const status = grpc.status;

// A client of another service than isol8's own, described by a file beside this one.
export function standard(file, pick) {
  const packages = grpc.loadPackageDefinition(loader.loadSync(file, OPTIONS)).grpc;
  return new (pick(packages))(TARGET, grpc.credentials.createInsecure());
}

// A connection as anybody would make it: no option has to be set.
export class Connection {
  constructor(options = {}) {
    const credentials = grpc.credentials.createInsecure();
    this.runs = new v1.RunService(TARGET, credentials, options);
    // Every client of a channel shares its connection.
    const channelOverride = this.runs.getChannel();
    this.admin = new v1.AdminService(TARGET, credentials, { channelOverride });
    this.sessions = new v1.SessionService(TARGET, credentials, { channelOverride });
  }

  status(wishes = {}) {
    return ask(this.admin, "status", {}, wishes);
  }

  begin(code, start = {}, options = {}) {
    return new Run(this.runs.run(new grpc.Metadata(), options)).start(code, start);
  }

  async run(code, start = {}) {
    return await this.begin(code, start).end();
  }

  // No run goes on or waits at the daemon.
  async untilIdle() {
    await until("the daemon has runs", async () => {
      const { runsInFlight, runsQueued } = await this.status();
      return runsInFlight === 0 && runsQueued === 0;
    });
  }

  close() {
    this.runs.close();
  }
}

// One call with one answer.
export function ask(client, method, request, wishes = {}) {
  return new Promise((resolve, reject) => {
    const deadline = Date.now() + PATIENCE_MS;
    client[method](request, new grpc.Metadata(wishes), { deadline }, (error, answer) =>
      error ? reject(error) : resolve(answer),
    );
  });
}

export async function until(what, holds) {
  const end = Date.now() + PATIENCE_MS;
  while (!(await holds())) {
    assert.ok(Date.now() < end, `still after ${PATIENCE_MS} ms: ${what}`);
    await pause(20);
  }
}

// The `ErrorDetail` of a failed call.
export function detail(error) {
  const [packed] = error.metadata.get("grpc-status-details-bin");
  return definitions["isol8.v1.ErrorDetail"].deserialize(packed);
}

// The call fails with this kind, and says why.
export async function refused(call, kind, code, words = "") {
  const error = await call.then(
    () => assert.fail("it was not refused"),
    (error) => error,
  );
  assert.equal(error.code, code, String(error));
  const told = detail(error);
  assert.equal(told.kind, kind, JSON.stringify(told));
  assert.equal(told.message, error.details);
  assert.ok(told.message.includes(words), told.message);
  return told;
}

// One run of the daemon.
export class Run {
  out = Buffer.alloc(0);
  err = Buffer.alloc(0);
  events = [];
  taken = 0;
  exited = undefined;
  headers = undefined;

  constructor(call) {
    this.call = call;
    this.reader = call[Symbol.asyncIterator]();
    call.on("metadata", (headers) => (this.headers = headers));
  }

  start(code, start = {}) {
    this.send({ start: { runtime: "RUNTIME_PYTHON", code: Buffer.from(code), ...start } });
    return this;
  }

  send(message) {
    return this.call.write(message);
  }

  // Takes one event; false at the end.
  async take() {
    const { done, value } = await this.reader.next();
    if (done) return false;
    this.events.push(value.event);
    if (value.event === "stdout") this.out = Buffer.concat([this.out, value.stdout]);
    if (value.event === "stderr") this.err = Buffer.concat([this.err, value.stderr]);
    if (value.event === "stdinTaken") this.taken += value.stdinTaken.bytes;
    if (value.event === "exited") this.exited = value.exited;
    return true;
  }

  // Takes events until the program has said this.
  async until(text) {
    while (!this.out.includes(text)) {
      if (!(await this.take())) assert.fail(`no ${text} in ${this.out} ${this.err}`);
    }
    return this;
  }

  // Takes all that comes; the last event is the verdict.
  async end() {
    while (await this.take());
    assert.equal(this.events.at(-1), "exited");
    assert.equal(this.events.filter((event) => event === "exited").length, 1);
    return this;
  }
}
