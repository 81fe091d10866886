// The dashboard: what the gateway and its daemon count, every two seconds.

const POLL_MS = 2000;
/** Between two tries when the gateway does not answer. */
const LONGEST_WAIT_MS = 30_000;
/** A gateway that takes longer is taken for lost. */
const ANSWER_MS = 10_000;
/** Points of the small curves. */
const HISTORY = 60;

const ENDS = ["exited", "signalled", "timed_out", "oom_killed", "cancelled", "sandbox_lost", "failed", "dropped"];
const BAD_ENDS = new Set(["timed_out", "oom_killed", "sandbox_lost", "failed"]);

const dashboard = {
  /** Called when the key is refused. */
  onKeyRefused: () => {},
  timer: 0,
  failures: 0,
  asking: null,
  rows: new Map(),
  flights: [],
  rates: [],
  last: null,

  start() {
    const tile = (id, name) => {
      const value = make("p", "value", "\u2013");
      const note = make("p", "dim", "\u00a0");
      const card = make("section", "card tile", make("h2", "", name), value, note);
      card.dataset.tile = id;
      byId("tiles").append(card);
      return { card, value, note };
    };
    this.tiles = {
      flight: tile("flight", "Runs in flight"),
      rate: tile("rate", "Runs per second"),
      p50: tile("p50", "Median run"),
      p99: tile("p99", "99th percentile"),
      hits: tile("hits", "Warm starts"),
      sessions: tile("sessions", "Sessions"),
    };
    for (const name of ["flight", "rate"]) {
      const line = draw("polyline", { points: "" });
      const box = { viewBox: "0 0 120 28", preserveAspectRatio: "none", class: "curve", "aria-hidden": "true" };
      this.tiles[name].card.append(draw("svg", box, line));
      this.tiles[name].line = line;
    }
    byId("retry").addEventListener("click", () => this.poll());
    document.addEventListener("visibilitychange", () => this.resume());
    this.showSessions([], 0);
    this.showPools([]);
  },

  /** Polls while somebody looks on and there is a key. */
  resume() {
    if (document.visibilityState === "visible" && heldKey() !== null) this.poll();
    else this.pause();
  },

  pause() {
    clearTimeout(this.timer);
    this.asking?.abort();
    this.asking = null;
  },

  async poll() {
    this.pause();
    const asking = new AbortController();
    this.asking = asking;
    const signal = AbortSignal.any([asking.signal, AbortSignal.timeout(ANSWER_MS)]);
    try {
      const metrics = await (await ask("metrics", { signal })).text();
      const families = samples(metrics);
      const isUp = families.get("isol8_daemon_up")?.[0].value === 1;
      const listed = isUp ? await ask("sessions", { signal }) : null;
      const sessions = listed ? (await listed.json()).sessions : [];
      if (asking !== this.asking) return;
      // By the gateway's clock: the browser's may go wrong.
      const now = Date.parse(listed?.headers.get("date") ?? "") || Date.now();
      this.failures = 0;
      this.showLink(isUp ? "good" : "bad", isUp ? "connected" : "daemon does not answer");
      this.show(families, sessions, now, isUp);
      this.timer = setTimeout(() => this.poll(), POLL_MS);
    } catch (error) {
      if (asking !== this.asking) return;
      if (error instanceof Refusal && error.isOfKey) this.onKeyRefused(error);
      else this.lost(error);
    }
  },

  lost(error) {
    const wait = Math.min(POLL_MS * 2 ** this.failures, LONGEST_WAIT_MS);
    this.failures += 1;
    // Rates over a gap would be wrong, and a new gateway counts from 0.
    this.last = null;
    const why = error instanceof Refusal ? `The gateway refuses to tell: ${error.message}` : "Connection lost";
    this.showLink("bad", error instanceof Refusal ? "refused" : "connection lost");
    tell(byId("lost-text"), `${why}. Trying again in ${wait / 1000} s.`);
    byId("lost").hidden = false;
    this.timer = setTimeout(() => this.poll(), wait);
  },

  showLink(state, text) {
    byId("link").dataset.state = state;
    tell(byId("link-text"), text);
    if (state === "good") byId("lost").hidden = true;
  },

  show(families, sessions, now, isUp) {
    byId("lost").hidden = true;
    const of = (name) => families.get(name)?.[0].value ?? 0;
    this.showLoad(of, isUp);
    const times = classes(families, "isol8_http_run_duration_seconds");
    this.showTimes(times);
    this.showEnds(families.get("isol8_http_runs_total") ?? []);
    this.showPools(pools(families));
    this.showSessions(sessions, now);
    const engines = (families.get("isol8_daemon_engine_healthy") ?? [])
      .map(({ labels, value }) => `${labels.engine} ${value ? "answers" : "does not answer"}`);
    tell(byId("daemon"), isUp
      ? [`daemon up for ${span(of("isol8_daemon_uptime_milliseconds") / 1000)}`,
        `${bytes(of("isol8_daemon_resident_bytes"))} resident`,
        `${count(of("isol8_http_connections"))} connections`,
        ...engines].join(" \u00b7 ")
      : "The isol8 daemon does not answer: see its log, or `isol8 doctor` on its host.");
  },

  showLoad(of, isUp) {
    const { flight, rate } = this.tiles;
    const going = of("isol8_daemon_runs_in_flight");
    tell(flight.value, isUp ? count(going) : "\u2013");
    tell(flight.note, `of ${count(of("isol8_daemon_max_concurrent"))}, ${count(of("isol8_daemon_runs_queued"))} waiting`);
    const total = of("isol8_daemon_runs_total");
    tell(rate.note, `${count(total)} since its start`);
    curve(flight.line, this.flights, going);
    const at = performance.now();
    const past = this.last;
    // Who looks again at once would see a rate of nothing, or of much too much.
    if (past && at - past.at < POLL_MS / 2) return;
    this.last = { total, at };
    // A daemon that was started anew counts from 0.
    const perSecond = past && total >= past.total ? ((total - past.total) * 1000) / (at - past.at) : 0;
    tell(rate.value, perSecond.toFixed(perSecond < 10 ? 1 : 0));
    curve(rate.line, this.rates, perSecond);
  },

  showTimes(all) {
    const total = all.reduce((sum, { count: runs }) => sum + runs, 0);
    for (const [name, share] of [["p50", 0.5], ["p99", 0.99]]) {
      const value = quantile(all, share);
      tell(this.tiles[name].value, value === null ? "\u2013" : time(value * 1000));
      tell(this.tiles[name].note, "through this gateway");
    }
    tell(byId("times-note"), `${count(total)} runs`);
    const most = Math.max(1, ...all.map(({ count: runs }) => runs));
    byId("times").replaceChildren(...all.map(({ from, to, count: runs }) => {
      const label = to === Infinity ? `> ${time(from * 1000)}` : `\u2264 ${time(to * 1000).replace(/\.0+ /, " ")}`;
      return bar(label, runs, most, "");
    }));
  },

  showEnds(found) {
    const counts = new Map(found.map(({ labels, value }) => [labels.verdict, value]));
    const names = [...new Set([...ENDS, ...counts.keys()])];
    const most = Math.max(1, ...counts.values());
    byId("ends").replaceChildren(...names.map((name) => {
      const row = bar(name.replaceAll("_", " "), counts.get(name) ?? 0, most, BAD_ENDS.has(name) ? "bad" : "");
      row.dataset.verdict = name;
      return row;
    }));
  },

  showPools(all) {
    const [hits, misses] = ["hits", "misses"].map((name) => all.reduce((sum, pool) => sum + pool[name], 0));
    tell(this.tiles.hits.value, hits + misses ? `${Math.round((hits / (hits + misses)) * 100)} %` : "\u2013");
    tell(this.tiles.hits.note, `${count(hits)} of ${count(hits + misses)} starts`);
    tell(byId("pool-note"), all.length ? `${count(all.reduce((sum, pool) => sum + pool.warm, 0))} warm` : "");
    const rows = all.map((pool) => {
      const share = pool.target ? Math.min(1, pool.warm / pool.target) : 0;
      const meter = draw("svg", { class: "meter", viewBox: "0 0 40 6", preserveAspectRatio: "none", "aria-hidden": "true" },
        draw("rect", { class: "ground", width: 40, height: 6, rx: 3 }),
        draw("rect", { class: "fill", width: 40 * share, height: 6, rx: 3 }));
      const warm = cell("number", `${pool.warm} of ${pool.target}${pool.making ? `, ${pool.making} coming` : ""}`);
      warm.append(meter);
      const starts = pool.hits + pool.misses;
      return make("tr", "", cell("strong", pool.runtime), cell("", pool.engine), cell("kind", pool.key), warm,
        cell("number", count(pool.hits)), cell("number", count(pool.misses)),
        cell("number", starts ? `${Math.round((pool.hits / starts) * 100)} %` : "\u2013"));
    });
    byId("pool").replaceChildren(...(rows.length ? rows : [nothing(7, "No sandbox is kept warm yet.")]));
  },

  /** Rows stay what they are, so that the focus stays where it is. */
  showSessions(sessions, now) {
    tell(this.tiles.sessions.value, count(sessions.length));
    tell(this.tiles.sessions.note, `${count(sessions.filter(({ isActive }) => isActive).length)} busy`);
    const rows = sessions.map((session) => {
      const row = this.rows.get(session.id) ?? this.row(session.id);
      const [, runtime, state, idle] = row.children;
      tell(runtime, session.runtime);
      tell(state, session.isActive ? "busy" : "idle");
      tell(idle, session.isActive ? "now" : `${span((now - Date.parse(session.lastAccessedAt)) / 1000)} ago`);
      return row;
    });
    this.rows = new Map(sessions.map(({ id }, at) => [id, rows[at]]));
    const shown = rows.length ? rows : [nothing(5, "No sessions. Name one in the playground's options.")];
    const body = byId("sessions");
    const isSame = shown.length === body.children.length && shown.every((row, at) => row === body.children[at]);
    if (!isSame) body.replaceChildren(...shown);
  },

  row(id) {
    const button = make("button", "quiet", "Delete");
    button.type = "button";
    button.setAttribute("aria-label", `Delete session ${id}`);
    const row = make("tr", "", cell("strong", id), cell("", ""), cell("", ""), cell("number", ""), make("td", "number", button));
    row.dataset.session = id;
    button.addEventListener("click", () => this.remove(id, button));
    return row;
  },

  /** The first click asks, the second one does it. */
  async remove(id, button) {
    const error = byId("sessions-error");
    tell(error, "");
    if (!button.dataset.armed) {
      button.dataset.armed = "yes";
      button.className = "danger";
      tell(button, "Really delete");
      button.addEventListener("blur", () => disarm(button), { once: true });
      return;
    }
    button.disabled = true;
    const force = button.dataset.armed === "force" ? "?force=true" : "";
    try {
      await ask(`session/${encodeURIComponent(id)}${force}`, { method: "DELETE" });
    } catch (caught) {
      button.disabled = false;
      button.focus();
      const body = caught instanceof Refusal ? caught.body : { error: "the gateway does not answer" };
      tell(error, [body.error, body.hint && `hint: ${body.hint}`].filter(Boolean).join("; "));
      if (body.kind === "session_busy") {
        button.dataset.armed = "force";
        tell(button, "Stop its run and delete");
      }
    }
    this.poll();
  },
};

function disarm(button) {
  // A button that is at work loses the focus by itself.
  if (button.disabled) return;
  delete button.dataset.armed;
  button.className = "quiet";
  tell(button, "Delete");
}

const cell = (className, text) => make("td", className, text);

function nothing(columns, text) {
  const only = make("td", "dim", text);
  only.colSpan = columns;
  return make("tr", "", only);
}

function bar(name, value, most, className) {
  const width = (100 * value) / most;
  const box = { viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" };
  const fill = draw("rect", { class: "fill", width, height: 8 });
  const drawing = draw("svg", box, draw("rect", { class: "ground", width: 100, height: 8 }), fill);
  return make("div", `bar-row ${className}`, make("span", "", name), drawing, make("span", "number", count(value)));
}

/** Adds a point to a curve, from the right. */
function curve(line, history, value) {
  history.push(value);
  if (history.length > HISTORY) history.shift();
  const most = Math.max(1, ...history);
  const points = history.map((one, at) => {
    const x = 120 - ((history.length - 1 - at) * 120) / (HISTORY - 1);
    return `${x.toFixed(1)},${(26 - (24 * one) / most).toFixed(1)}`;
  });
  line.setAttribute("points", points.join(" "));
}

/** The kinds of warm sandboxes, each with its figures. */
function pools(families) {
  const kinds = new Map();
  const names = { warm: "warm", target: "target", making: "making", hits: "hits_total", misses: "misses_total" };
  for (const [name, family] of Object.entries(names)) {
    for (const { labels, value } of families.get(`isol8_daemon_pool_${family}`) ?? []) {
      const id = JSON.stringify([labels.engine, labels.runtime, labels.key]);
      const empty = { warm: 0, target: 0, making: 0, hits: 0, misses: 0, ...labels };
      const kind = kinds.get(id) ?? empty;
      kind[name] = value;
      kinds.set(id, kind);
    }
  }
  return [...kinds.values()];
}
