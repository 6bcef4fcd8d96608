// The book: tables of results that a click on a heading sorts, and what scrolls sideways can be reached by keyboard.
"use strict";

const number = (text) => (/^[-+]?[\d.]/.test(text) ? parseFloat(text) : NaN);

function compare(one, other) {
  const difference = number(one) - number(other);
  return Number.isNaN(difference) ? one.localeCompare(other, "en") : difference;
}

function sort(table, heading) {
  const column = heading.cellIndex, up = heading.getAttribute("aria-sort") !== "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", up ? "ascending" : "descending");
  const text = (row) => row.cells[column].textContent.trim();
  const rows = [...table.tBodies[0].rows].sort((one, other) => compare(text(one), text(other)) * (up ? 1 : -1));
  table.tBodies[0].append(...rows);
}

function makeSortable(table) {
  for (const heading of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.className = "sort";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => sort(table, heading));
  }
}

function reachable() {
  for (const box of document.querySelectorAll("pre, .equation, .pst-scrollable-table-container, .output")) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
  }
}

if (document.getElementById("results")) document.querySelectorAll("article table").forEach(makeSortable);
reachable();
window.addEventListener("resize", reachable);
