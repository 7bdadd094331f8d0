// The page: asks the daemon every two seconds while it is visible, and shows the answers.
//
// Everything from the daemon goes into the page as text (textContent, setAttribute of numbers), never as HTML.

import { BandMap } from "./band_map.js";
import { Chart } from "./charts.js";
import { count, duration, element, latency, mib, percent, ratio, size, svg, whole } from "./format.js";
import { between } from "./rates.js";

const PERIOD_MS = 2000;
const ANSWER_TIMEOUT_MS = 10000;
const KEPT_S = 1800;
const POINTS_MAX = 2000;
// Longer than this without an answer, and the daemon's history is fetched again.
const STALE_S = 15;
const ROWS_KEPT = 3;

const by = (id) => document.getElementById(id);
const put = (id, text) => { const at = by(id); if (at.textContent !== text) at.textContent = text; };

const map = new BandMap(by("map"), by("map-frame"), by("legend"), by("band"));
const charts = [
  new Chart(by("throughput"), [
    { key: "read_mib_s", label: "reads" }, { key: "write_mib_s", label: "writes" },
    { key: "media_mib_s", label: "to base" }, { key: "gc_mib_s", label: "moved" },
  ], mib, { tick: (value) => String(Number(value.toPrecision(3))) }),
  new Chart(by("latency"), [{ key: "read_p99_us", label: "reads" }, { key: "write_p99_us", label: "writes" }], latency,
    { log: true }),
  new Chart(by("amplification"), [{ key: "write_amplification", label: "now" }], ratio, { least: 1 }),
  new Chart(by("freebands"), [{ key: "free_bands", label: "now" }], whole, { whole: true, least: 4 }),
];

let chosen = location.hash.slice(1);
let points = [];
let last = null; // {at, stats} of the last answer
let process = ""; // of the daemon
let turn = 0; // counts choices; answers for an earlier one are dropped
let timer = 0;

class Gone extends Error {}

async function ask(path) {
  let answer;
  try {
    answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(ANSWER_TIMEOUT_MS) });
  } catch (error) {
    throw new Gone("The daemon does not answer. This page retries until it does.");
  }
  if (!answer.ok) throw new Gone(`The daemon answers with an error: ${(await answer.text()).trim()}`);
  return answer;
}

async function poll() {
  const mine = turn;
  try {
    const state = await (await ask(`api/state?ftl=${encodeURIComponent(chosen)}`)).json();
    if (mine !== turn) return;
    showDaemon(state);
    if (state.chosen !== chosen) choose(state.chosen || "", { again: false });
    const description = state.ftls.find((each) => each.uuid === chosen);
    if (description) {
      await follow(description, state.stats, mine);
    } else {
      by("main").hidden = true;
      banner("The daemon has no FTLs. Create one with spdk-ftl create, or spdk-rpc bdev_ftl_create.");
    }
  } catch (error) {
    if (mine === turn) lost(error);
  }
}

async function follow(description, stats, mine) {
  const now = performance.now() / 1000;
  const stale = !last || now - last.at > STALE_S || last.process !== process;
  if (stale) {
    const told = await (await ask(`api/history?ftl=${encodeURIComponent(chosen)}`)).json();
    if (mine !== turn) return;
    points = told.rows.map((row) => Object.fromEntries(told.columns.map((name, i) => [name, row[i]])));
  }
  const rates = last && stats && !stale ? between(last.stats, stats, now - last.at) : null;
  last = { at: now, stats, process };
  if (rates) {
    points.push({ time: Date.now() / 1000, ...rates, free_bands: stats.free_bands, user_share: stats.user_share });
    const from = Date.now() / 1000 - KEPT_S;
    while (points.length && (points[0].time < from || points.length > POINTS_MAX)) points.shift();
  }
  const bands = await fetchBands();
  if (mine !== turn) return;
  if (!bands) map.clear();
  by("main").hidden = false;
  showState(description);
  if (stats) showStats(description, stats, rates || points[points.length - 1] || null);
  by("main").classList.toggle("empty", !stats);
  if (bands) map.take(bands);
  for (const chart of charts) chart.set(points);
}

async function fetchBands() {
  const answer = await ask(`api/bands?ftl=${encodeURIComponent(chosen)}&since=${encodeURIComponent(map.cursor)}`);
  return answer.status === 204 ? null : answer.arrayBuffer();
}

function choose(uuid, { again }) {
  chosen = uuid;
  history.replaceState(null, "", uuid ? `#${uuid}` : location.pathname);
  turn += again ? 1 : 0;
  points = [];
  last = null;
  map.clear();
  by("chooser").value = uuid;
  if (again) soon(0);
}

// --- what is shown

function banner(text) {
  put("banner", text);
  by("banner").hidden = !text;
}

function lost(error) {
  banner(error instanceof Gone ? error.message : `This page has an error: ${error.message}`);
  put("badge", "no answer");
  by("badge").className = "badge bad";
  if (!(error instanceof Gone)) console.error(error);
}

function showDaemon({ daemon, ftls }) {
  process = `${daemon.pid} ${daemon.version}`;
  put("daemon", `daemon ${daemon.version}, process ${daemon.pid}, up ${duration(daemon.uptime_s)}`);
  const several = new Set(ftls.map((each) => each.target)).size > 1;
  const label = (each) => `${each.name}${several ? ` on ${each.target}` : ""} (${each.state})`;
  const chooser = by("chooser");
  const same = chooser.options.length === ftls.length && ftls.every((each, i) => chooser.options[i].value === each.uuid);
  if (same) {
    ftls.forEach((each, i) => { if (chooser.options[i].text !== label(each)) chooser.options[i].text = label(each); });
  } else {
    chooser.replaceChildren(...ftls.map((each) => {
      const option = element("option", label(each));
      option.value = each.uuid;
      return option;
    }));
    chooser.value = chosen;
  }
}

const KINDS = { online: "good", read_only: "bad", failed: "bad" };

function showState(ftl) {
  put("badge", ftl.state);
  by("badge").className = `badge ${KINDS[ftl.state] || "wait"}`;
  document.title = `${ftl.name} ${ftl.state} – spdk-ftl`;
  put("where", `on ${ftl.base_bdev}${ftl.num_blocks ? `, ${size(ftl.num_blocks)}` : ""}`);
  banner(ftl.error || ftl.waiting_for || ftl.progress || "");
  if (!by("main").classList.contains("empty")) return;
  for (const each of document.querySelectorAll(".tiles dd, #gc-why, #gc-policy")) each.textContent = "–";
  by("gauge").replaceChildren();
  by("moves").replaceChildren();
  by("facts").replaceChildren(...fact("State", `${ftl.state} since ${time(ftl.since)}`));
}

function time(iso) {
  const at = new Date(iso);
  return Number.isNaN(at.getTime()) ? iso : at.toLocaleString([], { dateStyle: "short", timeStyle: "short" });
}

function showStats(ftl, stats, rates) {
  const of = (key) => rates ? rates[key] : null;
  put("read-iops", `${count(of("read_iops"))} IOPS`);
  put("read-mib", `${mib(of("read_mib_s"))} MiB/s`);
  put("write-iops", `${count(of("write_iops"))} IOPS`);
  put("write-mib", `${mib(of("write_mib_s"))} MiB/s`);
  put("read-p99", latency(of("read_p99_us")));
  put("read-p50", half(of("read_p50_us"), "reads"));
  put("write-p99", latency(of("write_p99_us")));
  put("write-p50", half(of("write_p50_us"), "writes"));
  put("wa", ratio(of("write_amplification")));
  put("wa-all", `${ratio(stats.write_amplification)} since load`);
  put("free", whole(stats.free_bands));
  put("free-of", `of ${whole(ftl.num_bands)}`);
  put("share", `${stats.user_share} %`);
  put("limit", stats.limit === "none" ? "no limit in force" : `limit ${stats.limit} in force`);
  showCollection(stats, rates);
  showFacts(ftl, stats, rates);
}

function half(us, what) {
  return us === null || us === undefined ? `no ${what}` : `half took at most ${latency(us)}`;
}

const REASONS = {
  endangered: "a zone has failed", urgent: "few bands are free", threshold: "enough is invalid",
};

function showCollection(stats, rates) {
  const start = stats.limits.start ? stats.limits.start.free_bands : 0;
  const free = `${whole(stats.limit_free_bands)} band${stats.limit_free_bands === 1 ? " is" : "s are"} free`;
  const moving = stats.active_relocs;
  let why;
  if (moving) {
    why = `It is moving ${moving} band${moving === 1 ? "" : "s"}: ${free}, and it keeps more than ${whole(start)}.`;
  } else if (stats.limit_free_bands > start) {
    why = `It is idle: ${free}, and it starts at ${whole(start)}.`;
  } else {
    why = `It moves nothing: ${free}, but no band is worth moving yet.`;
  }
  const waited = rates && rates.throttled ? ` Writes waited ${percent(rates.throttled)} of the time.` : "";
  const throttled = stats.user_share < 100 ? ` Limit ${stats.limit} leaves hosts ${stats.user_share} % of writes.` : "";
  put("gc-why", why + throttled + waited);
  const rows = stats.moves.length ? stats.moves.map(moveRow) : [noMoves()];
  // The table keeps its height, so that what is below it stands still.
  while (rows.length < Math.min(ROWS_KEPT, stats.max_active_relocs)) rows.push(blankRow());
  by("moves").replaceChildren(...rows);
  const policy = stats.policy_replaced
    ? `${stats.policy_in_use} in place of ${stats.reloc_policy}: ${stats.policy_replaced}` : stats.reloc_policy;
  put("gc-policy", `The band with the highest merit is next. Policy ${policy}. A band counts if ${stats.invalid_thld} % ` +
    "of it are invalid; when few bands are free, any gain counts.");
  gauge(stats);
}

function blankRow() {
  const row = element("tr", undefined, "blank"), cell = element("td", "\u00a0");
  cell.colSpan = 6;
  row.append(cell);
  return row;
}

function noMoves() {
  const row = element("tr"), cell = element("td", "no band is being moved", "quiet");
  cell.colSpan = 6;
  row.append(cell);
  return row;
}

function moveRow(move) {
  const row = element("tr");
  const total = move.valid_blocks + move.invalid_blocks;
  const left = element("td");
  const bar = element("progress");
  bar.max = Math.max(1, move.valid_blocks);
  bar.value = move.valid_blocks - move.left_blocks;
  bar.setAttribute("aria-label", `${move.left_blocks} of ${move.valid_blocks} blocks left`);
  left.append(bar, ` ${whole(move.left_blocks)}`);
  row.append(
    element("td", String(move.band)), element("td", REASONS[move.why] || move.why),
    element("td", total ? percent(move.invalid_blocks / total) : "–", "n"), element("td", whole(move.age), "n"),
    element("td", count(move.merit), "n"), left,
  );
  return row;
}

// Free bands against the thresholds of the limits.
function gauge(stats) {
  const at = by("gauge"), width = at.clientWidth, height = at.clientHeight;
  if (!width) return;
  at.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const limits = Object.entries(stats.limits);
  const top = Math.max(1, ...limits.map(([, each]) => each.free_bands)) * 1.6;
  const x = (bands) => Math.min(1, bands / top) * (width - 2) + 1;
  const more = stats.limit_free_bands > top ? " (beyond the scale)" : "";
  const parts = [
    svg("rect", { class: "track", x: 1, y: 20, width: width - 2, height: 14, rx: 3 }),
    svg("rect", { class: "have", x: 1, y: 20, width: Math.max(0, x(stats.limit_free_bands) - 1), height: 14, rx: 3 }),
    svg("text", { x: 1, y: 13 }, `${whole(stats.limit_free_bands)} bands free${more}`),
  ];
  // From the right to the left: where two labels would overlap, the more urgent one is left out; its mark stays.
  let free = width + 100;
  for (const [name, each] of [...limits].reverse()) {
    const label = `${name} ${whole(each.free_bands)}`;
    const half = label.length * 3.2;
    const place = Math.min(width - half, Math.max(half, x(each.free_bands)));
    parts.push(svg("line", { class: "mark", x1: x(each.free_bands), x2: x(each.free_bands), y1: 17, y2: 38 }));
    const share = `${each.user_share} %`;
    if (place + half < free) {
      parts.push(svg("text", { x: place, y: 49, "text-anchor": "middle" }, label));
      parts.push(svg("text", { x: place, y: 60, "text-anchor": "middle" }, share));
      free = place - half - 6;
    }
  }
  at.replaceChildren(...parts);
  at.setAttribute("aria-label", `${stats.limit_free_bands} bands free. ` + limits.map(([name, each]) =>
    `Limit ${name} at ${each.free_bands}: hosts get ${each.user_share} % of writes`).join(". "));
}

function fact(name, value, bad = false) {
  const pair = element("div");
  pair.append(element("dt", name), element("dd", value, bad ? "bad" : ""));
  return [pair];
}

function showFacts(ftl, stats, rates) {
  const scrub = stats.scrub;
  const trouble = ["faulted", "mending", "retired"].map((state) => [stats.bands[state] || 0, state]).filter(([n]) => n);
  const rows = [
    fact("State", `${ftl.state} since ${time(ftl.since)}`, KINDS[ftl.state] === "bad"),
    fact("Target", ftl.target),
    fact("Base bdev", ftl.base_bdev),
    fact("NV cache", ftl.cache ? `${ftl.cache}, ${stats.cache_state}` : "none", stats.cache_state === "given_up"),
    fact("Hosts connected", whole(ftl.hosts_connected)),
    fact("Lost blocks", whole(stats.lost_blocks), stats.lost_blocks > 0),
    fact("Failed zones", `${whole(stats.zone_faults)} since load, ${whole(stats.spare_zones)} spare left`, stats.zone_faults > 0),
    fact("Bands in trouble", trouble.map(([n, state]) => `${whole(n)} ${state}`).join(", ") || "none", trouble.length > 0),
    fact("Scrub", scrub.state === "running" ? `running, ${percent(scrub.progress || 0)}` : scrub.state),
    fact("Moved by GC", `${size(stats.gc_moved_blocks)}, now ${mib(rates ? rates.gc_mib_s : null)} MiB/s`),
    fact("Zone resets", `${whole(stats.zone_resets)} since load`),
    fact("Writes waited for a limit", duration(stats.throttled_ms / 1000)),
  ];
  by("facts").replaceChildren(...rows.flat());
}

// --- when

function soon(after) {
  clearTimeout(timer);
  timer = setTimeout(async () => {
    await poll();
    if (!document.hidden) soon(PERIOD_MS);
  }, after);
}

by("chooser").addEventListener("change", (event) => choose(event.target.value, { again: true }));
by("colouring").addEventListener("change", (event) => map.colourBy(event.target.value));
addEventListener("hashchange", () => {
  if (location.hash.slice(1) !== chosen) choose(location.hash.slice(1), { again: true });
});
document.addEventListener("visibilitychange", () => { if (!document.hidden) soon(0); });
soon(0);
