import { $, address, badge, complain, duration, interval, make, moment, reach, shown } from "/static/dom.js";
import { Grid } from "/static/grid.js";
import { follow, paced } from "/static/live.js";

const picked = new Set();
const asked = new URLSearchParams(location.search);

const known = (value) => value !== null && value !== undefined;
const result = (measure) => (row) => (row.final ?? row.last)?.[measure] ?? null;
const lasting = (row) => row.status === "running" && row.started
  ? Math.max(0, (Date.now() - new Date(row.started)) / 1000) : row.seconds ?? null;

function name(row) {
  const [last, ...above] = row.id.split("/").reverse();
  const folder = above.length ? [make("span", { class: "above" }, `${above.reverse().join("/")}/`), make("wbr")] : [];
  const link = make("a", { href: address(row.id), class: row.id.length < 45 ? "name short" : "name" }, ...folder, last);
  const under = row.problem ? make("span", { class: "why" }, row.problem) : null;
  return [link, under].filter(Boolean);
}

function progress(row) {
  if (!row.rounds) return "–";
  const text = row.done === row.rounds ? String(row.rounds) : `${row.done} of ${row.rounds}`;
  const bar = make("progress", { max: row.rounds, value: row.done, "aria-label": "rounds done" });
  return row.status === "running" ? [text, bar] : text;
}

function quality(measure) {
  return (row) => {
    const value = result(measure)(row);
    if (!known(value)) return measure === "loss" && row.final?.diverged ? make("span", { title: `tasks that diverged: ${row.final.diverged}` }, "infinite") : "–";
    if (!row.final) return make("span", { class: "quiet", title: "last round, training tasks" }, shown(value));
    const half = row.final[measure === "accuracy" ? "ci95" : `${measure}_ci95`];
    return make("span", { title: `${interval(value, half)} over ${row.final.over}: test clients, ${row.final.step} adaptation steps` }, shown(value));
  };
}

function tick(row) {
  const box = make("input", { type: "checkbox", "aria-label": `Select ${row.id}` });
  box.checked = picked.has(row.id);
  box.addEventListener("change", () => {
    box.checked ? picked.add(row.id) : picked.delete(row.id);
    bar();
  });
  return make("label", { class: "tick" }, box);
}

const status = { name: "status", title: "Status", value: (row) => row.status, cell: (row) => badge(row.status) };
const started = { name: "started", title: "Started", value: (row) => row.started ?? null, cell: (row) => moment(row.started), down: true };
const took = { name: "took", title: "Took", value: lasting, cell: (row) => duration(lasting(row)), kind: "number", down: true };
const named = (title) => ({ name: "name", title, value: (row) => row.id, cell: name, kind: "wide", text: (row) => `${row.id} ${row.problem ?? ""} ${row.description ?? ""}` });

const capital = (text) => text[0].toUpperCase() + text.slice(1);
let measures = ["accuracy", "loss"];
const makeRuns = (order) => new Grid($("runs").querySelector(".grid"), [
  { name: "tick", title: "Select", cell: tick, kind: "tick" },
  named("Run"), status,
  { name: "experiment", title: "Experiment", value: (row) => row.experiment ?? null, cell: (row) => row.experiment ?? "–" },
  { name: "algorithm", title: "Algorithm", value: (row) => row.algorithm ?? null, cell: (row) => row.algorithm ?? "–" },
  { name: "training", title: "Training", value: (row) => row.training ?? null, cell: (row) => row.training ?? "–" },
  { name: "seed", title: "Seed", value: (row) => row.seed ?? null, cell: (row) => String(row.seed ?? "–"), text: (row) => `seed ${row.seed}`, kind: "number" },
  { name: "rounds", title: "Rounds", value: (row) => row.done ?? null, cell: progress, kind: "number", down: true },
  ...measures.map((name) => ({ name, title: capital(name), value: result(name), cell: quality(name), kind: "number", down: name !== "loss" })),
  started, took,
], (row) => row.id, order);
let runs = makeRuns({ by: asked.get("sort") ?? "started", down: asked.get("order") !== "up" });

function showMeasures(rows) {
  const found = new Set([...measures, ...rows.flatMap((row) => Object.keys(row.last ?? {}))]);
  if (found.size === measures.length) return;
  measures = [...found];
  runs = makeRuns({ by: asked.get("sort") ?? runs.by, down: runs.down });
  runs.search($("search").value);
}

const comparisons = new Grid($("comparisons").querySelector(".grid"), [
  named("Comparison"), status,
  { name: "experiment", title: "Experiment", value: (row) => row.experiment ?? null, cell: (row) => row.experiment ?? "–" },
  { name: "arms", title: "Arms", value: (row) => (row.arms ?? []).join(", "), cell: (row) => (row.arms ?? []).join(", ") || "–", kind: "wide" },
  { name: "seeds", title: "Seeds", value: (row) => row.seeds?.length ?? null, cell: (row) => (row.seeds ?? []).join(", ") || "–" },
  started, took,
], (row) => row.id, { by: "started", down: true });

function bar() {
  $("picked").hidden = picked.size === 0;
  $("picked-count").textContent = `${picked.size} ${picked.size === 1 ? "run" : "runs"} selected`;
  $("compare").disabled = picked.size < 2;
}

function search() {
  const text = $("search").value;
  runs.search(text);
  comparisons.search(text);
  count();
  remember();
}

function count() {
  const all = runs.rows.length;
  const running = runs.rows.filter((row) => row.status === "running").length;
  const some = runs.count === all ? `${all}` : `${runs.count} of ${all}`;
  $("count").textContent = `${some} ${all === 1 ? "run" : "runs"}${running ? `, ${running} running` : ""}`;
}

function remember() {
  const state = new URLSearchParams();
  if ($("search").value) state.set("q", $("search").value);
  if (runs.by !== "started") state.set("sort", runs.by);
  if (!runs.down) state.set("order", "up");
  history.replaceState(null, "", state.size ? `?${state}` : location.pathname);
}

const refresh = paced(500, async () => {
  try {
    const answer = await reach("/api/runs");
    const { rows, error } = await answer.json();
    if (error) throw new Error(error);
    const some = rows.filter((row) => row.kind === "comparison");
    showMeasures(rows);
    runs.update(rows.filter((row) => row.kind === "run"));
    comparisons.update(some);
    $("comparisons").hidden = some.length === 0;
    const there = new Set(rows.map((row) => row.id));
    picked.forEach((id) => there.has(id) || picked.delete(id));
    bar();
    count();
    $("legend").hidden = rows.length === 0;
    complain(rows.length ? null : new Error("No runs yet. `fedmeta run quickstart` makes one; it appears here by itself."));
  } catch (error) {
    complain(error);
  }
});

runs.changed = remember;
$("search").value = asked.get("q") ?? "";
$("search").addEventListener("input", search);
$("clear").addEventListener("click", () => {
  picked.clear();
  document.querySelectorAll("#runs input:checked").forEach((box) => { box.checked = false; });
  bar();
  $("search").focus();
});
$("compare").addEventListener("click", () => {
  location.href = `/selected?${new URLSearchParams([...picked].map((id) => ["run", id]))}`;
});
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && event.target.tagName !== "INPUT" && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    $("search").focus();
  }
});
runs.search($("search").value);
comparisons.search($("search").value);
follow(refresh);
// The duration of a running run grows by the second.
setInterval(() => {
  if (document.hidden) return;
  for (const row of runs.rows.filter((one) => one.status === "running")) {
    const element = runs.made.get(row.id)?.element.lastElementChild;
    if (element) element.textContent = duration(lasting(row));
  }
}, 1000);
