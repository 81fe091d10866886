// What a program wrote. It may be hostile and without end: it is shown as text,
// what a terminal would obey is made visible, and only the last part is held.

const MOST_CHARS = 1 << 20;
/** What an element costs on top of its text. */
const ELEMENT_CHARS = 64;
/** A block begins at a line after this much, and anywhere after the other. */
const BLOCK_CHARS = 4 << 10;
const LONGEST_BLOCK_CHARS = 64 << 10;

const COLOURS = /\x1b\[[0-9;:]*m/g;
/** The begin of a colour or of a line's end, whose rest comes with the next piece. */
const UNFINISHED = /(?:\x1b(?:\[[0-9;:]{0,32})?|\r)$/;
/** Controls, and marks that turn the direction of the text around them. */
const OBEYED = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;

function visible(character) {
  const code = character.charCodeAt(0);
  if (code < 0x20) return String.fromCharCode(0x2400 + code);
  if (code === 0x7f) return "\u2421";
  return `\u27e8U+${code.toString(16).toUpperCase().padStart(4, "0")}\u27e9`;
}

const harmless = (text) =>
  text.replace(COLOURS, "").replaceAll("\r\n", "\n").replace(OBEYED, visible);

class Output {
  /** `onDrop` hears how many characters are gone from the beginning. */
  constructor(element, onDrop = () => {}) {
    this.element = element;
    this.onDrop = onDrop;
    this.frame = 0;
    this.clear();
  }

  clear() {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    this.begun = new Map();
    this.waiting = [];
    this.waitingChars = 0;
    this.blocks = [];
    this.chars = 0;
    this.dropped = 0;
    this.element.replaceChildren();
    this.onDrop(0);
  }

  /** Adds a piece; the screen has it with its next frame. */
  add(kind, text) {
    text = (this.begun.get(kind) ?? "") + text;
    const begun = UNFINISHED.exec(text)?.[0] ?? "";
    this.begun.set(kind, begun);
    this.wait(kind, harmless(text.slice(0, text.length - begun.length)));
  }

  /** Nothing comes after this. */
  end() {
    for (const [kind, text] of this.begun) this.wait(kind, harmless(text));
    this.begun.clear();
  }

  wait(kind, text) {
    if (!text) return;
    const last = this.waiting.at(-1);
    if (last?.kind === kind && last.text.length < BLOCK_CHARS) {
      last.text += text;
      this.waitingChars += text.length;
    } else {
      this.waiting.push({ kind, text });
      this.waitingChars += text.length + ELEMENT_CHARS;
    }
    // A tab in the background has no frames: it must not gather either.
    while (this.waitingChars > MOST_CHARS && this.waiting.length > 1) {
      const { text: gone } = this.waiting.shift();
      this.waitingChars -= gone.length + ELEMENT_CHARS;
      this.dropped += gone.length;
    }
    this.frame ||= requestAnimationFrame(() => this.show());
  }

  show() {
    this.frame = 0;
    const { element } = this;
    const follows = element.scrollHeight - element.scrollTop - element.clientHeight < 24;
    for (const { kind, text } of this.waiting) this.place(kind, text);
    this.waiting = [];
    this.waitingChars = 0;
    while (this.chars > MOST_CHARS && this.blocks.length > 1) {
      const block = this.blocks.shift();
      block.element.remove();
      this.chars -= block.chars;
      this.dropped += block.text;
    }
    this.onDrop(this.dropped);
    if (follows) element.scrollTop = element.scrollHeight;
  }

  place(kind, text) {
    while (text) {
      const block = this.block();
      let end = text.length;
      if (block.text + end > BLOCK_CHARS) {
        const line = text.indexOf("\n", Math.max(0, BLOCK_CHARS - block.text));
        end = Math.min(line < 0 ? end : line + 1, LONGEST_BLOCK_CHARS - block.text);
      }
      this.put(block, kind, text.slice(0, end));
      text = text.slice(end);
    }
  }

  /** The block that takes what comes next. */
  block() {
    const last = this.blocks.at(-1);
    const isFull = last && (last.text >= LONGEST_BLOCK_CHARS || (last.text >= BLOCK_CHARS && last.isLine));
    if (last && !isFull) return last;
    const block = { element: make("div"), kind: null, node: null, text: 0, chars: 0, isLine: true };
    this.element.append(block.element);
    this.blocks.push(block);
    return block;
  }

  put(block, kind, text) {
    let cost = text.length;
    if (block.kind === kind) {
      block.node.appendData(text);
    } else {
      block.node = document.createTextNode(text);
      block.kind = kind;
      block.element.append(make("span", kind, block.node));
      cost += ELEMENT_CHARS;
    }
    block.isLine = text.endsWith("\n");
    block.text += text.length;
    block.chars += cost;
    this.chars += cost;
  }
}
