// The page's elements, and how values look. Text only ever becomes text: nothing
// in here takes markup.

const byId = (id) => document.getElementById(id);

/** An element with a class, and children that are elements or text. */
function make(tag, className = "", ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

/** An element of a drawing. */
function draw(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Sets text where it has changed, so that nothing else is drawn anew. */
function tell(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const count = (value) => value.toLocaleString("en");

function time(ms) {
  if (ms < 9.95) return `${ms.toFixed(1)} ms`;
  if (ms < 999.5) return `${Math.round(ms)} ms`;
  if (ms < 59_950) return `${(ms / 1000).toFixed(ms < 9995 ? 2 : 1)} s`;
  return span(ms / 1000);
}

/** A time in which a person lives. */
function span(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const units = [["d", 86_400], ["h", 3600], ["min", 60], ["s", 1]];
  const first = units.findIndex(([, length]) => whole >= length);
  if (first < 0) return "0 s";
  const [name, length] = units[first];
  const [smaller, part] = units[first + 1] ?? ["", 1];
  const rest = Math.floor((whole % length) / part);
  return `${Math.floor(whole / length)} ${name}${rest ? ` ${rest} ${smaller}` : ""}`;
}

function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}
