import { draw } from "/static/charts.js";
import { $, address, ask, badge, complain, count, facts, fill, make, plainTable, shown, warning } from "/static/dom.js";
import { Grid } from "/static/grid.js";
import { follow, paced } from "/static/live.js";

const id = $("content").dataset.id;

function head(run) {
  fill($("status"), badge(run.status));
  const command = make("code", {}, run.report.command);
  const report = run.report.there ? make("a", { href: address("report", id) }, "Report") : make("span", { class: "quiet" }, "Report: ", command);
  const again = ["killed", "interrupted", "failed"].includes(run.status) ? make("span", { class: "quiet" }, "Go on: ", make("code", {}, run.resume)) : null;
  const above = run.parent ? make("a", { href: address("comparison", run.parent) }, `Comparison ${run.parent}`) : null;
  fill($("links"), above, again, report);
  const what = [run.algorithm && `${run.algorithm} on ${run.task}`, run.training && `${run.training} training`, run.seed !== null && run.seed !== undefined && `seed ${run.seed}`];
  $("said").textContent = what.filter(Boolean).join(", ");
  fill(
    $("problem"),
    warning("Not all of this run can be read.", run.problem),
    warning("This run failed.", run.status === "failed" ? run.error ?? "It does not say why." : null, "failure"),
  );
  fill($("results"), ...facts(run.results));
  fill($("facts"), ...facts(run.facts));
  $("config").textContent = run.config ?? "The config cannot be read.";
}

function adaptation(run) {
  $("adaptation").hidden = !run.steps;
  fill($("steps"), run.steps ? plainTable(run.steps) : null);
  draw($("by-step"), run.adaptation);
}

function ledger(run) {
  $("chain").hidden = !run.ledger;
  if (!run.ledger) return;
  const tables = run.ledger.tables.map((table) => make("div", { class: "titled" }, make("h3", {}, table.title), plainTable(table)));
  fill($("ledger"), warning("The ledger needs a look.", run.ledger.warning), make("p", {}, run.ledger.text), make("dl", { class: "facts" }, ...facts(run.ledger.facts)), ...tables);
}

function reasons(row) {
  if (!row.refused) return "–";
  return row.reasons.map(({ reason, updates }) => make("span", { class: "reason" }, `${updates} × ${reason}`));
}

const number = (name, title, value, more = {}) => ({ name, title, value, cell: (row) => shown(value(row)), kind: "number", down: true, ...more });
const counted = (name, title, value) => number(name, title, value, { cell: (row) => count(value(row)) });
const optional = {
  score: number("score", "Mean score", (row) => row.score),
  reward: number("tokens", "Tokens", (row) => row.tokens),
  account: { name: "account", title: "Account", value: (row) => row.account, cell: (row) => make("code", { title: row.account ?? "" }, row.account ? `${row.account.slice(0, 8)}…${row.account.slice(-4)}` : "–") },
};
let grid = null;
let gridColumns = "";

function makeGrid(columns, measures) {
  gridColumns = columns.join();
  grid = new Grid($("client-table"), [
    { name: "client", title: "Client", value: (row) => row.client, cell: (row) => String(row.client) },
    counted("asked", "Asked", (row) => row.asked),
    counted("admitted", "Admitted", (row) => row.admitted),
    counted("refused", "Refused", (row) => row.refused),
    counted("tasks", "Tasks", (row) => row.tasks),
    ...measures.map((name) => number(name, `Mean ${name}`, (row) => row.measures[name] ?? null)),
    ...["score", "reward", "account"].filter((name) => columns.includes(name)).map((name) => optional[name]),
    { name: "why", title: "Refused because", value: (row) => row.reasons.map((one) => one.reason).join(" ") || null, cell: reasons, kind: "wide" },
  ], (row) => row.client, { by: "client", down: false });
  grid.search($("client-search").value);
}

function countClients() {
  const all = grid.rows.length;
  $("client-count").textContent = `${grid.count === all ? all : `${grid.count} of ${all}`} ${all === 1 ? "client" : "clients"}`;
}

function clients(said) {
  $("clients").hidden = said.clients.length === 0;
  if (gridColumns !== said.columns.join() || !grid) makeGrid(said.columns, said.measures);
  grid.update(said.clients);
  countClients();
  $("quarantine").hidden = said.updates === 0;
  $("refused").textContent = `${count(said.refused)} of ${count(said.updates)} updates were refused.`;
  const rows = said.reasons.map((one) => [one.reason, count(one.updates), one.example]);
  fill($("reasons"), rows.length ? plainTable({ title: "Refused updates by reason", columns: ["reason", "updates", "for example"], rows }) : null);
  $("latest-refused").hidden = said.refused === 0;
  const latest = said.latest.map((one) => [count(one.round), String(one.client), one.reason]);
  fill($("latest"), plainTable({ title: "Latest refused updates", columns: ["round", "client", "reason"], rows: latest, note: said.refused > latest.length ? `The latest ${latest.length} of ${said.refused}.` : "" }));
}

function sections() {
  const there = [...document.querySelectorAll("main > section")].filter((one) => !one.hidden);
  fill($("sections"), ...there.map((one) => make("a", { href: `#${one.id}` }, one.querySelector("h2").textContent)));
}

const look = paced(500, async () => {
  try {
    const [run, curves] = await Promise.all([ask(address("api/run", id)), ask(address("api/curves", id))]);
    head(run);
    draw($("curves"), curves.charts);
    $("waiting").hidden = curves.rounds > 0;
    adaptation(run);
    ledger(run);
    sections();
  } catch (error) {
    complain(error);
  }
});

const lookAtClients = paced(3000, async () => {
  try {
    clients(await ask(address("api/clients", id)));
    sections();
  } catch (error) {
    complain(error);
  }
});

$("client-search").addEventListener("input", () => {
  if (!grid) return;
  grid.search($("client-search").value);
  countClients();
});
follow((changed) => {
  if (changed && !changed.includes(id)) return;
  look();
  lookAtClients();
});
