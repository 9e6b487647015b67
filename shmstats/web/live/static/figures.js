"use strict";
/* Numbers for people, and figures of a period computed from totals. */

const CLASSES = ["1xx", "2xx", "3xx", "4xx", "5xx", "other"];

function number(value, digits = 3) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1e15) return value.toExponential(2);
  if (size >= 1e5) return new Intl.NumberFormat("en", { maximumFractionDigits: 0 }).format(value);
  return new Intl.NumberFormat("en", { maximumSignificantDigits: size < 1 ? 2 : Math.max(digits, 1 + Math.floor(Math.log10(size || 1))) }).format(value);
}

function bytes(value) {
  if (value === null) return "–";
  let unit = 0;
  while (value >= 1024 && unit < 5) { value /= 1024; unit++; }
  return `${number(value)} ${["B", "KiB", "MiB", "GiB", "TiB", "PiB"][unit]}`;
}

function duration(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  if (seconds < 0.001) return `${number(seconds * 1e6, 2)} µs`;
  if (seconds < 1) return `${number(seconds * 1000, 3)} ms`;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor(seconds % 3600 / 60)} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.floor(seconds % 86400 / 3600)} h`;
}

const moment = (seconds) => new Date(seconds * 1000).toLocaleTimeString([], { hour12: false });
const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hour12: false });
const percent = (share) => share === null ? "–" : `${number(share * 100, 2)} %`;
const ms = (value) => duration(value === null ? null : value / 1000);

const amount = (value, unit) => unit === "ms" ? ms(value) : unit === "bytes" ? bytes(value) : `${number(value)} ${unit}`;

/* Figures of a period, from totals ------------------------------------------------------------------- */

/* Whether bounds are exponential. */
const growByOneFactor = (bounds) => bounds.length > 4 && bounds[0] > 0 && Math.abs(bounds[2] / bounds[1] - bounds[1] / bounds[0]) < 1e-9;

/* A percentile from the buckets of a period, their bounds, and minimum and maximum: see export/figures.py. */
function percentile(share, buckets, { bounds, min, max }) {
  const total = buckets.reduce((sum, each) => sum + each, 0);
  if (!total) return null;
  let reached = 0;
  for (let i = 0; i < buckets.length; i++) {
    if (buckets[i] > 0 && reached + buckets[i] >= share * total) {
      const lower = i ? bounds[i - 1] : Math.min(0, bounds[0]), upper = i < bounds.length ? bounds[i] : Math.max(bounds[i - 1], max);
      const value = lower > 0 && growByOneFactor(bounds) ? lower / (0.5 + 0.5 * (lower / upper))
        : lower + (upper - lower) * (share * total - reached) / buckets[i];
      return Math.min(Math.max(value, min), max);
    }
    reached += buckets[i];
  }
  return null;
}

const added = (now, before) => now >= before ? now - before : now;

function addedBuckets(now, before) {
  return now.buckets.map((count, i) => added(count, before && before.buckets.length === now.buckets.length ? before.buckets[i] : 0));
}

/* The sample that is at least so many seconds older than the last one; if there is none, the oldest. */
function earlier(seconds) {
  const last = samples[samples.length - 1];
  for (let i = samples.length - 2; i >= 0; i--) if (last.at - samples[i].at >= seconds) return samples[i];
  return samples.length > 1 ? samples[0] : null;
}

function requestFigures(now, before) {
  const found = { classes: {}, all: 0, p50: null, p90: null, p99: null };
  const a = now.data.requests, b = before.data.requests;
  if (!a) return null;
  for (const each of CLASSES) {
    found.classes[each] = added(a.responses[each] || 0, b ? b.responses[each] || 0 : 0) / (now.at - before.at);
    found.all += found.classes[each];
  }
  if (a.time) {
    found.buckets = addedBuckets(a.time, b && b.time);
    for (const [name, share] of [["p50", 0.5], ["p90", 0.9], ["p99", 0.99]]) found[name] = percentile(share, found.buckets, a.time);
  }
  return found;
}

const workersOf = (data) => data.workers.filter((worker) => worker.role === "worker");
