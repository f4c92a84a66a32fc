import { make } from "/static/dom.js";

const compare = (a, b) => {
  // Unknown values come last in either order.
  if (a === null || a === undefined || b === null || b === undefined) return (a ?? null) === null ? 1 : -1;
  return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
};

// A table that is searched and sorted in the browser.
//
// columns: { name, title, cell(row), value?(row), text?(row), kind? }; key(row) names a row.
export class Grid {
  constructor(place, columns, key, first) {
    this.columns = columns;
    this.key = key;
    this.rows = [];
    this.words = [];
    this.by = first.by;
    this.down = first.down;
    this.made = new Map();
    this.buttons = columns.map((column) => this.header(column));
    this.body = make("tbody");
    place.replaceChildren(
      make("table", {}, make("thead", {}, make("tr", {}, ...this.buttons)), this.body),
    );
    this.mark();
  }

  header(column) {
    if (!column.value) return make("th", { scope: "col", class: column.kind }, make("span", { class: "hidden" }, column.title));
    const button = make("button", { type: "button", onclick: () => this.sort(column) }, column.title);
    return make("th", { scope: "col", class: column.kind }, button);
  }

  sort(column) {
    this.down = this.by === column.name ? !this.down : Boolean(column.down);
    this.by = column.name;
    this.mark();
    this.show();
    this.changed?.();
  }

  mark() {
    this.columns.forEach((column, place) => {
      const order = this.down ? "descending" : "ascending";
      if (column.name === this.by) this.buttons[place].setAttribute("aria-sort", order);
      else this.buttons[place].removeAttribute("aria-sort");
    });
  }

  search(text) {
    this.words = text.toLowerCase().split(/\s+/).filter(Boolean);
    this.show();
  }

  update(rows) {
    this.rows = rows;
    this.show();
  }

  matching() {
    const text = (row) => this.columns.map((column) => (column.text ?? column.value)?.(row) ?? "").join(" ").toLowerCase();
    return this.words.length ? this.rows.filter((row) => { const all = text(row); return this.words.every((word) => all.includes(word)); }) : this.rows;
  }

  show() {
    const column = this.columns.find((one) => one.name === this.by);
    const sign = this.down ? -1 : 1;
    const rows = this.matching().map((row) => [column.value(row), row]).sort(([a, first], [b, second]) => {
      const missing = (a ?? null) === null || (b ?? null) === null;
      return (missing ? compare(a, b) * (((a ?? null) === (b ?? null)) ? 0 : 1) : sign * compare(a, b)) || compare(this.key(first), this.key(second));
    });
    const focused = this.focus();
    const elements = rows.map(([, row]) => this.element(row));
    const same = elements.length === this.body.children.length && elements.every((one, place) => one === this.body.children[place]);
    if (!same) this.body.replaceChildren(...elements);
    this.refocus(focused);
    this.count = rows.length;
  }

  // Unchanged rows keep their elements, so that focus and ticks stay.
  element(row) {
    const said = JSON.stringify(row);
    const known = this.made.get(this.key(row));
    if (known && known.said === said) return known.element;
    const cells = this.columns.map((column) => {
      const cell = make("td", { class: column.kind, "data-title": column.title }, ...[column.cell(row)].flat());
      cell.classList.toggle("nothing", cell.textContent === "–");
      return cell;
    });
    const element = make("tr", { "data-key": this.key(row) }, ...cells);
    this.made.set(this.key(row), { said, element });
    return element;
  }

  focus() {
    const active = document.activeElement;
    const row = this.body.contains(active) ? active.closest("tr") : null;
    return row && { key: row.dataset.key, place: [...row.querySelectorAll("a, input, button, summary")].indexOf(active) };
  }

  refocus(focused) {
    if (!focused || this.body.contains(document.activeElement)) return;
    const row = [...this.body.children].find((one) => one.dataset.key === focused.key);
    row?.querySelectorAll("a, input, button, summary")[focused.place]?.focus();
  }
}
