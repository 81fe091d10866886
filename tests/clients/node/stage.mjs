// A test with a connection of its own, on a daemon that does nothing else.

import node from "node:test";
import { Connection } from "./client.mjs";

export function test(name, body) {
  node(name, { timeout: 120_000 }, async () => {
    const connection = new Connection();
    try {
      await body(connection);
      await connection.untilIdle();
    } finally {
      connection.close();
    }
  });
}
