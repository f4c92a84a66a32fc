import { make, plainTable } from "/static/dom.js";

const night = matchMedia("(prefers-color-scheme: dark)");
// The palette on a dark ground: the same hues, light enough to be seen.
const lighter = {
  "#0072B2": "#4DA6E8", "#D55E00": "#F28A3C", "#009E73": "#2CC79B", "#CC79A7": "#E29AC2",
  "#E69F00": "#F2B93B", "#56B4E9": "#8FD0F5", "#8C8C8C": "#A8A8A8", "#B8A800": "#D9CC3A",
  "#F2F2F2": "#2A2F35",
};
const options = { displaylogo: false, displayModeBar: false };
const drawn = new Map();

const inMode = (data) =>
  night.matches ? JSON.parse(JSON.stringify(data).replace(/#[0-9A-F]{6}/g, (one) => lighter[one] || one)) : data;

function layout(own, key) {
  const style = getComputedStyle(document.documentElement);
  const value = (name) => style.getPropertyValue(name).trim();
  const axis = {
    automargin: true, gridcolor: value("--line"), linecolor: value("--line"), zeroline: false, ticks: "",
    color: value("--quiet"),
  };
  const merged = (one) => ({ ...axis, ...one, title: { standoff: 10, ...(one || {}).title } });
  return {
    height: 320, ...own, xaxis: merged(own.xaxis), yaxis: merged(own.yaxis), uirevision: key,
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: value("--quiet") },
    margin: { l: 48, r: 8, t: 12, b: 40 },
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
    hoverlabel: { bgcolor: value("--raised"), bordercolor: value("--line"), font: { color: value("--ink") } },
    hovermode: "x unified",
  };
}

function frame(chart) {
  const picture = make("div", { class: "chart", role: "img", "aria-label": chart.title });
  const title = make("h3", {}, chart.title);
  const note = make("p", { class: "note" });
  const table = make("details", {}, make("summary", {}, "The same as a table"), make("div"));
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
  const own = structuredClone(chart.figure);
  Plotly.react(figure.querySelector(".chart"), inMode(own.data), layout(inMode(own.layout), chart.key), options);
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
