"use strict";
const $ = (selector, parent = document) => parent.querySelector(selector);
const all = (selector, parent = document) => [...parent.querySelectorAll(selector)];
const data = JSON.parse($("#data").textContent);
const make = (name, text, parent) => {
  const element = document.createElement(name);
  if (text !== undefined) element.textContent = text;
  parent?.append(element);
  return element;
};
const texts = (parent) => [...parent.children].map((part) => part.textContent);
const behind = (kind, ...names) => $(`[data-${kind}="${CSS.escape(names.join("|"))}"]`);
const copies = (from, parent, most) => {
  const row = make("div", undefined, parent);
  row.className = "row strip";
  if (!from) return [];
  const images = all(".strip", from).flatMap((strip) => all("img", strip).slice(0, most));
  images.forEach((image) => {
    row.dataset.where = image.parentNode.dataset.where;
    row.append(image.cloneNode());
  });
  return images.map((image) => image.alt);
};
const open = (button) => {
  const [place, poison, defense] = button.dataset.cell.split("|");
  const [section, cell] = [place.split(".")[0], data.cells[button.dataset.cell]];
  const body = $("#behind div");
  body.replaceChildren();
  make("h2", button.dataset.where, body);
  make("p", button.dataset.score, body).className = "quiet";
  make("p", texts(button).join(" · "), body).className = "big";
  if (!cell) make("p", "This is a mean, or was not measured here; open the cells that it is made of.", body);
  else {
    const facts = make("dl", undefined, body);
    for (const [name, value] of cell.facts) {
      make("dt", name, facts);
      make("dd", value, facts);
    }
    const scroll = make("div", undefined, body);
    scroll.className = "scroll";
    const table = make("table", undefined, scroll);
    const head = make("tr", undefined, make("thead", undefined, table));
    for (const name of ["Concept", "By seed", "Trained on", "Made, first seed", "Learned"]) make("th", name, head);
    const rows = make("tbody", undefined, table);
    const prompts = new Set();
    for (const [concept, values] of cell.concepts) {
      const row = make("tr", undefined, rows);
      const strip = behind("strip", section, concept, poison, defense);
      make("th", concept, row);
      make("td", values, row);
      copies(behind("training", section, concept, poison), make("td", undefined, row), 1);
      copies(strip, make("td", undefined, row)).forEach((text) => prompts.add(text));
      make("td", strip?.dataset.learned ?? "", row);
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
  }
  $("#behind").showModal();
  $("#behind").scrollTop = 0;
};
document.addEventListener("click", (event) => {
  const [cell, image] = [event.target.closest(".cell"), event.target.closest(".strip img")];
  if (cell) open(cell);
  else if (image) {
    $("#enlarged img").src = image.src;
    $("#enlarged img").alt = image.alt;
    $("#enlarged p").textContent = `${image.parentNode.dataset.where}: ${image.alt}`;
    $("#enlarged").showModal();
  } else if (event.target.matches("dialog, dialog .close")) event.target.closest("dialog").close();
});
const value = (row, column) => {
  const cell = row.cells[column];
  const number = parseFloat(cell.dataset.value ?? cell.textContent);
  return Number.isNaN(number) ? cell.textContent : number;
};
for (const table of all(".scores, .sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") !== "descending";
    heads.forEach((other) => other.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      const [x, y] = [value(a, column), value(b, column)];
      if (typeof x !== typeof y) return typeof x === "number" ? -1 : 1;
      const order = typeof x === "number" ? y - x : y.localeCompare(x);
      return down ? order : -order;
    });
    table.tBodies[0].append(...rows);
  }));
}
$("#filter").addEventListener("input", ({ target }) => {
  const terms = target.value.toLowerCase().split(",").map((term) => term.trim()).filter(Boolean);
  const hits = (name) => terms.some((term) => name.toLowerCase().includes(term));
  for (const table of all(".scores")) {
    const [head, ...rows] = table.rows;
    const columns = [...head.cells].map((cell, index) => index > 0 && hits(cell.textContent));
    const anyRow = rows.some((row) => hits(row.cells[0].textContent));
    for (const row of table.rows) {
      row.hidden = row !== head && anyRow && !hits(row.cells[0].textContent);
      [...row.cells].forEach((cell, index) => { cell.hidden = columns.includes(true) && index > 0 && !columns[index]; });
    }
  }
});
