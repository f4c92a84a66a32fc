// Makes elements; data becomes text, never HTML.
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

// Folder names may hold any character; only the slash keeps its meaning.
export const address = (id) => `/runs/${id.split("/").map(encodeURIComponent).join("/")}/`;

export async function reach(url, headers = {}) {
  try {
    return await fetch(url, { cache: "no-store", headers });
  } catch {
    throw new Error("The server does not answer. Is `fedmeta serve` still running?");
  }
}

export function complain(error) {
  fill($("problem"), error ? make("p", { class: "warning", role: "alert" }, error.message) : null);
}

export const badge = (status) => {
  const known = ["running", "finished", "failed", "interrupted", "killed"];
  return make("span", { class: `status ${known.includes(status) ? status : "unreadable"}` }, status);
};

// Formats numbers as in the report: integers in full, others with three decimals or four digits.
export function shown(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  const size = Math.abs(value);
  if (value === 0 || (Number.isInteger(value) && size >= 2)) return value.toLocaleString("en");
  if (size >= 0.001 && size < 100) return value.toFixed(3);
  return value.toLocaleString("en", { maximumSignificantDigits: 4 });
}

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
