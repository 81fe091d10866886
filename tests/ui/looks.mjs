// Whether everybody can use it: narrow screens, both colour schemes, names.

import assert from "node:assert/strict";
import { enter, ended, scene, start } from "./browser.mjs";

/** How far apart two colours are, as WCAG counts it; 4.5 is enough for text. */
function contrast(one, other) {
  const light = (colour) => {
    const parts = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16) / 255);
    const [r, g, b] = parts.map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const [low, high] = [light(one), light(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}

const ON = {
  text: ["ground", "card", "sunken", "code-ground", "tint", "bad-tint"],
  dim: ["ground", "card", "sunken", "code-ground", "bad-tint"],
  bad: ["card", "code-ground", "bad-tint"],
  "on-accent": ["accent", "accent-strong"],
};

scene("text can be read in light and in dark", {}, async (page) => {
  await enter(page);
  for (const colorScheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme });
    const colours = await page.evaluate((on) => {
      const style = getComputedStyle(document.documentElement);
      const names = [...Object.keys(on), ...Object.values(on).flat()];
      return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
    }, ON);
    for (const [text, grounds] of Object.entries(ON)) {
      for (const ground of grounds) {
        const apart = contrast(colours[text], colours[ground]);
        assert.ok(apart >= 4.5, `${text} on ${ground} in ${colorScheme}: ${apart.toFixed(2)}`);
      }
    }
  }
});

scene("it fits a screen of 360 pixels", { viewport: { width: 360, height: 740 } }, async (page) => {
  await enter(page);
  await page.getByText("Input and options").click();
  await start(page, "bash", "printf 'wide%.0s' {1..500}");
  assert.equal(await ended(page), "Exited with 0");
  const width = () => page.evaluate(() => document.documentElement.scrollWidth);
  assert.equal(await width(), 360);
  await page.getByRole("link", { name: "Dashboard" }).click();
  await page.locator("#pool tr", { hasText: "bash" }).first().waitFor();
  assert.equal(await width(), 360);
});

scene("whatever can be used has a name", {}, async (page) => {
  await enter(page);
  await page.getByText("Input and options").click();
  const nameless = await page.evaluate(() => {
    const named = (element) => element.labels?.length || element.ariaLabel || element.textContent.trim();
    const used = [...document.querySelectorAll("button, input, select, textarea, a, summary, [tabindex]")];
    return used.filter((element) => !named(element) && !element.getAttribute("aria-labelledby")).map((element) => element.outerHTML);
  });
  assert.deepEqual(nameless, []);
  assert.equal(await page.locator("html").getAttribute("lang"), "en");
});
