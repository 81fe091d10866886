// What the dashboard tells, and what is done there.

import assert from "node:assert/strict";
import { ended, enter, lookAgain, scene, start } from "./browser.mjs";

const ends = async (page, verdict) =>
  Number((await page.locator(`[data-verdict=${verdict}] .number`).textContent()).replaceAll(",", ""));
const only = (value) => new RegExp(`^${value}$`);
const tile = (page, name) => page.locator(`[data-tile=${name}] .value`);
const known = (page) => page.locator("#link[data-state=good]").waitFor();
const go = (page, part) => page.getByRole("link", { name: part }).last().click();

scene("figures follow the runs", {}, async (page) => {
  await enter(page, "dashboard");
  await known(page);
  await page.locator("[data-verdict=exited]").waitFor();
  const [exited, dropped] = [await ends(page, "exited"), await ends(page, "dropped")];
  await go(page, "Playground");
  for (let n = 0; n < 3; n += 1) {
    await start(page, "python", "print(1)");
    assert.equal(await ended(page), "Exited with 0");
  }
  await start(page, "bash", "echo on; sleep 600");
  await page.locator("#output", { hasText: "on" }).waitFor();
  await go(page, "Dashboard");
  await page.locator("[data-tile=flight] .value", { hasText: /^1$/ }).waitFor();
  await page.locator("[data-verdict=exited] .number", { hasText: only(exited + 3) }).waitFor();
  assert.match(await tile(page, "p50").textContent(), /^[\d.]+ m?s$/);
  assert.match(await tile(page, "p99").textContent(), /^[\d.]+ m?s$/);
  assert.match(await tile(page, "hits").textContent(), /^\d+ %$/);
  const pool = page.locator("#pool tr", { hasText: "python" }).first();
  assert.match(await pool.textContent(), /python\s*native.*\d+ of \d+/);
  await go(page, "Playground");
  await page.getByRole("button", { name: "Stop" }).click();
  assert.equal(await ended(page), "Stopped");
  await go(page, "Dashboard");
  await page.locator("[data-tile=flight] .value", { hasText: /^0$/ }).waitFor();
  await page.locator("[data-verdict=dropped] .number", { hasText: only(dropped + 1) }).waitFor();
});

scene("a session is listed, and deleted after a second word", { expects: ["409"] }, async (page) => {
  await enter(page);
  await page.getByText("Input and options").click();
  await page.locator("#session").fill("ui-listed");
  await start(page, "bash", "echo on; sleep 600");
  await page.locator("#output", { hasText: "on" }).waitFor();
  await go(page, "Dashboard");
  const row = page.locator("[data-session=ui-listed]");
  await row.locator("td", { hasText: /^busy$/ }).waitFor();
  const remove = row.getByRole("button");
  await remove.click();
  assert.equal(await remove.textContent(), "Really delete");
  await remove.evaluate((button) => button.blur());
  assert.equal(await remove.textContent(), "Delete");
  // Its run goes on: that takes one word more.
  await remove.click();
  await remove.click();
  await page.locator("#sessions-error", { hasText: "ui-listed" }).waitFor();
  assert.equal(await remove.textContent(), "Stop its run and delete");
  await remove.click();
  await row.waitFor({ state: "detached" });
  await go(page, "Playground");
  assert.notEqual(await ended(page), "Exited with 0");
});

scene("an idle session goes at the second click", {}, async (page) => {
  await enter(page);
  await page.getByText("Input and options").click();
  await page.locator("#session").fill("ui-idle");
  await start(page, "bash", "true");
  assert.equal(await ended(page), "Exited with 0");
  await go(page, "Dashboard");
  const row = page.locator("[data-session=ui-idle]");
  await row.locator("td", { hasText: /^idle$/ }).waitFor();
  await row.locator("td", { hasText: / ago$/ }).waitFor();
  assert.equal(await row.locator("td").nth(1).textContent(), "bash");
  await row.getByRole("button").click();
  await row.getByRole("button").click();
  await row.waitFor({ state: "detached" });
  await page.getByText("No sessions.").waitFor();
});

const CRAFTED = String.raw`# HELP isol8_daemon_up Whether the daemon answers.
# TYPE isol8_daemon_up gauge
isol8_daemon_up 1
isol8_daemon_runs_in_flight 4
isol8_daemon_runs_queued 2
isol8_daemon_max_concurrent 10
isol8_daemon_runs_total 1234567
isol8_http_runs_total{verdict="timed_out"} 7
isol8_http_runs_total{verdict="of_a_newer_gateway"} 1
isol8_http_run_duration_seconds_bucket{le="0.01"} 0
isol8_http_run_duration_seconds_bucket{le="0.02"} 60
isol8_http_run_duration_seconds_bucket{le="120"} 98
isol8_http_run_duration_seconds_bucket{le="+Inf"} 100
isol8_daemon_pool_warm{engine="docker",runtime="python",key="a \"b\" \\ }<img src=x>"} 3
isol8_daemon_pool_target{engine="docker",runtime="python",key="a \"b\" \\ }<img src=x>"} 4
isol8_daemon_pool_making{engine="docker",runtime="python",key="a \"b\" \\ }<img src=x>"} 1
isol8_daemon_pool_hits_total{engine="docker",runtime="python",key="a \"b\" \\ }<img src=x>"} 75
isol8_daemon_pool_misses_total{engine="docker",runtime="python",key="a \"b\" \\ }<img src=x>"} 25
`;

scene("figures are read as Prometheus means them", {}, async (page) => {
  let text = CRAFTED;
  await page.route("**/metrics", (route) => route.fulfill({ body: text }));
  await enter(page, "dashboard");
  await known(page);
  for (const [name, value] of [["flight", "4"], ["rate", "0.0"], ["p50", "18 ms"], ["p99", "2 min"], ["hits", "75 %"]]) {
    assert.equal(await tile(page, name).textContent(), value, name);
  }
  await page.getByText("of 10, 2 waiting").waitFor();
  await page.getByText("1,234,567 since its start").waitFor();
  const bars = await page.locator("#times .bar-row").allTextContents();
  assert.deepEqual(bars, ["\u2264 10 ms0", "\u2264 20 ms60", "\u2264 2 min38", "> 2 min2"]);
  assert.equal(await ends(page, "timed_out"), 7);
  assert.equal(await ends(page, "of_a_newer_gateway"), 1);
  const cells = await page.locator("#pool tr td").allTextContents();
  assert.deepEqual(cells, ["python", "docker", 'a "b" \\ }<img src=x>', "3 of 4, 1 coming", "75", "25", "75 %"]);
  text = "isol8_daemon_up 0\n";
  await lookAgain(page);
  await page.getByText("daemon does not answer", { exact: true }).waitFor();
  assert.equal(await tile(page, "flight").textContent(), "\u2013");
  await page.getByText("No sandbox is kept warm yet.").waitFor();
});

scene("a lost connection is told, and found again", { expects: ["ERR_INTERNET_DISCONNECTED"] }, async (page, context) => {
  await enter(page, "dashboard");
  await known(page);
  await context.setOffline(true);
  await lookAgain(page);
  await page.getByText("Connection lost. Trying again in 2 s.").waitFor();
  // It waits longer each time.
  await page.getByRole("button", { name: "Try now" }).click();
  await page.getByText("Connection lost. Trying again in 4 s.").waitFor();
  assert.equal(await page.locator("#link-text").textContent(), "connection lost");
  await context.setOffline(false);
  await page.getByRole("button", { name: "Try now" }).click();
  await known(page);
  assert.ok(!(await page.locator("#lost").isVisible()));
});
