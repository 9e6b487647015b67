"use strict";
/* The charts, the marks of events in them, and the distribution of response times. */

const MARKS = { start: "S", restart: "S", reload: "R", exit: "x", kill: "K", timeout: "T" };

const charts = [];

function css(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); }

const LINES = {
  rate: [["2xx", "--good", []], ["3xx", "--accent", [6, 3]], ["4xx", "--warn", [2, 2]], ["5xx", "--bad", [8, 2, 2, 2]], ["other", "--other", [1, 3]]],
  time: [["p50", "--good", []], ["p90", "--accent", [6, 3]], ["p99", "--bad", [2, 2]]],
  busy: [["busy workers", "--accent", []], ["waiting", "--bad", [2, 2]]],
};
const TITLES = { rate: ["Responses", "a second, by class of status"], time: ["Response time", "of all requests"], busy: ["Busy workers", "and connections that wait"] };

/* Points of a chart: those of the past, and for the shortest range after them those that this page has seen. */
function points(kind) {
  const columns = [[], ...LINES[kind].map(() => [])];
  const one = (name, figure) => past && past.series[name] ? past.series[name][figure] : null;
  const source = { rate: (name) => one(`shmstats.responses{class="${name}"}`, "rate"), time: (name) => one("shmstats.response_time", name),
    busy: (name) => name === "waiting" ? one("gunicorn.gunicorn_backlog", "value") : one("system.busy_workers", "value") }[kind];
  const lines = LINES[kind].map(([name]) => source(name));
  const first = samples.length > 1 ? samples[0].time : Infinity;
  const until = state.range === 900 ? first : Infinity;
  if (past) past.times.forEach((time, i) => {
    if (time + past.step > until || time > past.asked) return;
    columns[0].push(time);
    lines.forEach((line, n) => columns[n + 1].push(line ? line[i] : null));
  });
  if (state.range !== 900) return trimmed(columns);
  for (let i = 1; i < samples.length; i++) {
    const now = samples[i], before = samples[i - 1];
    const gap = now.at - before.at > 3 * POLL / 1000 + (before.hidden ? POLL_HIDDEN / 1000 : 0);
    const found = requestFigures(now, before);
    columns[0].push(now.time);
    LINES[kind].forEach(([name], n) => {
      let value = null;
      if (!gap && kind === "busy") value = name === "waiting" ? now.data.backlog : workersOf(now.data).filter((worker) => worker.serving).length;
      else if (!gap && found) value = kind === "rate" ? found.classes[name] : found[name];
      columns[n + 1].push(value);
    });
  }
  return trimmed(columns);
}

function trimmed(columns) {
  const since = Date.now() / 1000 - state.range;
  // A series that began recently gets no empty hours before it.
  let start = columns[0].findIndex((time, i) => time >= since && columns.some((column, n) => n && column[i] !== null));
  if (start < 0) start = columns[0].length;
  return columns.map((column) => column.slice(start));
}

function makeChart(kind) {
  const figure = make("figure"), caption = make("figcaption", TITLES[kind][0] + " ");
  caption.append(make("span", TITLES[kind][1]));
  const place = make("div"), more = make("details"), table = make("table");
  more.append(make("summary", "as a table"), table);
  figure.append(caption, place, more);
  $("charts").append(figure);
  const width = () => Math.max(place.clientWidth, 200);
  const axis = { stroke: () => css("--quiet"), grid: { stroke: () => css("--line"), width: 1 }, ticks: { show: false }, font: "12px system-ui" };
  const value = kind === "time" ? (_, v) => ms(v) : (_, v) => number(v);
  const options = {
    width: width(), height: 190, cursor: { sync: { key: "time" }, drag: { x: false, y: false } }, legend: { live: true },
    scales: { x: { time: true }, y: { range: (_, low, high) => [0, high > 0 ? high * 1.1 : 1] } },
    axes: [{ ...axis, size: 30, space: 75, values: (plot, ticks) => ticks.map(plot.scales.x.max - plot.scales.x.min < 600 ? moment : clock) }, { ...axis, size: kind === "time" ? 62 : 52, values: (_, ticks) => ticks.map((tick) => kind === "time" && tick ? ms(tick) : number(tick)) }],
    series: [{ label: "time", value: (_, v) => v === null ? "–" : moment(v) },
      ...LINES[kind].map(([name, color, dash]) => ({ label: name, stroke: () => css(color), width: 1.6, dash, spanGaps: false, points: { show: false }, value }))],
    hooks: { draw: [drawMarks] },
  };
  const chart = { kind, plot: new uPlot(options, points(kind), place), table, more };
  new ResizeObserver(() => { if (Math.abs(chart.plot.width - width()) > 2) chart.plot.setSize({ width: width(), height: 190 }); }).observe(place);
  for (const name of [...place.querySelectorAll(".u-legend .u-label")].slice(1)) {  // not that of the time
    name.tabIndex = 0;
    name.setAttribute("role", "button");
    name.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); name.closest("th").click(); } });
  }
  place.querySelector("canvas").setAttribute("role", "img");
  place.querySelector("canvas").setAttribute("aria-label", `${TITLES[kind].join(", ")}; as a table below`);
  return chart;
}

function drawMarks(plot) {
  const context = plot.ctx, ratio = devicePixelRatio, { left, top, width, height } = plot.bbox;
  context.save();
  context.font = `${11 * ratio}px system-ui`;
  context.textAlign = "center";
  context.textBaseline = "alphabetic";
  context.setLineDash([3 * ratio, 3 * ratio]);
  for (const event of past ? past.events : []) {
    const x = plot.valToPos(event.time, "x", true);
    if (!(x >= left && x <= left + width)) continue;
    context.strokeStyle = context.fillStyle = css(event.kind === "kill" || event.kind === "timeout" ? "--bad" : "--quiet");
    context.beginPath();
    context.moveTo(x, top + 12 * ratio);
    context.lineTo(x, top + height);
    context.stroke();
    context.fillText(MARKS[event.kind] || "?", x, top + 10 * ratio);
  }
  context.restore();
}

function showCharts() {
  const shown = document_.requests ? ["rate", "time", "busy"] : ["busy"];
  for (const kind of shown) if (!charts.some((chart) => chart.kind === kind)) charts.push(makeChart(kind));
  for (const chart of charts) {
    const data = points(chart.kind);
    chart.plot.setData(data, false);
    const now = Date.now() / 1000;
    const first = data[0].length ? data[0][0] : now;
    chart.plot.setScale("x", { min: Math.max(now - state.range, Math.min(first, now - 60)), max: now });
    if (chart.plot.cursor.left < 0 && data[0].length) chart.plot.setLegend({ idx: data[0].length - 1 }, false);
    if (chart.more.open) chartTable(chart, data);
  }
  if (document_.requests && document_.requests.time) showDistribution();
}

function chartTable(chart, data) {
  const rows = [], every = Math.max(1, Math.ceil(data[0].length / 20));
  for (let i = data[0].length - 1; i >= 0; i -= every)
    rows.push([moment(data[0][i]), ...data.slice(1).map((column) => chart.kind === "time" ? ms(column[i]) : number(column[i]))]);
  fill(chart.table, ["time", ...LINES[chart.kind].map(([name]) => [name, "number"])], rows);
}

/* At most about 16 groups of buckets, which always end at the same bounds: at powers of two if there are any. */
function joined(buckets, first, bounds) {
  const size = 2 ** Math.ceil(Math.log2(buckets.length / 16)), whole = Math.max(0, bounds.findIndex((bound) => Number.isInteger(Math.log2(bound))));
  const groups = [];
  let open = false;
  buckets.forEach(([name, count], i) => {
    if (!open) groups.push([name, 0]);
    const last = groups[groups.length - 1];
    last[0] = name;
    last[1] += count;
    open = (first + i - whole) % size !== 0;
  });
  return groups;
}

function showDistribution() {
  let figure = $("distribution");
  if (!figure) {
    figure = make("figure", null, { id: "distribution" });
    const caption = make("figcaption", "Distribution of response times ");
    caption.append(make("span", "of the last minute"));
    figure.append(caption, make("ol", null, { class: "bars" }));
    $("charts").append(figure);
  }
  const now = samples[samples.length - 1], before = earlier(60);
  if (!before) return;
  const { buckets } = requestFigures(now, before), bounds = now.data.requests.time.bounds;
  if (!buckets) return;
  let groups = buckets.map((count, i) => [i < bounds.length ? `≤ ${ms(bounds[i])}` : `> ${ms(bounds[i - 1])}`, count]);
  const used = groups.map(([, count], i) => count ? i : -1).filter((i) => i >= 0);
  if (used.length) groups = groups.slice(used[0], used[used.length - 1] + 1);
  if (groups.length > 16) groups = joined(groups, used[0], bounds);
  const largest = Math.max(1, ...groups.map(([, count]) => count)), total = groups.reduce((sum, [, count]) => sum + count, 0);
  const list = figure.querySelector("ol");
  list.replaceChildren(...groups.map(([name, count]) => {
    const row = make("li"), bar = make("span", null, { class: "bar" });
    if (count) { const inner = make("i"); inner.style.width = `${100 * count / largest}%`; bar.append(inner); }
    row.append(make("span", name), bar, make("span", total ? `${number(100 * count / total, 2)} %` : "–", { class: "number" }));
    return row;
  }));
}
