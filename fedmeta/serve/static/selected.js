import { draw } from "/static/charts.js";
import { $, address, ask, badge, complain, fill, make, plainTable, warning } from "/static/dom.js";
import { follow, paced } from "/static/live.js";

const ids = new URLSearchParams(location.search).getAll("run");

const look = paced(500, async () => {
  try {
    const said = await ask(`/api/selected${location.search}`);
    fill($("problem"), warning("Read these with care.", said.warning));
    fill($("runs"), ...said.runs.map((run) =>
      make("li", {}, make("a", { href: address("run", run.id) }, run.id), " ", badge(run.status), run.problem ? make("span", { class: "why" }, run.problem) : null)));
    draw($("curves"), said.charts);
    fill($("results"), make("h2", {}, said.table.title), plainTable(said.table));
  } catch (error) {
    complain(error);
  }
});

follow((changed) => {
  if (!changed || changed.some((id) => ids.includes(id))) look();
});
