// Sorts and filters the table of the leaderboard; without it the table is whole, in the order of its ranks.
(() => {
  const board = document.getElementById("board");
  if (!board) return;
  const body = board.querySelector("tbody");
  const rows = [...body.rows];
  const heads = [...board.querySelectorAll("th")];
  const told = (row, column) => row.cells[column].textContent;
  const numbers = ["#", "theft", "fidelity", "price"];

  // Cells without a figure come last, whichever way the others go.
  const compare = (column, sign) => (one, other) => {
    const texts = [told(one, column), told(other, column)];
    if (!numbers.includes(heads[column].textContent)) return sign * texts[0].localeCompare(texts[1]);
    const [a, b] = texts.map(Number.parseFloat);
    if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
    return sign * (a - b);
  };

  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((one) => one.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      body.append(...[...rows].sort(compare(column, down ? -1 : 1)));
    });
  });

  const filters = document.createElement("form");
  filters.className = "filters";
  filters.addEventListener("submit", (event) => event.preventDefault());
  const count = document.createElement("output");
  const asked = [];
  const show = () => {
    rows.forEach((row) => { row.hidden = !asked.every((fits) => fits(row)); });
    count.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length}`;
  };
  const labelled = (text, field) => {
    const label = document.createElement("label");
    label.append(`${text} `, field);
    field.addEventListener("input", show);
    filters.append(label);
  };

  const search = document.createElement("input");
  search.type = "search";
  asked.push((row) => row.textContent.toLowerCase().includes(search.value.trim().toLowerCase()));
  labelled("Filter", search);
  heads.forEach((head, column) => {
    const name = head.textContent;
    if (!["verdict", "scenario", "threat model"].includes(name)) return;
    const choice = document.createElement("select");
    const first = (row) => told(row, column).split(" ")[0]; // the word, without flags
    choice.append(new Option("all", ""), ...[...new Set(rows.map(first))].sort().map((value) => new Option(value)));
    asked.push((row) => !choice.value || first(row) === choice.value);
    labelled(name, choice);
  });
  filters.append(count);
  board.before(filters);
  show();
})();
