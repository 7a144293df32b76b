// Sorts a table by the column whose heading is pressed: numbers as numbers, empty cells last.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    const numeric = head.classList.contains("number");
    const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
    const rows = [...table.tBodies[0].rows].map((row, place) => ({ row, place, value: key(row) }));
    rows.sort((a, b) => {
      if ((a.value === "") !== (b.value === "")) return a.value === "" ? 1 : -1;
      const order = numeric ? Number(a.value) - Number(b.value) : a.value.localeCompare(b.value);
      return (up ? order : -order) || a.place - b.place;
    });
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    table.tBodies[0].append(...rows.map((item) => item.row));
  }));
}

// The page of the candidates starts when it comes near the screen, and is as high as it needs.
const frame = document.getElementById("explorer");
if (frame) {
  const note = document.getElementById("explorer-note");
  note.hidden = true;
  const look = new IntersectionObserver((seen) => {
    if (!seen.some((one) => one.isIntersecting)) { return; }
    look.disconnect();
    frame.addEventListener("load", () => {
      const body = frame.contentDocument.body;
      new ResizeObserver(() => { frame.style.height = `${body.scrollHeight + 4}px`; }).observe(body);
    });
    frame.srcdoc = JSON.parse(document.getElementById("explorer-page").textContent);
  }, { rootMargin: "600px" });
  look.observe(frame);
}
