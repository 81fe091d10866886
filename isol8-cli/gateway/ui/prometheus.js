// The text of /metrics, read back into numbers.

/** Samples by the name of their family: `Map<string, {labels, value}[]>`. */
function samples(text) {
  const families = new Map();
  for (const line of text.split("\n")) {
    const parts = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/.exec(line);
    if (!parts) continue;
    const labels = {};
    for (const [, name, value] of (parts[2] ?? "").matchAll(/([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g)) {
      labels[name] = value.replace(/\\(.)/g, (_, c) => (c === "n" ? "\n" : c));
    }
    const found = families.get(parts[1]) ?? [];
    found.push({ labels, value: number(parts[3]) });
    families.set(parts[1], found);
  }
  return families;
}

const number = (text) => (text === "+Inf" ? Infinity : Number(text));

/** The classes of a histogram without labels, each with what is in it alone. */
function classes(families, name) {
  let below = 0;
  let from = 0;
  return (families.get(`${name}_bucket`) ?? []).map(({ labels, value }) => {
    const one = { from, to: number(labels.le), count: value - below };
    [below, from] = [value, one.to];
    return one;
  });
}

/**
 * The value below which a share of all lies, as Prometheus itself guesses it:
 * evenly within a class, and no more than the begin of the last one. `null`
 * without any.
 */
function quantile(all, share) {
  const total = all.reduce((sum, { count }) => sum + count, 0);
  let rest = share * total;
  for (const { from, to, count } of all) {
    if (count > 0 && rest <= count) return to === Infinity ? from : from + ((to - from) * rest) / count;
    rest -= count;
  }
  return total > 0 ? all.at(-1).from : null;
}
