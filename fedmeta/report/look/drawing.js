// What the report and the live page draw alike: a figure's colours by day and night, axes and legend.
export const night = matchMedia("(prefers-color-scheme: dark)");

// The palette on a dark ground: the same hues, light enough to be seen.
const lighter = {
  "#0072B2": "#4DA6E8", "#D55E00": "#F28A3C", "#009E73": "#2CC79B", "#CC79A7": "#E29AC2",
  "#E69F00": "#F2B93B", "#56B4E9": "#8FD0F5", "#8C8C8C": "#A8A8A8", "#B8A800": "#D9CC3A",
  "#F2F2F2": "#2A2F35",
};

// A copy, because Plotly changes what it is given.
export const inMode = (figure) =>
  night.matches
    ? JSON.parse(JSON.stringify(figure).replace(/#[0-9A-F]{6}/g, (one) => lighter[one] || one))
    : structuredClone(figure);

// A figure's own layout in the colours of the page; what the page asks for stands where it says nothing.
export function layout(own, page) {
  const style = getComputedStyle(document.documentElement);
  const value = (name) => style.getPropertyValue(name).trim();
  const axis = (one) => ({
    automargin: true, gridcolor: value("--line"), linecolor: value("--line"), zeroline: false, ticks: "",
    color: value("--quiet"), ...one, title: { standoff: 12, ...(one || {}).title },
  });
  return {
    ...page, ...own, xaxis: axis(own.xaxis), yaxis: axis(own.yaxis),
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: value("--quiet") },
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
    hoverlabel: { bgcolor: value("--raised"), bordercolor: value("--line"), font: { color: value("--ink") } },
  };
}
