// The page: the gate before it, and which of its two parts is shown.

const PARTS = ["playground", "dashboard"];

function showGate(message = "") {
  dashboard.pause();
  sessionStorage.removeItem(KEY_PLACE);
  byId("gate").hidden = false;
  for (const id of [...PARTS, "nav", "link", "forget", "lost"]) byId(id).hidden = true;
  tell(byId("gate-error"), message);
  document.title = "isol8";
  byId("key").focus();
}

function showPart() {
  if (heldKey() === null) return;
  const asked = location.hash.slice(1);
  const part = PARTS.includes(asked) ? asked : PARTS[0];
  byId("gate").hidden = true;
  for (const id of ["nav", "link", "forget"]) byId(id).hidden = false;
  for (const id of PARTS) byId(id).hidden = id !== part;
  for (const link of byId("nav").children) {
    if (link.hash === `#${part}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = part === "playground" ? "isol8 playground" : "isol8 dashboard";
  dashboard.resume();
}

/** Tries the key, and keeps it if it opens. */
async function open(key) {
  byId("open").disabled = true;
  tell(byId("gate-error"), "");
  try {
    await ask("metrics", { key });
    sessionStorage.setItem(KEY_PLACE, key);
    byId("key").value = "";
    showPart();
  } catch (error) {
    if (error instanceof Refusal && error.isOfKey) tell(byId("gate-error"), "This key does not open the gateway.");
    else if (error instanceof Refusal) tell(byId("gate-error"), error.message);
    else tell(byId("gate-error"), "The gateway does not answer.");
    byId("key").select();
  } finally {
    byId("open").disabled = false;
  }
}

byId("gate-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const key = byId("key").value.trim();
  // No other characters fit into a header.
  if (/^[\x20-\x7e]+$/.test(key)) open(key);
  else tell(byId("gate-error"), "This is no key: it has other characters than letters, digits and signs of ASCII.");
});

byId("forget").addEventListener("click", () => {
  sessionStorage.removeItem(KEY_PLACE);
  // Nothing stays: no program, no output, and no run that goes on.
  location.reload();
});

window.addEventListener("hashchange", showPart);

dashboard.onKeyRefused = () => showGate("The key is no longer valid.");
playground.start();
dashboard.start();
if (heldKey() === null) showGate();
else showPart();
