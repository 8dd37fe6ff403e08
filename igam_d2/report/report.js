// The table of classes: sorted by its headers, filtered by name. Without this it is complete.
(() => {
  const table = document.getElementById("classes");
  if (!table) return;
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const heads = Array.from(table.tHead.rows[0].cells);

  // A number, a text, or null for what is missing, which comes last either way.
  function value(row, column) {
    const cell = row.cells[column];
    const text = (cell.dataset.sort ?? cell.textContent).trim();
    if (text === "" || text === "\u2013") return null;
    if (column === 0) return text.toLowerCase();
    const number = Number(text.replace(/,/g, "").replace("\u2212", "-"));
    return Number.isNaN(number) ? text.toLowerCase() : number;
  }

  function compare(a, b) {
    if (typeof a === "string" || typeof b === "string") return String(a).localeCompare(String(b));
    return a - b;
  }

  function sort(column) {
    const head = heads[column];
    const direction = head.getAttribute("aria-sort");
    // Names and groups rise first, numbers fall first: what is largest is looked for most often.
    const rises = heads[column].dataset.rises === "true";
    const ascending = direction === null ? rises : direction === "descending";
    const keyed = rows.map((row, i) => ({ row, i, key: value(row, column) }));
    keyed.sort((x, y) => {
      if (x.key === null || y.key === null) return (x.key === null) - (y.key === null) || x.i - y.i;
      const order = compare(x.key, y.key);
      return (ascending ? order : -order) || x.i - y.i;
    });
    body.append(...keyed.map((item) => item.row));
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  }

  heads.forEach((head, column) => {
    const first = rows.map((row) => value(row, column)).find((key) => key !== null);
    head.dataset.rises = typeof first === "string" || head.textContent === "group";
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sort(column));
    head.append(button);
  });

  const search = document.getElementById("class-filter");
  const count = document.getElementById("class-count");
  function filter() {
    const words = search.value.trim().toLowerCase();
    let shown = 0;
    for (const row of rows) {
      const name = row.cells[0].textContent.toLowerCase();
      row.hidden = !name.includes(words) && !name.replace(/_/g, " ").includes(words);
      shown += !row.hidden;
    }
    count.textContent = `${shown.toLocaleString("en")} of ${rows.length.toLocaleString("en")}`;
  }
  search.addEventListener("input", filter);
  search.closest("p").hidden = false;
  filter();
})();
