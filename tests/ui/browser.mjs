// A browser, and pages in it that are watched: whatever a test does, its page asks
// nobody but the gateway, breaks no rule of its own policy, and has no error that
// the test did not expect.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { after, test } from "node:test";

const setting = (name) => {
  const value = process.env[name];
  assert.ok(value, `${name} is not set: this is started by tests/e2e/ui.rs`);
  return value;
};

export const ORIGIN = setting("ISOL8_UI_ORIGIN");
export const KEY = setting("ISOL8_UI_KEY");
/** No step of a test takes nearly as long. */
const PATIENCE_MS = 20_000;

const { chromium } = createRequire(`${setting("ISOL8_UI_BROWSER")}/`)("playwright-core");
// Its folder is one of this test's own, and new.
const browser = await chromium.launch({
  executablePath: "/usr/bin/chromium",
  headless: true,
  args: [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
  ],
});
after(() => browser.close());

/**
 * A test with a page of its own. `expects` are the errors that the console may
 * show, as pieces of their texts; a test that names one must see it. So it is with
 * `breaks`: what the page's policy must have kept from happening.
 */
export function scene(name, { expects = [], breaks = [], ...options }, play) {
  test(name, async () => {
    const context = await browser.newContext(options);
    try {
      const page = await context.newPage();
      page.setDefaultTimeout(PATIENCE_MS);
      const seen = await watch(page);
      await play(page, context);
      // What the policy stops is seen here too, as if it were sent.
      if (breaks.length === 0) assert.deepEqual([...seen.origins], [ORIGIN], "a request left the origin");
      for (const address of seen.addresses) assert.ok(!address.includes(KEY), `the key is in ${address}`);
      const broken = await page.evaluate(() => window.violations);
      assert.deepEqual(broken.toSorted(), breaks, "the policy was broken");
      const unexpected = seen.errors.filter((error) => !expects.some((text) => error.includes(text)));
      assert.deepEqual(unexpected, [], "errors of the page");
      for (const text of expects) assert.ok(seen.errors.some((error) => error.includes(text)), `no error with ${text}`);
    } finally {
      await context.close();
    }
  });
}

async function watch(page) {
  const seen = { origins: new Set(), addresses: [], errors: [] };
  page.on("request", (request) => {
    const address = new URL(request.url());
    seen.addresses.push(address.href);
    // The icon is in the page itself.
    if (address.protocol !== "data:") seen.origins.add(address.origin);
  });
  page.on("framenavigated", (frame) => seen.addresses.push(frame.url()));
  page.on("pageerror", (error) => seen.errors.push(String(error)));
  page.on("dialog", (dialog) => {
    seen.errors.push(`a dialog: ${dialog.message()}`);
    dialog.dismiss();
  });
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) seen.errors.push(message.text());
  });
  await page.addInitScript(() => {
    window.violations = [];
    addEventListener("securitypolicyviolation", (event) => {
      const blocked = event.blockedURI.replace(/^http:..127.0.0.1:\d+/, "");
      window.violations.push(`${event.effectiveDirective} ${blocked}`);
    });
  });
  return seen;
}

/** Goes to the page and opens the gateway. */
export async function enter(page, part = "playground") {
  await page.goto(`${ORIGIN}/ui#${part}`);
  await page.getByLabel("API key").fill(KEY);
  await page.getByRole("button", { name: "Open" }).click();
  await page.locator(`#${part}`).waitFor();
}

export const editor = (page) => page.getByRole("textbox", { name: "Program" });

/** Picks a runtime, as with the mouse. */
export const choose = (page, runtime) => page.locator(`label[for=runtime-${runtime}]`).click();

/** Puts a program into the editor and starts it. */
export async function start(page, runtime, code) {
  await choose(page, runtime);
  await editor(page).fill(code);
  await page.getByRole("button", { name: "Run", exact: true }).click();
}

/** Waits until the run that goes on is over, and gives what the page calls it. */
export async function ended(page) {
  await page.locator("#run:enabled").waitFor();
  return page.locator("#state").textContent();
}

/** Waits until the output has this text. */
export async function shows(page, text) {
  await page.locator("#output", { hasText: text }).waitFor();
}

/** Lets the page look anew, as when somebody comes back to its tab. */
export const lookAgain = (page) => page.evaluate(() => document.dispatchEvent(new Event("visibilitychange")));

/** A request past the page; the text of the answer. */
export async function ask(method, path) {
  const answer = await fetch(ORIGIN + path, { method, headers: { Authorization: `Bearer ${KEY}` } });
  assert.equal(answer.status, 200, `${method} ${path}`);
  return answer.text();
}

/** The value of a metric without labels. */
export async function metric(name) {
  const lines = (await ask("GET", "/metrics")).split("\n");
  return Number(lines.find((line) => line.startsWith(`${name} `))?.split(" ")[1]);
}

/** Waits for a state that no element shows. */
export async function until(what, holds) {
  const end = Date.now() + PATIENCE_MS;
  while (!(await holds())) {
    assert.ok(Date.now() < end, `waited in vain: ${what}`);
    await new Promise((next) => setTimeout(next, 50));
  }
}
