// Begins a run that never ends and says so: somebody will kill this process.

import { Connection } from "./client.mjs";

const run = new Connection().begin("import time; print('up', flush=True); time.sleep(600)");
await run.until("up\n");
console.log("up");
await run.end();
