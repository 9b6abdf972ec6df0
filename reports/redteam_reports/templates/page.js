"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = table.tHead.rows[0].cells;
  for (let column = 0; column < heads.length; column++) {
    const head = heads[column], button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = row => row.cells[column] ? row.cells[column].textContent : "";
      const compare = (a, b) => parseFloat(a) - parseFloat(b) || a.localeCompare(b, "en", { numeric: true });
      const rows = [...table.tBodies[0].rows].sort((a, b) => compare(key(a), key(b)) * (down ? -1 : 1));
      table.tBodies[0].append(...rows);
    });
  }
}
const tools = document.getElementById("filter");
if (tools) {
  tools.hidden = false;
  const groups = [...document.querySelectorAll("#cells details details")], said = tools.querySelector("output");
  tools.querySelector("input").addEventListener("input", event => {
    const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const group of groups) {
      const name = group.querySelector("summary").textContent.toLowerCase();
      let here = 0;
      for (const row of group.querySelector("tbody").rows) {
        const text = name + " " + row.textContent.toLowerCase();
        row.hidden = !words.every(word => text.includes(word));
        here += !row.hidden;
      }
      group.hidden = here === 0;
      if (words.length) group.open = here > 0;
      shown += here;
    }
    said.textContent = words.length ? `${shown} cells` : "";
  });
}
const reveal = () => {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  for (let one = target && target.closest("details"); one; one = one.parentElement.closest("details")) one.open = true;
  if (target) target.scrollIntoView();
};
addEventListener("hashchange", reveal);
reveal();
addEventListener("beforeprint", () => {
  for (const one of document.querySelectorAll("details.more:not([open])")) { one.open = true; one.dataset.closed = ""; }
});
addEventListener("afterprint", () => {
  for (const one of document.querySelectorAll("details.more[data-closed]")) { one.open = false; delete one.dataset.closed; }
});
