const figures = JSON.parse(document.getElementById("figures").textContent);
const places = [...document.querySelectorAll(".chart")];
// A finger scrolls the page; buttons that never hide would lie on the legend.
const touched = matchMedia("(hover: none)").matches;
const options = {
  responsive: true, displaylogo: false, displayModeBar: touched ? false : "hover",
  modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]], toImageButtonOptions: { format: "svg" },
};
const page = {
  height: 360, margin: { l: 56, r: 12, t: 24, b: 48 }, hovermode: "closest", dragmode: touched ? false : "zoom",
};
const drawn = new Set();
function draw(place) {
  drawn.add(place);
  const figure = inMode(figures[Number(place.dataset.chart)]);
  Plotly.react(place, figure.data, layout(figure.layout, page), options);
}
// What nobody has scrolled to yet costs nothing.
const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting) {
      seen.unobserve(entry.target);
      draw(entry.target);
    }
  }
}, { rootMargin: "600px" });
places.forEach((place) => seen.observe(place));
night.addEventListener("change", () => drawn.forEach(draw));
addEventListener("beforeprint", () => places.filter((place) => !drawn.has(place)).forEach(draw));
