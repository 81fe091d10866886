// The daemon itself, as its own client and as any gRPC tool sees it.

import assert from "node:assert/strict";
import { Connection, SOCKET, ask, standard } from "./client.mjs";
import { test } from "./stage.mjs";

test("the daemon tells about itself", async (connection) => {
  const before = await connection.status();
  const run = await connection.run("print(1)");
  const after = await connection.status();
  assert.equal(after.runsTotal, before.runsTotal + 1);
  assert.equal(after.socket, SOCKET);
  assert.equal(after.runsInFlight, 0);
  assert.ok(after.pid > 0);
  const chosen = after.engines.filter((engine) => engine.chosen);
  assert.deepEqual(chosen.map(({ healthy }) => healthy), [true]);
  assert.deepEqual(run.headers.get("isol8-version"), [after.version]);
  // Whatever a library says that the daemon is called.
  for (const name of [SOCKET, SOCKET.replaceAll("/", "%2F"), "localhost:80"]) {
    const other = new Connection({ "grpc.default_authority": name });
    assert.equal((await other.status()).pid, after.pid);
    other.close();
  }
  const { checks } = await ask(connection.admin, "doctor", {});
  assert.ok(checks.length > 0);
});

test("health and reflection answer", async () => {
  const health = standard("health.proto", ({ health }) => health.v1.Health);
  for (const service of ["", "isol8.v1.RunService"]) {
    assert.equal((await ask(health, "check", { service })).status, "SERVING");
  }
  health.close();

  const reflection = standard("reflection.proto", ({ reflection }) => reflection.v1.ServerReflection);
  const call = reflection.serverReflectionInfo();
  call.write({ listServices: "" });
  call.write({ fileContainingSymbol: "isol8.v1.Start" });
  call.end();
  const [services, files] = await call.toArray();
  const names = services.listServicesResponse.service.map(({ name }) => name);
  for (const name of ["Run", "Session", "Image", "Admin"]) {
    assert.ok(names.includes(`isol8.v1.${name}Service`), names.join());
  }
  const [file] = files.fileDescriptorResponse.fileDescriptorProto;
  assert.ok(file.includes("Exited"));
  reflection.close();
});
