import { make, plainTable } from "/static/dom.js";
import { inMode, layout, night } from "/static/drawing.js";

const options = { displaylogo: false, displayModeBar: false };
const drawn = new Map();

const page = { height: 320, margin: { l: 48, r: 8, t: 12, b: 40 }, hovermode: "x unified" };

function frame(chart) {
  const picture = make("div", { class: "chart", role: "img", "aria-label": chart.title });
  const title = make("h3", {}, chart.title);
  const note = make("p", { class: "note" });
  const table = make("details", {}, make("summary", {}, "Show data"), make("div"));
  const figure = make("figure", { "data-key": chart.key }, title, picture, make("figcaption", {}, note, table));
  widths.observe(picture);
  // What nobody opens need not be made.
  table.addEventListener("toggle", () => fillTable(figure));
  return figure;
}

function fillTable(figure) {
  const { chart } = drawn.get(figure);
  const details = figure.querySelector("details");
  if (details.open && chart.table) details.lastElementChild.replaceChildren(plainTable(chart.table));
}

function put(figure, chart) {
  drawn.set(figure, { chart });
  const points = chart.points && chart.points.of >= 100
    ? `${chart.points.shown.toLocaleString("en")} of ${chart.points.of.toLocaleString("en")} points shown` +
      (chart.points.shown < chart.points.of ? "; the lowest and highest are always among them." : ".")
    : "";
  figure.querySelector("h3").textContent = chart.title;
  figure.querySelector(".note").textContent = [chart.note, points].filter(Boolean).join(" ");
  figure.querySelector("details").hidden = !chart.table;
  fillTable(figure);
  paint(figure);
}

function paint(figure) {
  const { chart } = drawn.get(figure);
  const { data, layout: own } = inMode(chart.figure);
  Plotly.react(figure.querySelector(".chart"), data, layout(own, { ...page, uirevision: chart.key }), options);
}

// Draws charts in a place, each where it was before, so that a zoom outlasts what is new.
export function draw(place, charts) {
  const before = new Map([...place.children].map((figure) => [figure.dataset.key, figure]));
  const figures = charts.map((chart) => before.get(chart.key) || frame(chart));
  for (const figure of before.values()) {
    if (!figures.includes(figure)) remove(figure);
  }
  // All of them first: how many there are decides how wide each one is.
  figures.forEach((figure) => figure.isConnected || place.append(figure));
  figures.forEach((figure, at) => put(figure, charts[at]));
}

function remove(figure) {
  widths.unobserve(figure.querySelector(".chart"));
  Plotly.purge(figure.querySelector(".chart"));
  drawn.delete(figure);
  figure.remove();
}

const widths = new ResizeObserver((entries) => {
  for (const { target } of entries) if (target.layout) Plotly.Plots.resize(target);
});

night.addEventListener("change", () => drawn.forEach((_, figure) => paint(figure)));
