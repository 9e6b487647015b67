"use strict";
/* The live page. `poll` asks for totals every two seconds and keeps them; whatever is shown follows from those and
 * from the past that the saver has kept. Names of metrics, routes and requests may be anybody's text: they get into
 * the page by textContent only. figures.js and charts.js come before this one. */

const POLL = 2000, POLL_HIDDEN = 15000, KEEP = 450, WINDOW = 10, STUCK = 5, MAX_EVENTS = 200;
const $ = (id) => document.getElementById(id);

/* State --------------------------------------------------------------------------------------- */

const state = { range: 900, search: "", paused: false, sort: {} };  // kept in the URL
let token = null;          // in memory only
let refused = false;       // all figures are, not only the requests being served
let etag = null, document_ = null, samples = [], past = null, pastRange = 0, serving = null, timer = 0, lost = null;

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  const range = Number(given.get("range"));
  state.range = [900, 3600, 86400].includes(range) ? range : 900;
  state.search = (given.get("q") || "").slice(0, 200);
  state.paused = given.get("paused") === "1";
  for (const table of ["routes", "workers"]) {
    const sort = given.get(table);
    if (sort) state.sort[table] = { column: Math.abs(parseInt(sort, 10)) - 1, down: !sort.startsWith("-") };
  }
}

function writeAddress() {
  const kept = new URLSearchParams();
  if (state.range !== 900) kept.set("range", state.range);
  if (state.search) kept.set("q", state.search);
  if (state.paused) kept.set("paused", "1");
  for (const [table, sort] of Object.entries(state.sort)) kept.set(table, (sort.down ? 1 : -1) * (sort.column + 1));
  history.replaceState(null, "", "#" + kept);
}

/* Requests --------------------------------------------------------------------------------------- */

async function ask(path, headers = {}) {
  if (token !== null) headers.Authorization = `Bearer ${token}`;
  const bound = new AbortController();
  const end = setTimeout(() => bound.abort(), 8000);
  try {
    return await fetch(path, { headers, cache: "no-store", credentials: "same-origin", signal: bound.signal });
  } finally {
    clearTimeout(end);
  }
}

async function poll() {
  clearTimeout(timer);
  try {
    await pollOnce();
    lost = null;
  } catch (error) {
    lost = lost || new Date();
    etag = null;
    if (past) past.asked = 0;  // so that events of the meantime are requested with the next answer
  }
  showStatus();
  timer = setTimeout(poll, document.hidden ? POLL_HIDDEN : POLL);
}

async function pollOnce() {
  if ((state.paused && document_) || (refused && token === null)) return;
  // Both at once, so that a worker is not busy in one answer and without a request in the other.
  const totals = ask(`live/data?q=${encodeURIComponent(state.search)}`, etag ? { "If-None-Match": etag } : {});
  const [response] = await Promise.all([totals, askServing(), askPast()]);
  refused = response.status === 401 || response.status === 403;
  if (refused) return askForToken(response, "The figures");
  if (response.status !== 304) {
    if (!response.ok) throw new Error(`HTTP ${response.status}`);
    document_ = await response.json();
    for (const each of [document_.requests, ...document_.routes]) if (each && each.time) {
      const bounds = document_.bounds[each.time.bounds], buckets = new Array(bounds.length + 1).fill(0);
      each.time.buckets.split(" ").forEach((count, i) => buckets[each.time.first + i] = Number(count));
      Object.assign(each.time, { bounds, buckets });
    }
    etag = response.headers.get("ETag");
  }
  const at = performance.now() / 1000;
  if (samples.length && at - samples[samples.length - 1].at < 0.5) samples.pop();
  const rows = new Map(document_.metrics.rows.map((row) => [`${row[0]}.${row[1]}`, row]));
  samples.push({ at, time: Date.now() / 1000, hidden: document.hidden, data: document_, rows });
  if (samples.length > KEEP) samples.shift();
  show();
}

async function askServing() {
  if (serving && serving.refused && token === null) return;
  const response = await ask("../debug/requests");
  if (response.ok) {
    const found = await response.json();
    const byPid = new Map();
    for (const each of found.requests) byPid.set(each.pid, [...byPid.get(each.pid) || [], each]);
    serving = { byPid, further: found.further };
    $("token-form").hidden = true;
    note("");
  } else if (response.status === 401) {
    askForToken(response, "The requests being served");
  } else {
    serving = { refused: true };
    note("The requests being served are shown on the machine itself, or with a token (api.token).");
  }
}

function askForToken(response, what) {
  $("token-label").textContent = `${what} are protected. Token`;
  if (token !== null) $("token-note").textContent = "This token is wrong.";
  token = null;
  serving = { refused: true };
  if (response.status === 401) $("token-form").hidden = false;
  else note("This page is protected: open it on the machine itself, or set api.token.");
}

function note(text) {
  $("requests-note").hidden = !text;
  $("requests-note").textContent = text;
}

async function askPast() {
  const due = state.range === 900 ? 20 : 60;
  const now = Date.now() / 1000;
  if (past && pastRange === state.range && (now - past.asked < due)) return;
  const step = state.range === 900 ? 2 : state.range === 3600 ? 60 : 300;
  const series = ["shmstats.response*", "system.*", "gunicorn.gunicorn_backlog"].map((each) => `series=${encodeURIComponent(each)}`).join("&");
  const response = await ask(`history?since=-${state.range}&step=${step}&${series}`);
  past = { asked: now, times: [], series: {}, events: [], missing: true };
  if (response.ok) past = { asked: now, ...await response.json() };
  pastRange = state.range;
}

/* Rendering ---------------------------------------------------------------------------------------- */

function show() {
  const now = samples[samples.length - 1], before = earlier(WINDOW);
  if (!now) return;
  showFigures(now, before);
  showCharts();
  showEvents();
  showRoutes(now, before);
  showWorkers(now, before);
  showMetrics(now, before);
}

function showStatus() {
  const status = $("status");
  const told = lost ? ["lost", `disconnected since ${moment(lost / 1000)}`] : state.paused ? ["paused", "paused"] : refused ? ["wait", "protected"] : document_ ? ["live", "live"] : ["wait", "connecting"];
  if (status.textContent !== told[1]) { status.dataset.state = told[0]; status.textContent = told[1]; }
}

function make(tag, text, attributes = {}, namespace = "http://www.w3.org/1999/xhtml") {
  const element = document.createElementNS(namespace, tag);
  if (text !== undefined && text !== null) element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) if (value !== false && value !== null) element.setAttribute(name, value);
  return element;
}

function showFigures(now, before) {
  const figures = before && requestFigures(now, before);
  const workers = workersOf(now.data);
  const busy = workers.filter(servedBy).length;
  const memory = now.data.workers.reduce((sum, worker) => sum + worker.memory, 0);
  const cpu = before ? now.data.workers.reduce((sum, worker) => {
    const was = before.data.workers.find((each) => each.pid === worker.pid);
    return was ? sum + Math.max(worker.cpu - was.cpu, 0) : sum;
  }, 0) / (now.at - before.at) : null;
  const rows = [];
  if (now.data.requests) {
    const errors = figures && figures.all ? figures.classes["5xx"] / figures.all : figures ? 0 : null;
    rows.push(["Requests", figures ? number(figures.all) : "–", "a second"],
      ["p50", figures ? ms(figures.p50) : "–"], ["p99", figures ? ms(figures.p99) : "–"],
      ["Errors", percent(errors), "5xx", errors > 0.01]);
  }
  rows.push(["Busy", `${busy} of ${workers.length}`, "workers", workers.length > 0 && busy === workers.length]);
  if (now.data.backlog !== null) rows.push(["Waiting", number(now.data.backlog), "connections", now.data.backlog > 0]);
  rows.push(["Memory", bytes(memory), "resident"], ["CPU", percent(cpu), "of one core"],
    ["Up", duration(Date.now() / 1000 - now.data.started).replace(/ min .*/, " min")]);
  $("figures").replaceChildren(...rows.map(([name, value, unit, bad]) => {
    const box = make("div"), shown = make("dd", value, { class: bad ? "bad" : null });
    if (unit) shown.append(" ", make("small", unit));
    box.append(make("dt", name), shown);
    return box;
  }));
}

function showEvents() {
  const events = past ? past.events.slice(-MAX_EVENTS).reverse() : [];
  $("events-section").hidden = !events.length;
  const key = events.map((event) => event.time).join();
  if ($("events").dataset.key === key) return;
  $("events").dataset.key = key;
  $("events").replaceChildren(...events.map((event) => {
    const row = make("li", null, { class: event.kind === "kill" || event.kind === "timeout" ? "bad" : null });
    row.append(make("time", moment(event.time), { datetime: new Date(event.time * 1000).toISOString() }), " ", make("b", event.kind), ` ${event.text}`);
    return row;
  }));
}

/* Tables ----------------------------------------------------------------------------------------- */

/* Fill a table. A heading is a text, or a text and its class; a cell a text, a node, or either with its class. */
function fill(table, headings, rows, sortable = null) {
  const key = JSON.stringify([headings, sortable && state.sort[sortable]]);
  if (table.dataset.key !== key) {
    table.dataset.key = key;
    const head = make("tr");
    headings.forEach((heading, i) => {
      const [text, kind] = Array.isArray(heading) ? heading : [heading, null];
      const cell = make("th", sortable ? null : text, { scope: "col", class: kind });
      if (sortable) {
        const sort = state.sort[sortable];
        if (sort && sort.column === i) cell.setAttribute("aria-sort", sort.down ? "descending" : "ascending");
        const button = make("button", text, { type: "button" });
        button.addEventListener("click", () => {
          const was = state.sort[sortable];
          state.sort[sortable] = { column: i, down: !(was && was.column === i && was.down) };
          writeAddress();
          show();
          table.querySelectorAll("th button")[i].focus();
        });
        cell.append(button);
      }
      head.append(cell);
    });
    const thead = make("thead");
    thead.append(head);
    table.replaceChildren(thead, make("tbody"));
  }
  const body = table.tBodies[0];
  while (body.rows.length > rows.length) body.deleteRow(-1);
  rows.forEach((row, i) => {
    const line = body.rows[i] || body.insertRow();
    line.className = row.stuck ? "stuck" : "";
    row.forEach((cell, n) => {
      const [content, kind] = Array.isArray(cell) ? cell : [cell, null];
      const place = line.cells[n] || line.insertCell();
      const wanted = kind || (Array.isArray(headings[n]) ? headings[n][1] : "") || "";
      if (place.className !== wanted) place.className = wanted;
      if (content instanceof Node) { if (place.firstChild !== content) place.replaceChildren(content); }
      else if (place.textContent !== content) place.textContent = content;
    });
    while (line.cells.length > row.length) line.deleteCell(-1);
  });
}

function sorted(table, rows, fallback) {
  const sort = state.sort[table] || fallback;
  return rows.sort((one, other) => {
    const a = one.keys[sort.column], b = other.keys[sort.column];
    const order = typeof a === "string" || typeof b === "string" ? String(a).localeCompare(String(b)) : (a ?? -Infinity) - (b ?? -Infinity);
    return sort.down ? -order : order;
  });
}

/* The stacks of a worker's threads: requested once, because each question costs the worker a little. */
async function showStacks(pid) {
  $("stacks").hidden = false;
  $("stacks-title").textContent = `Stacks of process ${pid}`;
  $("stacks-body").replaceChildren(make("p", "asking", { class: "note" }));
  $("stacks-title").focus();
  const response = await ask(`../debug/stacks?pid=${pid}`).catch(() => null);
  if (!response || !response.ok) {
    if (response && response.status === 401) askForToken(response);
    $("stacks-body").replaceChildren(make("p", response ? `The server answers ${response.status}: stacks are protected, or the worker has ended, or has not counted anything yet.` : "The server does not answer.", { class: "note" }));
    return;
  }
  const [found] = await response.json();
  $("stacks-body").replaceChildren(
    ...found.requests.map((each) => make("p", `serves ${each.request} for ${duration(each.seconds)}`)),
    ...found.stacks.map((stack) => make("pre", [stack.kind + (stack.count > 1 ? ` (${stack.count} times)` : ""), ...stack.lines.map((line) => `  ${line}`)].filter((line) => line.trim()).join("\n"), { tabindex: "0" })));
}

const links = new Map();  // kept, so that the focus stays where it is when a table is filled again

function link(text, title, action) {
  let button = links.get(title + text);
  if (!button) {
    button = make("button", text, { type: "button", class: "link", title });
    button.addEventListener("click", action);
    if (links.size > 2000) links.clear();
    links.set(title + text, button);
  }
  return button;
}

const searchLink = (text, search) => link(text, "Search for it in the metrics", () => setSearch(search));

function showRoutes(now, before) {
  $("routes-section").hidden = !now.data.routes.length;
  if (!now.data.routes.length) return;
  const old = new Map((before ? before.data.routes : []).map((route) => [`${route.method} ${route.route}`, route]));
  const span = before ? now.at - before.at : null;
  const figures = now.data.routes.map((route) => {
    const was = old.get(`${route.method} ${route.route}`) || (span ? { count: 0, errors: 0, time: null } : route);
    const buckets = route.time && span ? addedBuckets(route.time, was.time) : null;
    const count = added(route.count, was.count);
    return { route, count, rate: span ? count / span : null, errors: count ? added(route.errors, was.errors) / count : span ? 0 : null,
      p50: buckets && percentile(0.5, buckets, route.time), p99: buckets && percentile(0.99, buckets, route.time),
      time: route.time && span ? added(route.time.sum, was.time ? was.time.sum : 0) : null };
  });
  const all = figures.reduce((sum, each) => sum + (each.time || 0), 0);
  const rows = figures.map((each) => {
    const name = `${each.route.method} ${each.route.route}`, share = all ? each.time / all : null;
    const row = [[searchLink(name, each.route.route), "text"], number(each.rate), [percent(each.errors), each.errors > 0.01 ? "number bad" : "number"],
      ms(each.p50), ms(each.p99), percent(share), number(each.route.count)];
    row.keys = [name, each.rate, each.errors, each.p50, each.p99, share, each.route.count];
    return row;
  });
  fill($("routes"), ["route", ["req/s", "number"], ["errors", "number"], ["p50", "number"], ["p99", "number"], ["share of time", "number"], ["total", "number"]],
    sorted("routes", rows, { column: 5, down: true }), "routes");
}

/* The requests that a worker serves; null if this page may not see them. */
const requestsOf = (worker) => serving && serving.byPid ? serving.byPid.get(worker.pid) || [] : null;

/* Their number, from the same answer as the requests themselves. */
function servedBy(worker) {
  const found = requestsOf(worker);
  return found ? found.length + (serving.further[worker.pid] || 0) : worker.serving;
}

function showWorkers(now, before) {
  const old = new Map((before ? before.data.workers : []).map((worker) => [worker.pid, worker]));
  const span = before ? now.at - before.at : null, clock_ = Date.now() / 1000;
  const rows = now.data.workers.map((worker) => {
    const was = old.get(worker.pid);
    const rate = was && span ? Math.max(worker.begun - was.begun, 0) / span : null, cpu = was && span ? Math.max(worker.cpu - was.cpu, 0) / span : null;
    const found = requestsOf(worker), all = servedBy(worker);
    const longest = !all ? null : found ? found.length ? found[0].seconds : null : Math.max(clock_ - worker.oldest, 0);
    const stuck = worker.state === "stopped" || longest > STUCK;
    const shown = found ? found.slice(0, 3).map((each) => each.request) : [], rest = all - shown.length;
    const what = [...shown, ...rest > 0 ? [shown.length ? `and ${rest} more` : `${rest} ${rest === 1 ? "request" : "requests"}`] : []].join(", ");
    const state = !["busy", "idle"].includes(worker.state) ? worker.state : all ? "busy" : "idle";
    const age = clock_ - worker.started;
    const name = worker.role === "master" ? `${worker.pid} (master)` : String(worker.pid);
    const row = [link(name, "Show the stacks of its threads", () => showStacks(worker.pid)), [state, state === "stopped" ? "bad" : null], [what, "text"], [longest === null ? "" : duration(longest), stuck ? "number bad" : "number"],
      number(rate), percent(cpu), bytes(worker.memory), duration(age)];
    row.stuck = stuck;
    row.keys = [worker.pid, state, what, longest, rate, cpu, worker.memory, age];
    return row;
  });
  fill($("workers"), ["pid", "state", "serves now", ["for", "number"], ["req/s", "number"], ["CPU", "number"], ["memory", "number"], ["age", "number"]],
    sorted("workers", rows, { column: 3, down: true }), "workers");
}

/* What a metric did between two samples: the value of a gauge, or the increase a second; null if that is not known. */
function movement(key, now, before) {
  const row = now.rows.get(key), was = before && before.rows.get(key);
  const count = (each) => Array.isArray(each[4]) ? each[4][0] : each[4];
  if (!row || row[2] === "timestamp" || count(row) === null) return null;
  if (row[2] === "gauge") return count(row);
  return was && count(was) !== null ? added(count(row), count(was)) / (now.at - before.at) : null;
}

function spark(key) {
  const recent = samples.slice(-61), values = recent.map((sample, i) => movement(key, sample, recent[i - 1])).filter((value) => value !== null);
  if (!values.length) return "";
  const high = Math.max(...values), low = Math.min(0, ...values), size = high - low || 1, svg = "http://www.w3.org/2000/svg";
  const points = values.map((value, i) => `${60 - values.length + i + 0.5},${13 - 12 * (value - low) / size}`).join(" ");
  const picture = make("svg", null, { class: "spark", viewBox: "0 0 60 14", preserveAspectRatio: "none", "aria-hidden": "true" }, svg);
  picture.append(make("polyline", null, { points }, svg));
  return picture;
}

function showMetrics(now, before) {
  const { rows, found, total } = now.data.metrics;
  const shown = rows.map(([category, series, kind, unit, value]) => {
    const key = `${category}.${series}`, rate = kind === "gauge" ? null : movement(key, now, before);
    let text = number(value), extra = "";
    if (kind === "timestamp") text = new Date(value / 1000).toLocaleString();
    else if (kind === "histogram") { text = number(value[0]); extra = value[0] ? amount(value[1] / value[0], unit || "ms") : ""; }
    else if (unit === "bytes") text = bytes(value);
    return [[searchLink(key, key), "text"], text, rate === null ? "" : `${number(rate)}/s`, spark(key), kind, extra];
  });
  fill($("metrics-table"), ["metric", ["value", "number"], ["rate", "number"], "last minutes", "kind", ["mean", "number"]], shown);
  $("found").textContent = found === total ? (total > rows.length ? `${number(total)} series, the first ${rows.length} are shown` : `${number(total)} series`)
    : found ? `${number(found)} of ${number(total)} series${found > rows.length ? `, the first ${rows.length} are shown` : ""}` : `none of ${number(total)} series has this in its name`;
}

/* Input ------------------------------------------------------------------------------ */

let searching = 0;

function setSearch(text) {
  state.search = text;
  $("search").value = text;
  searched();
  $("search").scrollIntoView({ block: "center", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
}

function searched() {
  writeAddress();
  clearTimeout(searching);
  searching = setTimeout(() => { etag = null; if (state.paused) document_ = null; poll(); }, 200);
}

function setRange(range) {
  state.range = range;
  for (const button of document.querySelectorAll("[data-range]")) button.setAttribute("aria-pressed", String(Number(button.dataset.range) === range));
  past = null;
  writeAddress();
  if (document_) askPast().then(show, () => {});
}

function setPaused(paused) {
  state.paused = paused;
  $("pause").setAttribute("aria-pressed", String(paused));
  $("pause").textContent = paused ? "Go on" : "Pause";
  writeAddress();
  showStatus();
  if (!paused) poll();
}

function toggleHelp() {
  $("help").hidden = !$("help").hidden;
  $("help-button").setAttribute("aria-expanded", String(!$("help").hidden));
}

function shownTables() {
  const found = {};
  for (const [name, table] of [["routes", $("routes")], ["workers", $("workers")], ["metrics", $("metrics-table")]]) {
    if (!table.tBodies.length) continue;
    const headings = [...table.tHead.rows[0].cells].map((cell) => cell.textContent);
    found[name] = [...table.tBodies[0].rows].map((row) => Object.fromEntries(
      headings.map((heading, i) => [heading, row.cells[i].textContent]).filter(([heading]) => heading !== "last minutes")));
  }
  found.charts = Object.fromEntries(charts.map(({ kind }) => { const data = points(kind); return [kind, { time: data[0], ...Object.fromEntries(LINES[kind].map(([name], i) => [name, data[i + 1]])) }]; }));
  return found;
}

function download(name, type, text) {
  const address = URL.createObjectURL(new Blob([text], { type })), anchor = make("a", null, { href: address, download: name });
  document.body.append(anchor);
  anchor.click();
  anchor.remove();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}

function csv() {
  const quoted = (text) => { const safe = /^[=+\-@\t\r]/.test(text) && !/^-?[\d.]+/.test(text) ? `'${text}` : text; return `"${safe.replaceAll('"', '""')}"`; };
  const lines = [];
  for (const [table, rows] of Object.entries(shownTables())) {
    if (table === "charts" || !rows.length) continue;
    lines.push(["table", ...Object.keys(rows[0])].map(quoted).join(","), ...rows.map((row) => [table, ...Object.values(row)].map(quoted).join(",")), "");
  }
  download("shmstats.csv", "text/csv", lines.join("\n"));
}

function keys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const writing = event.target instanceof HTMLInputElement;
  if (event.key === "Escape") { if (writing) event.target.blur(); if (state.search) setSearch(""); $("stacks").hidden = true; return; }
  if (writing) return;
  const done = { "/": () => $("search").focus(), p: () => setPaused(!state.paused), "?": toggleHelp, 1: () => setRange(900), 2: () => setRange(3600), 3: () => setRange(86400) }[event.key];
  if (done) { event.preventDefault(); done(); }
}

readAddress();
setRange(state.range);
setPaused(state.paused);
$("search").value = state.search;
$("search").addEventListener("input", () => { state.search = $("search").value; searched(); });
$("pause").addEventListener("click", () => setPaused(!state.paused));
$("help-button").addEventListener("click", toggleHelp);
$("stacks-close").addEventListener("click", () => { $("stacks").hidden = true; });
$("csv").addEventListener("click", csv);
$("json").addEventListener("click", () => download("shmstats.json", "application/json", JSON.stringify(shownTables(), null, 1)));
for (const button of document.querySelectorAll("[data-range]")) button.addEventListener("click", () => setRange(Number(button.dataset.range)));
$("token-form").addEventListener("submit", (event) => { event.preventDefault(); token = $("token").value; $("token").value = ""; $("token-note").textContent = ""; serving = past = null; poll(); });
document.addEventListener("keydown", keys);
document.addEventListener("visibilitychange", () => { if (!document.hidden) poll(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => charts.forEach((chart) => chart.plot.redraw()));
if (state.paused) poll();
