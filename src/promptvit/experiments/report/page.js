"use strict";
// Sort a table by a column: numbers highest first, words from a on, the other way round on the next press. What is missing stays last;
// quoted lines are sorted among themselves.
for (const table of document.querySelectorAll("table")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const isText = head.classList.contains("text");
    const value = row => row.cells[column].dataset.sort;
    const compare = (a, b) => isText ? (a < b ? -1 : a > b ? 1 : 0) : Number(a) - Number(b);
    head.querySelector("button").addEventListener("click", () => {
      const now = head.getAttribute("aria-sort");
      const ascending = now === "none" ? isText : now === "descending";
      for (const other of heads) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      for (const body of table.tBodies) {
        const rows = [...body.rows].filter(row => !row.classList.contains("divider"));
        const known = rows.filter(row => value(row) !== undefined);
        known.sort((a, b) => (ascending ? 1 : -1) * compare(value(a), value(b)));
        body.append(...known, ...rows.filter(row => value(row) === undefined));
      }
    });
  });
}
