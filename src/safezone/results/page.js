"use strict";
const dialog = document.getElementById("enlarged");
document.addEventListener("click", (event) => {
  const picture = event.target.closest(".strip img");
  if (picture) {
    dialog.querySelector("img").src = picture.src;
    dialog.querySelector("img").alt = picture.alt;
    dialog.querySelector("p").textContent = `${picture.dataset.where}: ${picture.alt}`;
    dialog.showModal();
  } else if (dialog.open && (event.target === dialog || event.target.closest("#enlarged button"))) {
    dialog.close();
  }
});
const key = (row, column) => {
  const cell = row.cells[column];
  const value = parseFloat(cell.dataset.value ?? cell.textContent);
  return Number.isNaN(value) ? cell.textContent : value;
};
for (const table of document.querySelectorAll(".sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    heads.forEach((other) => other.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const body = table.tBodies[0];
    const rows = [...body.rows].sort((a, b) => {
      const [x, y] = [key(a, column), key(b, column)];
      const order = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
      return up ? order : -order;
    });
    body.append(...rows);
  }));
}
