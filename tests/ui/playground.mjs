// Programs that are run from the page.

import assert from "node:assert/strict";
import { ask, choose, editor, ended, enter, metric, scene, shows, start, until } from "./browser.mjs";

const result = async (page) => {
  const rows = await page.locator("#result > div").all();
  const pairs = rows.map(async (row) => [await row.locator("dt").textContent(), await row.locator("dd").textContent()]);
  return Object.fromEntries(await Promise.all(pairs));
};
const option = (page, name) => page.locator("#options").getByLabel(name);
const openOptions = (page) => page.getByText("Input and options").click();

scene("output comes while the program runs, and Stop ends it", {}, async (page) => {
  await enter(page);
  // It ends by nothing but a stop.
  await start(page, "python", "import time\nprint('first')\nwhile True: time.sleep(1)");
  await shows(page, "first");
  assert.equal(await page.locator("#state").textContent(), "Running");
  assert.equal(await page.locator("#steps [aria-current]").textContent(), "program");
  assert.equal(await metric("isol8_http_runs_in_flight"), 1);
  assert.equal(await metric("isol8_daemon_runs_in_flight"), 1);
  await page.getByRole("button", { name: "Stop" }).click();
  assert.equal(await ended(page), "Stopped");
  await until("the run's end in the gateway", async () => (await metric("isol8_http_runs_in_flight")) === 0);
  await until("the run's end in the daemon", async () => (await metric("isol8_daemon_runs_in_flight")) === 0);
  // What it has said stays, and the next run begins anew.
  assert.equal(await page.locator("#output").textContent(), "first\n");
  await start(page, "bash", "echo again");
  assert.equal(await ended(page), "Exited with 0");
  assert.equal(await page.locator("#output").textContent(), "again\n");
});

scene("both streams are told apart, and the end is told", {}, async (page) => {
  await enter(page);
  await start(page, "python", "import sys\nprint('out')\nprint('err', file=sys.stderr)\nraise SystemExit(3)");
  assert.equal(await ended(page), "Exited with 3");
  assert.equal(await page.locator("#output .stdout").textContent(), "out\n");
  assert.equal(await page.locator("#output .stderr").textContent(), "err\n");
  const told = await result(page);
  assert.equal(told.Verdict, "exited");
  assert.equal(told["Exit code"], "3");
  assert.equal(told.Engine, "native");
  assert.match(told.Start, /^(warm|cold)$/);
  assert.match(told.Time, /^[\d.]+ m?s$/);
  assert.match(told["Peak memory"], /^[\d.]+ MiB$/);
  assert.equal(told.Output, "complete");
});

scene("every runtime has an example that runs", {}, async (page) => {
  await enter(page);
  for (const [runtime, said] of [
    ["python", "2 ** 100"], ["node", "5! = 120"], ["bun", "Bun 1"], ["deno", "Mars"], ["bash", "and the network"],
  ]) {
    await choose(page, runtime);
    await editor(page).press("Control+Enter");
    assert.equal(await ended(page), "Exited with 0", runtime);
    await shows(page, said);
  }
  // What was written for one runtime is still there after another one.
  await editor(page).fill("mine");
  await choose(page, "node");
  await choose(page, "bash");
  assert.equal(await editor(page).inputValue(), "mine");
  await page.getByRole("button", { name: "Example" }).click();
  assert.match(await editor(page).inputValue(), /^echo /);
});

scene("the editor is used with the keyboard", {}, async (page) => {
  await enter(page);
  const code = editor(page);
  await code.fill("");
  await code.press("Tab");
  await code.pressSequentially("1");
  assert.equal(await code.inputValue(), "    1");
  await choose(page, "node");
  await code.fill("x");
  await code.press("Tab");
  assert.equal(await code.inputValue(), "x  ");
  await code.press("Control+z");
  assert.equal(await code.inputValue(), "x");
  await page.getByRole("radio", { name: "bun" }).focus();
  await page.keyboard.press("ArrowLeft");
  assert.ok(await page.getByRole("radio", { name: "node" }).isChecked());
  // The editor does not keep the keyboard.
  await code.press("Shift+Tab");
  assert.equal(await page.evaluate(() => document.activeElement.id), "example");
});

scene("options reach the program", {}, async (page) => {
  await enter(page);
  await openOptions(page);
  await option(page, "Standard input").fill("typed before\n");
  await option(page, "Session").fill("ui-options");
  await option(page, "Memory").fill("128m");
  await start(page, "bash", "cat > kept; cat kept");
  assert.equal(await ended(page), "Exited with 0");
  await shows(page, "typed before");
  assert.match(await page.locator("#options-set").textContent(), /stdin · 128m · session ui-options/);
  await option(page, "Standard input").fill("");
  await start(page, "bash", "cat kept");
  assert.equal(await ended(page), "Exited with 0");
  await shows(page, "typed before");

  await option(page, "Session").fill("");
  await option(page, "Time limit").fill("0.5");
  await start(page, "bash", "sleep 600");
  assert.equal(await ended(page), "Out of time");
  assert.equal((await result(page)).Verdict, "timed_out");
  await option(page, "Time limit").fill("");

  const proxy = "echo ${HTTP_PROXY:-no way out}";
  await start(page, "bash", proxy);
  assert.equal(await ended(page), "Exited with 0");
  await shows(page, "no way out");
  await option(page, "Network").selectOption("filtered");
  await option(page, "Allowed hosts").fill("example\\.com\n\n");
  await start(page, "bash", proxy);
  assert.equal(await ended(page), "Exited with 0");
  await shows(page, "127.0.0.1:8118");
  await ask("DELETE", "/session/ui-options");
});

scene("an error is shown with its hint", { expects: ["400", "409"] }, async (page) => {
  await enter(page);
  await openOptions(page);
  await option(page, "Memory").fill("lots");
  await start(page, "bash", "true");
  assert.equal(await ended(page), "Refused");
  await page.locator("#error", { hasText: "options.memoryLimit" }).waitFor();
  await option(page, "Memory").fill("");
  await option(page, "Session").fill("ui-error");
  await start(page, "bash", "true");
  assert.equal(await ended(page), "Exited with 0");
  await start(page, "python", "1");
  assert.equal(await ended(page), "Refused");
  await page.locator("#error .what", { hasText: "Cannot switch runtime" }).waitFor();
  await page.locator("#error .hint", { hasText: "hint: use " }).waitFor();
  await page.locator("#error", { hasText: /session_mismatch · request [\da-f]+/ }).waitFor();
  await option(page, "Session").fill("");
  await option(page, "Time limit").fill("-1");
  await start(page, "python", "1");
  assert.equal(await ended(page), "Refused");
  await page.locator("#error", { hasText: "the time limit is a number of seconds" }).waitFor();
  await option(page, "Time limit").fill("");
  await start(page, "bash", "true");
  assert.equal(await ended(page), "Exited with 0");
  assert.ok(!(await page.locator("#error").isVisible()));
  await ask("DELETE", "/session/ui-error");
});

scene("what the installer says stands apart", {}, async (page) => {
  await enter(page);
  await openOptions(page);
  await option(page, "Packages to install").fill("six==99.0");
  await start(page, "python", "print('never')");
  assert.equal(await ended(page), "Failed");
  await page.locator("#error .what", { hasText: "cannot install six==99.0" }).waitFor();
  await page.locator("#error .hint").waitFor();
  await page.getByText("Installer", { exact: true }).click();
  await page.locator("#install-output", { hasText: "ERROR" }).waitFor();
  assert.equal(await page.locator("#output").textContent(), "");
});
