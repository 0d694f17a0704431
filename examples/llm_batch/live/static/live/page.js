// Draws what /live/events/ sends: no library, no build step.
"use strict";

const byId = (id) => document.getElementById(id);
const KEPT_SAMPLES = 600;
const KEPT_ANSWERS = 50;
const WIDTH = 520, HEIGHT = 150, LEFT = 42, BOTTOM = 22, TOP = 18;
const BLUE = "#2f81f7", RED = "#f85149", GREEN = "#3fb950", GREY = "#8b949e";

let samples = [];
let newestSample = 0;
let newestAnswer = 0;

function svg(name, attributes, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

// A round number just above `value`: the end of the axis.
function above(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1)));
  return [1, 1.5, 2, 3, 4, 5, 7.5, 10].map((step) => step * power).find((step) => step >= value);
}

// series: [{name, color, points: [[seconds, number], ...], dashed}]; a number that is null is not drawn.
function draw(id, series) {
  const drawn = series.map((line) => ({...line, points: line.points.filter((point) => point[1] !== null)}));
  const points = drawn.flatMap((line) => line.points);
  const right = Math.max(1, ...points.map((point) => point[0]));
  const top = above(Math.max(1, ...points.map((point) => point[1])));
  const x = (seconds) => LEFT + (WIDTH - LEFT - 8) * seconds / right;
  const y = (number) => HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * number / top;
  const nodes = [];
  for (const part of [0, 0.5, 1]) {
    nodes.push(svg("line", {x1: LEFT, x2: WIDTH - 8, y1: y(part * top), y2: y(part * top), class: "grid"}));
    nodes.push(svg("text", {x: LEFT - 5, y: y(part * top) + 4, "text-anchor": "end"}, part * top));
    nodes.push(svg("text", {x: x(part * right), y: HEIGHT - 6, "text-anchor": part ? "end" : "start"},
      `${(part * right).toFixed(right < 10 ? 1 : 0)} s`));
  }
  let across = LEFT;
  for (const {name, color, points: all, dashed} of drawn) {
    nodes.push(svg("text", {x: across, y: 11, style: `fill: ${color}`}, name));
    across += 8 * name.length + 10;
    if (!all.length) continue;
    // Steps: a number holds until the next sample.
    const path = all.map(([seconds, number], at) =>
      at ? `H${x(seconds).toFixed(1)}V${y(number).toFixed(1)}` : `M${x(seconds).toFixed(1)} ${y(number).toFixed(1)}`);
    nodes.push(svg("path", {d: path.join(""), stroke: color, ...(dashed && {"stroke-dasharray": "5 4"})}));
  }
  byId(id).setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  byId(id).replaceChildren(...nodes);
}

function charts(batch, quota) {
  // From the last sample before the batch to two seconds after its end.
  const first = Math.max(0, samples.findLastIndex((sample) => sample.at <= batch.began));
  const shown = samples.slice(first).filter((sample) => !batch.ended || sample.at <= batch.ended + 2);
  const from = shown.length ? shown[0].at : 0;
  const points = (value) => shown.map((sample, at) => [sample.at - from, value(sample, shown[at - 1])]);
  const perSecond = (name) => points((now, before) => before ? (now[name] - before[name]) / (now.at - before.at) : 0);
  draw("calls", [
    {name: "answered", color: GREEN, points: perSecond("answered")},
    {name: "429", color: RED, points: perSecond("rejected")},
    {name: `quota ${quota.per_second.toFixed(0)}/s`, color: GREY, dashed: true, points: points(() => quota.per_second)},
  ]);
  draw("quota", [
    {name: "calls granted", color: BLUE, points: points((now) => now.calls - shown[0].calls)},
    {name: "limit: burst + rate x time", color: GREY, dashed: true,
     points: points((now) => quota.burst + quota.per_second * (now.at - from))},
  ]);
  draw("flight", [{name: "in flight", color: BLUE, points: points((now) => now.in_flight)}]);
  draw("lag", [{name: "worst so far", color: RED,
    points: points((now) => now.hub_lag === null ? null : 1000 * now.hub_lag)}]);
}

function progress(batch) {
  byId("title").textContent = `Batch ${batch.id}: ${batch.answered} of ${batch.total} answers`;
  byId("bar").max = batch.total;
  byId("bar").value = batch.answered;
  const left = batch.ended ? "done" : batch.eta_seconds ? `${batch.eta_seconds.toFixed(0)} s to go` : "starting";
  byId("progress").textContent = `${batch.per_second.toFixed(0)} answers per second, ${batch.retries} retries, ${left}`;
}

function answered(answers) {
  for (const answer of answers.filter((row) => row.id > newestAnswer)) {
    newestAnswer = answer.id;
    const item = document.createElement("li");
    const remark = document.createElement("span");
    remark.className = "dim";
    remark.textContent = ` waited ${answer.waited.toFixed(2)} s, took ${answer.latency.toFixed(2)} s`;
    item.append(`${answer.batch_id}/${answer.position}: ${answer.text}`, remark);
    byId("answers").prepend(item);
  }
  while (byId("answers").childElementCount > KEPT_ANSWERS) byId("answers").lastChild.remove();
}

// The browser reconnects by itself, and says with Last-Event-ID what it has already.
const source = new EventSource(document.body.dataset.events);
source.onopen = () => { byId("state").textContent = "live"; };
source.onerror = () => { byId("state").textContent = "not connected"; };
source.onmessage = (event) => {
  const news = JSON.parse(event.data);
  samples.push(...news.samples.filter((sample) => sample.number > newestSample));
  samples = samples.slice(-KEPT_SAMPLES);
  newestSample = samples.length ? samples.at(-1).number : 0;
  answered(news.answers);
  if (!news.batch) return;
  progress(news.batch);
  if (news.quota) charts(news.batch, news.quota);
};
window.addEventListener("pagehide", () => source.close());
