// Numbers as people read them.

const NONE = "–";

export function count(value) {
  if (value === null || value === undefined) return NONE;
  for (const [factor, unit] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (value >= factor * 0.9995) return `${(value / factor).toFixed(value >= 9.995 * factor ? 1 : 2)}${unit}`;
  }
  return value >= 9.95 || Number.isInteger(value) ? value.toFixed(0) : value.toFixed(1);
}

export function whole(value) {
  return value === null || value === undefined ? NONE : value.toLocaleString("en");
}

export function mib(value) {
  return value === null || value === undefined ? NONE : value.toFixed(value < 100 ? 1 : 0);
}

export function latency(us) {
  if (us === null || us === undefined) return NONE;
  if (us < 999.5) return `${us.toFixed(0)} µs`;
  if (us < 999500) return `${(us / 1e3).toFixed(us < 99950 ? 1 : 0)} ms`;
  return `${(us / 1e6).toFixed(1)} s`;
}

export function ratio(value) {
  return value === null || value === undefined ? NONE : value.toFixed(2);
}

export function duration(seconds) {
  const s = Math.floor(seconds);
  const days = Math.floor(s / 86400), hours = Math.floor(s / 3600) % 24, minutes = Math.floor(s / 60) % 60;
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min ${s % 60} s` : `${s} s`;
}

export function size(blocks) {
  const gib = blocks / 262144;
  return gib >= 1024 ? `${(gib / 1024).toFixed(2)} TiB` : gib >= 1 ? `${gib.toFixed(1)} GiB` : `${(gib * 1024).toFixed(0)} MiB`;
}

export function percent(part) {
  return `${(part * 100).toFixed(part > 0 && part < 0.0995 ? 1 : 0)} %`;
}

// A child of the page with text: never HTML, whatever the text is.
export function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

export function svg(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}
