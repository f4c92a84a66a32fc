// Elements are made from data as text, never as HTML.
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export const $ = (id) => document.getElementById(id);

export function fill(place, ...children) {
  place.replaceChildren(...children.filter((child) => child !== null && child !== undefined));
}

// Names of folders may hold anything; the slash alone keeps its meaning.
export const address = (page, id) => `/${page}/${id.split("/").map(encodeURIComponent).join("/")}`;

export async function ask(url) {
  let answer;
  try {
    answer = await fetch(url, { cache: "no-store" });
  } catch {
    throw new Error("The server does not answer. Is `fedmeta serve` still running?");
  }
  const said = await answer.json().catch(() => ({ error: `status ${answer.status}` }));
  if (!answer.ok) throw new Error(said.error);
  return said;
}

export function complain(error) {
  fill($("problem"), error ? make("p", { class: "panel", role: "alert" }, error.message) : null);
}

export const warning = (title, text, kind = "") =>
  text ? make("p", { class: `panel ${kind}`, role: "note" }, make("strong", {}, title), ` ${text}`) : null;

export const badge = (status) => {
  const known = ["running", "finished", "failed", "interrupted", "killed", "waiting"];
  return make("span", { class: `status ${known.includes(status) ? status : "unreadable"}` }, status);
};

// As the report writes numbers: whole ones in full, others to three decimals or four digits.
export function shown(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  const size = Math.abs(value);
  if (value === 0 || (Number.isInteger(value) && size >= 2)) return value.toLocaleString("en");
  if (size >= 0.001 && size < 100) return value.toFixed(3);
  return value.toLocaleString("en", { maximumSignificantDigits: 4 });
}

// Of what is a count by its nature: 1 of them is no 1.000.
export const count = (value) => (typeof value === "number" ? value.toLocaleString("en") : shown(value));

export const interval = (mean, half) =>
  half === null || half === undefined ? shown(mean) : `${shown(mean)} ± ${shown(half)}`;

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${String(Math.floor(seconds % 60)).padStart(2, "0")} s`;
  return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
}

const time = { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
export function moment(iso) {
  const at = new Date(iso ?? "");
  if (Number.isNaN(at.getTime())) return "–";
  const year = at.getFullYear() === new Date().getFullYear() ? {} : { year: "numeric" };
  return make("time", { datetime: iso, title: iso }, at.toLocaleString("en", { ...time, ...year }));
}

export function facts(pairs) {
  return pairs.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value)));
}

export function plainTable(table) {
  const head = table.columns.map((name) => make("th", { scope: "col" }, name));
  const rows = table.rows.map((row) => make("tr", {}, ...row.map((cell) => make("td", { class: cell.length < 24 ? "brief" : null }, cell))));
  const grid = make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows));
  const label = table.title || table.columns.join(", ");
  return make(
    "div", {},
    make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, grid),
    table.note ? make("p", { class: "note" }, table.note) : null,
  );
}
