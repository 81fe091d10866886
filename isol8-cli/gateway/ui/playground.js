// The playground: a program goes out, and what it does comes back as it happens.

const VERDICTS = {
  exited: "Exited",
  signalled: "Killed by a signal",
  timed_out: "Out of time",
  oom_killed: "Out of memory",
  cancelled: "Cancelled",
  sandbox_lost: "Sandbox lost",
};

const playground = {
  programs: { ...PROGRAMS },
  runtime: "python",
  /** Ends the run that goes on. */
  abort: null,
  began: 0,
  output: new Output(byId("output"), (chars) => {
    tell(byId("dropped"), chars ? `the first ${count(chars)} characters are not shown` : "");
  }),
  installer: new Output(byId("install-output")),

  start() {
    for (const runtime of Object.keys(PROGRAMS)) {
      const input = make("input");
      Object.assign(input, { type: "radio", name: "runtime", value: runtime, id: `runtime-${runtime}` });
      input.checked = runtime === this.runtime;
      input.addEventListener("change", () => this.choose(runtime));
      const label = make("label", "", runtime);
      label.htmlFor = input.id;
      byId("runtimes").append(input, label);
    }
    byId("code").value = this.programs[this.runtime];
    byId("code").addEventListener("keydown", (event) => this.type(event));
    byId("example").addEventListener("click", () => {
      byId("code").value = PROGRAMS[this.runtime];
      byId("code").focus();
    });
    byId("playground").addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
      event.preventDefault();
      this.run();
    });
    byId("options").addEventListener("input", () => this.showOptions());
    byId("run").addEventListener("click", () => this.run());
    byId("stop").addEventListener("click", () => this.abort?.abort());
    this.showOptions();
    this.showResult([]);
  },

  choose(runtime) {
    this.programs[this.runtime] = byId("code").value;
    this.runtime = runtime;
    byId("code").value = this.programs[runtime];
  },

  /** Tab indents. Shift+Tab and what is held with other keys stay the browser's. */
  type(event) {
    if (event.key !== "Tab" || event.shiftKey || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    const spaces = this.runtime === "python" ? "    " : "  ";
    const { target } = event;
    // This one alone can be undone; where it is gone, the text is still right.
    if (!document.execCommand("insertText", false, spaces)) {
      target.setRangeText(spaces, target.selectionStart, target.selectionEnd, "end");
    }
  },

  /** What the closed options hold is said beside their name. */
  showOptions() {
    const filtered = byId("network").value === "filtered";
    byId("allow-field").hidden = !filtered;
    const set = [];
    if (byId("stdin").value) set.push("stdin");
    if (byId("timeout").value) set.push(`${byId("timeout").value} s`);
    for (const id of ["memory", "packages"]) if (byId(id).value.trim()) set.push(byId(id).value.trim());
    if (filtered) set.push("filtered network");
    if (byId("session").value.trim()) set.push(`session ${byId("session").value.trim()}`);
    tell(byId("options-set"), set.join(" \u00b7 "));
  },

  /** What is asked for. What is left empty is left to the daemon. */
  order() {
    const text = (id) => byId(id).value.trim();
    const request = { code: byId("code").value, runtime: this.runtime };
    const options = { network: byId("network").value };
    const order = { request, options };
    if (!byId("timeout").validity.valid) {
      throw new Refusal(400, { error: "the time limit is a number of seconds above 0" });
    }
    if (text("timeout")) request.timeoutMs = Math.max(1, Math.round(Number(text("timeout")) * 1000));
    if (byId("stdin").value) request.stdin = byId("stdin").value;
    if (text("packages")) request.installPackages = text("packages").split(/\s+/);
    if (text("memory")) options.memoryLimit = text("memory");
    if (text("session")) order.sessionId = text("session");
    if (options.network === "filtered") {
      const whitelist = text("allow").split("\n").map((line) => line.trim()).filter(Boolean);
      options.networkFilter = { whitelist };
    }
    return order;
  },

  async run() {
    if (this.abort) return;
    const abort = new AbortController();
    this.abort = abort;
    this.clear();
    try {
      const order = this.order();
      this.showSteps("setup", "installPackages" in order.request);
      await this.follow(order, abort.signal);
    } catch (error) {
      if (abort.signal.aborted) this.state("stopped", "Stopped");
      else this.fail(error);
    } finally {
      this.abort = null;
      this.finish();
    }
  },

  async follow(order, signal) {
    this.state("waiting", "Waiting for a sandbox");
    const response = await ask("execute/stream", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(order),
      signal,
    });
    // What has a sandbox without an installer before it is the program.
    if (!order.request.installPackages) this.step("code");
    this.state("running", "Running");
    for await (const event of events(response.body)) {
      if ("notice" in event) this.install("notice", `${event.notice}\n`);
      else if (event.type === "exit") return this.ended(event.result);
      else if (event.type === "error") throw new Refusal(0, event.error, response.headers.get("x-request-id"));
      else if (event.phase === "install") this.install(event.type, event.data);
      else {
        this.step(event.phase);
        this.output.add(event.type, event.data);
      }
    }
    throw new Error("the connection ended before the run did: how it ended is not known");
  },

  install(kind, text) {
    byId("install").hidden = false;
    if (kind !== "notice") this.step("install");
    this.installer.add(kind, text);
  },

  ended(result) {
    this.step("");
    const good = result.verdict === "exited" && result.exitCode === 0;
    const verdict = VERDICTS[result.verdict] ?? result.verdict;
    this.state(good ? "good" : "bad", result.verdict === "exited" ? `Exited with ${result.exitCode}` : verdict);
    this.showResult([
      ["Verdict", result.verdict],
      ["Exit code", String(result.exitCode)],
      ["Time", time(result.durationMs)],
      ["Start", result.warm ? "warm" : "cold"],
      ["Engine", result.engine],
      ["Peak memory", bytes(result.resourceUsage.peakMemoryBytes)],
      ["CPU", time(result.resourceUsage.cpuMs)],
      ["Output", result.truncated ? "truncated" : "complete"],
    ]);
  },

  fail(error) {
    const isRefusal = error instanceof Refusal;
    const body = isRefusal ? error.body : { error: error.message };
    // `fetch` says no more than that there was no answer.
    if (error instanceof TypeError) body.error = "the gateway does not answer, or the connection was lost";
    const lines = [make("p", "what", body.error)];
    for (const cause of body.causes ?? []) lines.push(make("p", "cause", `cause: ${cause}`));
    if (body.hint) lines.push(make("p", "hint", `hint: ${body.hint}`));
    const small = [body.kind, error.requestId && `request ${error.requestId}`].filter(Boolean);
    if (small.length) lines.push(make("p", "dim", small.join(" \u00b7 ")));
    byId("error").replaceChildren(...lines);
    byId("error").hidden = false;
    this.state("bad", isRefusal && error.status ? "Refused" : "Failed");
  },

  clear() {
    this.output.clear();
    this.installer.clear();
    byId("install").hidden = true;
    byId("error").hidden = true;
    this.showResult([]);
    byId("run").disabled = true;
    byId("stop").disabled = false;
    this.began = performance.now();
    this.ticking = setInterval(() => this.tick(), 100);
    this.tick();
  },

  finish() {
    this.output.end();
    this.installer.end();
    clearInterval(this.ticking);
    this.tick();
    this.step("");
    const hadFocus = document.activeElement === byId("stop");
    byId("run").disabled = false;
    byId("stop").disabled = true;
    if (hadFocus) byId("run").focus();
  },

  tick() {
    tell(byId("clock"), `${((performance.now() - this.began) / 1000).toFixed(1)} s`);
  },

  state(name, text) {
    byId("state").dataset.state = name;
    tell(byId("state"), text);
  },

  showSteps(current, installs) {
    byId("steps").querySelector("[data-step=install]").hidden = !installs;
    this.step(current);
  },

  step(current) {
    for (const item of byId("steps").children) {
      if (item.dataset.step === current) item.setAttribute("aria-current", "step");
      else item.removeAttribute("aria-current");
    }
  },

  showResult(pairs) {
    const empty = ["Verdict", "Exit code", "Time", "Start", "Engine", "Peak memory", "CPU", "Output"];
    const shown = pairs.length ? pairs : empty.map((name) => [name, "\u2013"]);
    const items = shown.map(([name, value]) => make("div", "", make("dt", "", name), make("dd", "", value)));
    byId("result").replaceChildren(...items);
  },
};
