// The gateway: requests with the key, what it refuses, and the stream of a run.

/** The key lives in this tab, and in no address. */
const KEY_PLACE = "isol8-key";
const heldKey = () => sessionStorage.getItem(KEY_PLACE);

/** A run's stream has no longer event than this many characters. */
const MOST_EVENT_CHARS = 32 << 20;

/** The gateway said no, with the error body that it says it with. */
class Refusal extends Error {
  constructor(status, body, requestId) {
    super(body.error);
    this.status = status;
    this.body = body;
    this.requestId = requestId;
  }

  static async of(response) {
    let body;
    try {
      body = await response.json();
    } catch {
      body = {};
    }
    if (typeof body?.error !== "string") {
      body = { error: `the gateway answered with status ${response.status}` };
    }
    return new Refusal(response.status, body, response.headers.get("x-request-id"));
  }

  /** Whether it is the key that was refused: a rule has a kind. */
  get isOfKey() {
    return this.status === 401 || (this.status === 403 && !this.body.kind);
  }
}

/**
 * One request. Throws `Refusal` for every answer that is none, and what `fetch`
 * throws where there is no answer.
 *
 * The mode stays `cors`: in any other one the page's referrer policy would turn
 * the `Origin` of a POST into `null`, which the gateway takes for another page's.
 */
async function ask(path, { key = heldKey(), ...options } = {}) {
  const response = await fetch(path, {
    cache: "no-store",
    credentials: "omit",
    redirect: "error",
    ...options,
    headers: { ...options.headers, Authorization: `Bearer ${key}` },
  });
  if (!response.ok) throw await Refusal.of(response);
  return response;
}

/** The events of a run, and its notices as `{notice}`. Leaving the loop ends it. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const pieces = (rest + value).split("\n\n");
      rest = pieces.pop();
      if (rest.length > MOST_EVENT_CHARS) throw new Error("an event of the stream has no end");
      for (const piece of pieces) yield* read(piece);
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
}

function* read(piece) {
  for (const line of piece.split("\n")) {
    if (line.startsWith("data: ")) yield JSON.parse(line.slice(6));
    else if (line.startsWith(": ")) yield { notice: line.slice(2) };
  }
}
