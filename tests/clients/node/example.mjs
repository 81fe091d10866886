// Adds up numbers in a sandbox: input while it runs, output as it comes.

import { accessSync, constants } from "node:fs";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const PROGRAM = `
total = 0
for line in open(0):
    total += int(line)
    print("so far:", total, flush=True)
`;

// The daemon of the system, if there is one, else your own.
function socket() {
  const { ISOL8_SOCKET, XDG_RUNTIME_DIR } = process.env;
  const own = XDG_RUNTIME_DIR ? `${XDG_RUNTIME_DIR}/isol8` : `/tmp/isol8-${process.getuid()}`;
  const answers = (folder) => {
    try {
      accessSync(`${folder}/isol8d.sock`, constants.W_OK);
      return true;
    } catch {
      return false;
    }
  };
  return ISOL8_SOCKET || `${["/run/isol8", own].find(answers) ?? own}/isol8d.sock`;
}

const definitions = loader.loadSync("isol8/v1/run.proto", {
  includeDirs: ["proto"],
  enums: String,
  longs: Number,
  oneofs: true,
});
const { RunService } = grpc.loadPackageDefinition(definitions).isol8.v1;
const ErrorDetail = definitions["isol8.v1.ErrorDetail"];

async function addUp(client, numbers) {
  const call = client.run();
  const say = () => call.write({ stdin: Buffer.from(`${numbers.shift()}\n`) });
  call.write({ start: { runtime: "RUNTIME_PYTHON", code: Buffer.from(PROGRAM), stdin: true } });
  say();
  let exited;
  for await (const event of call) {
    if (event.event === "stdout") {
      // A piece may end anywhere: bytes, not text, and not lines.
      process.stdout.write(event.stdout);
      for (const byte of event.stdout) {
        if (byte !== 10) continue;
        if (numbers.length > 0) say();
        else call.end();
      }
    } else if (event.event === "stderr") process.stderr.write(event.stderr);
    else if (event.event === "exited") exited = event.exited;
  }
  return exited;
}

const client = new RunService(`unix:${socket()}`, grpc.credentials.createInsecure());
try {
  const exited = await addUp(client, [20, 20, 2]);
  console.log(exited.verdict, exited.code);
} catch (error) {
  const [details] = error.metadata?.get("grpc-status-details-bin") ?? [];
  const hint = details && ErrorDetail.deserialize(details).hint;
  console.error(`error: ${error.details ?? error}` + (hint ? `\nhint: ${hint}` : ""));
  process.exitCode = 1;
} finally {
  client.close();
}
