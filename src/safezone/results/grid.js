"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const dialog = document.getElementById("behind");
const make = (name, text, parent) => {
  const element = document.createElement(name);
  if (text !== undefined) element.textContent = text;
  if (parent) parent.append(element);
  return element;
};
const pictures = (parent, places, texts) => {
  const row = make("div", undefined, parent);
  row.className = "row";
  places.forEach((place, index) => {
    const image = make("img", undefined, row);
    image.src = data.pictures[place];
    image.alt = image.title = texts[index] ?? "";
  });
};
const open = (button) => {
  const [where, cell] = [button.dataset.cell, data.cells[button.dataset.cell]];
  const body = dialog.querySelector("div");
  body.replaceChildren();
  make("h2", button.dataset.where, body);
  make("p", button.dataset.score, body).className = "quiet";
  make("p", [...button.children].map((part) => part.textContent).join(" · "), body).className = "big";
  if (!cell) {
    make("p", "This is a mean, or was not measured here; open the cells that it is made of.", body);
    dialog.showModal();
    return;
  }
  const facts = make("dl", undefined, body);
  for (const [name, value] of cell.facts) {
    make("dt", name, facts);
    make("dd", value, facts);
  }
  const strips = data.strips[`${cell.section}|${where.split("|").slice(1).join("|")}`] ?? {};
  const scroll = make("div", undefined, body);
  scroll.className = "scroll";
  const table = make("table", undefined, scroll);
  const head = make("tr", undefined, make("thead", undefined, table));
  for (const name of ["Concept", "By seed", "Trained on", "Made, seed 0", "Learned"]) make("th", name, head);
  const rows = make("tbody", undefined, table);
  const prompts = new Set();
  for (const [concept, values] of cell.concepts) {
    const row = make("tr", undefined, rows);
    make("th", concept, row);
    make("td", values.join(", "), row);
    const [made, texts, training, learned] = strips[concept] ?? [[], [], [], ""];
    pictures(make("td", undefined, row), training, ["an image as given to the trainer", "its perturbation, 8 times amplified"]);
    pictures(make("td", undefined, row), made, texts);
    make("td", learned, row);
    texts.forEach((text) => prompts.add(text));
  }
  if (prompts.size) {
    const details = make("details", undefined, body);
    make("summary", "Prompts", details);
    const list = make("ol", undefined, details);
    for (const prompt of prompts) make("li", prompt, list);
  }
  if (cell.command) {
    make("p", "Command", body).className = "quiet";
    make("code", cell.command, make("pre", undefined, body));
  }
  dialog.showModal();
  dialog.scrollTop = 0;
};
document.addEventListener("click", (event) => {
  const button = event.target.closest(".cell");
  if (button) open(button);
  else if (dialog.open && (event.target === dialog || event.target.closest(".close"))) dialog.close();
});
const value = (row, column) => {
  const number = parseFloat(row.cells[column].dataset.value);
  return column === 0 || Number.isNaN(number) ? row.cells[column].textContent : number;
};
for (const table of document.querySelectorAll(".scores")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") !== "descending";
    heads.forEach((other) => other.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      const [x, y] = [value(a, column), value(b, column)];
      if (typeof x !== typeof y) return typeof x === "number" ? -1 : 1;
      const order = typeof x === "number" ? y - x : String(y).localeCompare(String(x));
      return down ? order : -order;
    });
    table.tBodies[0].append(...rows);
  }));
}
const filter = document.getElementById("filter");
filter.addEventListener("input", () => {
  const terms = filter.value.toLowerCase().split(",").map((term) => term.trim()).filter(Boolean);
  const hits = (name) => terms.some((term) => name.toLowerCase().includes(term));
  for (const table of document.querySelectorAll(".scores")) {
    const names = [...table.tHead.rows[0].cells].map((cell) => cell.textContent.trim());
    const rows = [...table.tBodies[0].rows];
    const columns = names.map((name, index) => index > 0 && hits(name));
    const anyColumn = columns.some(Boolean);
    const anyRow = rows.some((row) => hits(row.cells[0].textContent));
    for (const row of [table.tHead.rows[0], ...rows]) {
      row.hidden = row.parentNode !== table.tHead && anyRow && !hits(row.cells[0].textContent);
      [...row.cells].forEach((cell, index) => { cell.hidden = anyColumn && index > 0 && !columns[index]; });
    }
  }
});
