import { $, complain, reach } from "/static/dom.js";
import { drawCharts } from "/static/drawing.js";
import { follow, paced } from "/static/live.js";

const ids = () => JSON.parse($("content").dataset.ids);
let version = null;

const key = (node) => node.id || node.dataset?.chart;

// Brings a node to the state of another one. What is the same in both stays as it is, and with it what
// the reader does there: focus, selected text, open details, places scrolled to.
function morph(old, now) {
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== now.data) old.data = now.data;
    return;
  }
  // Plotly draws in it.
  if (old.classList.contains("chart") || old.isEqualNode(now)) return;
  for (const { name } of [...old.attributes]) {
    if (name !== "open" && !now.hasAttribute(name)) old.removeAttribute(name);
  }
  for (const { name, value } of now.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  const known = new Map([...old.children].filter(key).map((child) => [key(child), child]));
  let place = old.firstChild;
  for (const next of [...now.childNodes]) {
    const alike = place && !key(place) && place.nodeName === next.nodeName ? place : null;
    const same = key(next) ? known.get(key(next)) : alike;
    if (same && same === place) place = place.nextSibling;
    else old.insertBefore(same ?? next, place);
    if (same) morph(same, next);
  }
  while (place) {
    const last = place;
    place = place.nextSibling;
    last.remove();
  }
}

const look = paced(500, async () => {
  try {
    const answer = await reach(location.href, version ? { "If-None-Match": version } : {});
    if (answer.status !== 304) {
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (!answer.ok) throw new Error(page.querySelector("[role=alert] p").textContent);
      version = answer.headers.get("ETag");
      morph($("content"), page.getElementById("content"));
      drawCharts();
    }
    complain(null);
    if (answer.headers.has("Retry-After")) setTimeout(look, 1000);
  } catch (error) {
    complain(error);
  }
});

drawCharts();
follow((changed) => {
  if (!changed || changed.some((id) => ids().includes(id))) look();
});
