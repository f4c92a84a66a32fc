"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const places = [...document.querySelectorAll(".chart")];
  const night = matchMedia("(prefers-color-scheme: dark)");
  // The palette on a dark ground: the same hues, light enough to be seen.
  const lighter = {
    "#0072B2": "#4DA6E8", "#D55E00": "#F28A3C", "#009E73": "#2CC79B", "#CC79A7": "#E29AC2",
    "#E69F00": "#F2B93B", "#56B4E9": "#8FD0F5", "#8C8C8C": "#A8A8A8", "#B8A800": "#D9CC3A", "#F2F2F2": "#2A2F35",
  };
  const inMode = (figure) => {
    if (!night.matches) return structuredClone(figure);
    return JSON.parse(JSON.stringify(figure).replace(/#[0-9A-F]{6}/g, (one) => lighter[one] || one));
  };
  const axis = (ink, line) => ({
    automargin: true, gridcolor: line, linecolor: line, zeroline: false, ticks: "", color: ink,
    title: { standoff: 12 },
  });
  const merged = (base, own) => ({ ...base, ...own, title: { ...base.title, ...(own || {}).title } });
  function layout(own) {
    const style = getComputedStyle(document.documentElement);
    const ink = style.getPropertyValue("--quiet").trim();
    const line = style.getPropertyValue("--line").trim();
    const ground = style.getPropertyValue("--raised").trim();
    return {
      height: 360, ...own,
      xaxis: merged(axis(ink, line), own.xaxis), yaxis: merged(axis(ink, line), own.yaxis),
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: ink },
      margin: { l: 56, r: 12, t: 24, b: 48 },
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
      hoverlabel: { bgcolor: ground, bordercolor: line, font: { color: style.getPropertyValue("--ink").trim() } },
      hovermode: "closest", dragmode: touched ? false : "zoom",
    };
  }
  // A finger scrolls the page; buttons that never hide would lie on the legend.
  const touched = matchMedia("(hover: none)").matches;
  const options = {
    responsive: true, displaylogo: false, displayModeBar: touched ? false : "hover",
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]], toImageButtonOptions: { format: "svg" },
  };
  const drawn = new Set();
  function draw(place) {
    drawn.add(place);
    const figure = inMode(figures[Number(place.dataset.chart)]);
    Plotly.react(place, figure.data, layout(figure.layout), options);
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
})();
