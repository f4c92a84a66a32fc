// Draws the charts of the report and of the live page.
const night = matchMedia("(prefers-color-scheme: dark)");
// A finger scrolls the page; buttons that never hide would lie on the legend.
const touched = matchMedia("(hover: none)").matches;
const options = {
  responsive: true, displaylogo: false, displayModeBar: touched ? false : "hover",
  modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]], toImageButtonOptions: { format: "svg" },
};
const page = {
  height: 360, margin: { l: 56, r: 12, t: 24, b: 48 }, hovermode: "closest", dragmode: touched ? false : "zoom",
};

// The palette on a dark ground: the same hues, light enough to be seen.
const lighter = {
  "#0072B2": "#4DA6E8", "#D55E00": "#F28A3C", "#009E73": "#2CC79B", "#CC79A7": "#E29AC2",
  "#E69F00": "#F2B93B", "#56B4E9": "#8FD0F5", "#8C8C8C": "#A8A8A8", "#B8A800": "#D9CC3A",
  "#F2F2F2": "#2A2F35",
};

function layout(own, chart) {
  const style = getComputedStyle(document.documentElement);
  const value = (name) => style.getPropertyValue(name).trim();
  const axis = (one) => ({
    automargin: true, gridcolor: value("--line"), linecolor: value("--line"), zeroline: false, ticks: "",
    color: value("--quiet"), ...one, title: { standoff: 12, ...(one || {}).title },
  });
  return {
    // A zoom outlasts new points.
    ...page, uirevision: chart, ...own, xaxis: axis(own.xaxis), yaxis: axis(own.yaxis),
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: value("--quiet") },
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
    hoverlabel: { bgcolor: value("--raised"), bordercolor: value("--line"), font: { color: value("--ink") } },
  };
}

let figures = {};
const drawn = new Map();

function draw(place) {
  const { chart } = place.parentElement.dataset;
  const said = JSON.stringify(figures[chart]);
  if (drawn.get(place) === said) return;
  drawn.set(place, said);
  // A copy, because Plotly changes what it is given.
  const figure = JSON.parse(night.matches ? said.replace(/#[0-9A-F]{6}/g, (one) => lighter[one] || one) : said);
  Plotly.react(place, figure.data, layout(figure.layout, chart), options);
}

// Charts are drawn only once they are scrolled to.
const seen = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    seen.unobserve(target);
    draw(target);
  }
}, { rootMargin: "600px" });

// Draws the charts that are in the page now; again where their values changed.
export function drawCharts() {
  figures = JSON.parse(document.getElementById("figures").textContent);
  const places = [...document.querySelectorAll(".chart")];
  for (const place of drawn.keys()) if (!places.includes(place)) drawn.delete(place);
  for (const place of places) drawn.has(place) ? draw(place) : seen.observe(place);
}

night.addEventListener("change", () => {
  const places = [...drawn.keys()];
  drawn.clear();
  places.forEach(draw);
});
addEventListener("beforeprint", () => document.querySelectorAll(".chart").forEach(draw));
