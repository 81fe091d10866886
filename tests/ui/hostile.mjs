// Programs that want to get out of their output and into the page.

import assert from "node:assert/strict";
import { createServer } from "node:http";
import { ended, enter, scene, shows, start } from "./browser.mjs";

const MARKUP = [
  "<img src=x onerror=\"window.hacked=1\">",
  "<script>window.hacked=1</script>",
  "</pre></main><script>window.hacked=1</script>",
  "<a href=\"javascript:window.hacked=1\">click</a>",
  "<style>body{display:none}</style>&lt;b&gt;",
].join("\n");

const elements = (page) => page.evaluate(() => document.querySelectorAll("img, script, style, iframe, main a").length);

scene("markup stays text, wherever it comes from", { expects: ["400"] }, async (page) => {
  await enter(page);
  const before = await elements(page);
  const quoted = JSON.stringify(MARKUP);
  await start(page, "python", `import sys\nprint(${quoted})\nprint(${quoted}, file=sys.stderr)`);
  assert.equal(await ended(page), "Exited with 0");
  assert.equal(await page.locator("#output .stdout").textContent(), `${MARKUP}\n`);
  assert.equal(await page.locator("#output .stderr").textContent(), `${MARKUP}\n`);
  await page.getByText("Input and options").click();
  await page.locator("#session").fill("<img src=x onerror=alert(1)>");
  await start(page, "python", "1");
  assert.equal(await ended(page), "Refused");
  await page.locator("#error", { hasText: "<img src=x onerror=alert(1)>" }).waitFor();
  assert.equal(await elements(page), before);
  assert.equal(await page.evaluate(() => window.hacked), undefined);
});

scene("what a terminal would obey is left out or made visible", {}, async (page) => {
  await enter(page);
  // The colour is cut in two by the flush, and the line's end as well.
  const program = `
import sys, time
say = lambda text: (sys.stdout.write(text), sys.stdout.flush(), time.sleep(0.1))
say("a\\x1b[3"); say("1mred\\x1b[0m\\r"); say("\\n")
say("\\x1b]0;title\\x07\\x1b[2J\\x00")
say("\\u202egnp.exe 10%\\r20%\\n")
`;
  await start(page, "python", program);
  assert.equal(await ended(page), "Exited with 0");
  await shows(page, "20%");
  assert.equal(
    await page.locator("#output").textContent(),
    "ared\n\u241b]0;title\u2407\u241b[2J\u2400\u27e8U+202E\u27e9gnp.exe 10%\u240d20%\n",
  );
});

scene("a flood does not fill the tab", {}, async (page) => {
  await enter(page);
  // 42 MB of lines, then many changes of the stream, then one line of 3 MB.
  const program = `
import os
for n in range(400): os.write(1, (b"%06d " % n + b"x" * 99 + b"\\n") * 1000)
for n in range(20000): os.write(1 + n % 2, b"%d\\n" % n)
os.write(1, b"y" * 3000000)
os.write(1, b"\\nthe end\\n")
`;
  await start(page, "python", program);
  await shows(page, "the end");
  assert.equal(await ended(page), "Exited with 0");
  const held = await page.locator("#output").evaluate((output) => ({
    chars: output.textContent.length,
    elements: output.querySelectorAll("*").length,
  }));
  assert.ok(held.chars <= (1 << 20) + (64 << 10), `${held.chars} characters`);
  assert.ok(held.elements <= 20_000, `${held.elements} elements`);
  assert.match(await page.locator("#dropped").textContent(), /^the first [\d,]+ characters are not shown$/);
});

const BROKEN = [
  "connect-src /elsewhere",
  "form-action /elsewhere?",
  "frame-src ",
  "img-src /elsewhere",
  "require-trusted-types-for trusted-types-sink",
  "require-trusted-types-for trusted-types-sink",
  "require-trusted-types-for trusted-types-sink",
  "style-src-attr inline",
  "style-src-elem /elsewhere",
];

// What a program could do that got into the page after all. It also shows that
// the other tests would have seen it.
scene("the browser holds the page to its policy", { expects: ["Content Security Policy", "requires 'Trusted"], breaks: BROKEN }, async (page) => {
  let asked = 0;
  const server = createServer((_, answer) => {
    asked += 1;
    answer.end();
  });
  await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
  await enter(page);
  await page.evaluate(async (elsewhere) => {
    const add = (tag, set) => {
      const element = Object.assign(document.createElement(tag), set);
      document.body.append(element);
      return element;
    };
    const frames = () => new Promise((next) => requestAnimationFrame(() => requestAnimationFrame(next)));
    const attempt = (act) => {
      try {
        act();
      } catch {
        // So it should be.
      }
    };
    attempt(() => (document.body.innerHTML = "<b>markup</b>"));
    attempt(() => add("script", { textContent: "window.hacked = 1" }));
    attempt(() => add("script", { src: elsewhere }));
    add("img", { src: elsewhere });
    add("iframe", { src: elsewhere });
    add("link", { rel: "stylesheet", href: elsewhere });
    document.body.setAttribute("style", "color: red");
    add("form", { action: elsewhere, method: "get" }).submit();
    await fetch(elsewhere).catch(() => {});
    await frames();
  }, `http://127.0.0.1:${server.address().port}/elsewhere`);
  server.close();
  assert.equal(asked, 0);
  assert.equal(await page.evaluate(() => window.hacked), undefined);
  assert.equal(await page.locator("#playground").isVisible(), true);
});
