// The key: who has none stays outside, and it stays in one tab.

import assert from "node:assert/strict";
import { ended, enter, KEY, lookAgain, ORIGIN, scene, start } from "./browser.mjs";

scene("a wrong key is told", { expects: ["403"] }, async (page) => {
  await page.goto(`${ORIGIN}/ui`);
  const field = page.getByLabel("API key");
  assert.equal(await field.getAttribute("type"), "password");
  await field.fill("another-key");
  await page.keyboard.press("Enter");
  await page.getByText("This key does not open the gateway.").waitFor();
  assert.ok(!(await page.locator("#playground").isVisible()));
  assert.equal(await page.evaluate(() => sessionStorage.length), 0);
  await field.fill("caf\u00e9");
  await page.keyboard.press("Enter");
  await page.getByText("This is no key").waitFor();
});

scene("the key stays in its tab and is forgotten on demand", {}, async (page, context) => {
  await enter(page);
  const held = () => page.evaluate(() => [Object.values(sessionStorage), localStorage.length, document.cookie]);
  assert.deepEqual(await held(), [[KEY], 0, ""]);
  assert.equal(await page.locator("#key").inputValue(), "");
  assert.equal(await page.evaluate((key) => document.documentElement.outerHTML.includes(key), KEY), false);
  await page.reload();
  await page.locator("#playground").waitFor();
  const other = await context.newPage();
  await other.goto(`${ORIGIN}/ui`);
  await other.getByLabel("API key").waitFor();
  await other.close();
  await start(page, "bash", "echo said");
  assert.equal(await ended(page), "Exited with 0");
  await page.getByRole("button", { name: "Forget key" }).click();
  await page.getByLabel("API key").waitFor();
  assert.deepEqual(await held(), [[], 0, ""]);
  assert.equal(await page.locator("#output").textContent(), "");
});

scene("a key that is refused later leads back to the gate", { expects: ["403"] }, async (page) => {
  await enter(page);
  await page.evaluate(() => sessionStorage.setItem("isol8-key", "revoked"));
  await lookAgain(page);
  await page.getByText("The key is no longer valid.").waitFor();
  assert.ok(!(await page.locator("#playground").isVisible()));
  assert.equal(await page.evaluate(() => sessionStorage.length), 0);
});
