import { draw } from "/static/charts.js";
import { $, address, ask, badge, complain, facts, fill, make, plainTable, warning } from "/static/dom.js";
import { follow, paced } from "/static/live.js";

const id = $("content").dataset.id;
let runs = new Set();

function seed(run) {
  const name = `seed ${run.seed}`;
  const link = run.id ? make("a", { href: address("run", run.id) }, name) : make("span", {}, name);
  return make("li", {}, link, " ", badge(run.status), run.error ? make("span", { class: "why" }, run.error) : null);
}

function arm(one) {
  return make(
    "div", { class: "arm" },
    make("h3", {}, one.name, " ", badge(one.status)),
    one.what ? make("p", { class: "quiet" }, one.what) : null,
    one.error ? make("p", { class: "why" }, one.error) : null,
    make("ul", { class: "chips" }, ...one.runs.map(seed)),
  );
}

function section(said) {
  const key = `section-${said.key}`;
  const place = $(key) ?? make(
    "section", { id: key, "aria-labelledby": `${key}-title` },
    make("h2", { id: `${key}-title` }, said.title), make("div"), make("div", { class: "figures" }), make("div"),
  );
  if (!place.isConnected) $("sections-of").append(place);
  const [, words, figures, tables] = place.children;
  fill(words, warning("Not all went well.", said.warning), said.text ? make("p", {}, said.text) : null, said.facts.length ? make("dl", { class: "facts" }, ...facts(said.facts)) : null);
  draw(figures, said.charts);
  fill(tables, ...said.tables.map((table) => make("div", { class: "titled" }, make("h3", {}, table.title), plainTable(table))));
}

const look = paced(1500, async () => {
  try {
    const said = await ask(address("api/comparison", id));
    runs = new Set(said.arms.flatMap((one) => one.runs.map((run) => run.id)));
    fill($("status"), badge(said.status));
    $("said").textContent = said.said;
    fill($("links"), said.report.there ? make("a", { href: address("report", id) }, "Report") : make("span", { class: "quiet" }, "Report: ", make("code", {}, said.report.command)));
    fill($("problem"), warning("This comparison cannot be read.", said.problem));
    fill($("results"), ...facts(said.results));
    fill($("arms"), ...said.arms.map(arm));
    // What the reader came for stands first, how it was made last.
    const made = (one) => Number(one.key === "what");
    said.sections.sort((a, b) => made(a) - made(b)).forEach(section);
  } catch (error) {
    complain(error);
  }
});

follow((changed) => {
  if (!changed || changed.some((one) => one === id || runs.has(one))) look();
});
