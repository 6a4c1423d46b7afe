"use strict";
const options = {
  responsive: true, displaylogo: false, modeBarButtons: [["zoom2d", "resetScale2d", "toImage"]],
};
for (const box of document.querySelectorAll(".chart")) {
  const chart = JSON.parse(document.getElementById(box.dataset.chart).textContent);
  chart.layout.font = {family: "system-ui, sans-serif", size: 13};
  const axis = chart.layout.xaxis;
  if (innerWidth < 600 && axis.tickvals) {
    const keep = (_, i) => String(axis.tickvals[i]).startsWith("1");
    [axis.tickvals, axis.ticktext] = [axis.tickvals.filter(keep), axis.ticktext.filter(keep)];
  }
  if (innerWidth < 600) chart.layout.height += 18 * chart.data.length; // of the legend
  Plotly.newPlot(box, chart.data, chart.layout, options);
}

for (const button of document.querySelectorAll(".open")) {
  button.addEventListener("click", () => {
    const open = button.getAttribute("aria-expanded") !== "true";
    button.setAttribute("aria-expanded", open);
    for (const row of button.closest("tbody").querySelectorAll(".run")) row.hidden = !open;
  });
}

for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const heading = button.closest("th"), table = button.closest("table");
    const column = [...heading.parentNode.children].indexOf(heading);
    const down = heading.getAttribute("aria-sort") === "ascending";
    for (const other of heading.parentNode.children) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = (body) => body.rows[0].cells[column].dataset.value;
    const compare = button.dataset.kind === "number"
      ? (a, b) => value(a) - value(b) : (a, b) => value(a).localeCompare(value(b));
    const bodies = [...table.tBodies].sort(compare);
    table.append(...(down ? bodies.reverse() : bodies));
  });
}

function filter() {
  const phrases = document.getElementById("filter").value.toLowerCase().split(",").map((p) => p.trim());
  const front = document.getElementById("front").checked;
  for (const section of document.querySelectorAll("section")) {
    const title = section.querySelector("h2").textContent.toLowerCase() + " ";
    for (const body of section.querySelectorAll("tbody")) {
      const said = title + body.dataset.words;
      body.hidden = !phrases.every((phrase) => said.includes(phrase)) || (front && body.dataset.front !== "1");
    }
  }
}
document.getElementById("filter").addEventListener("input", filter);
document.getElementById("front").addEventListener("change", filter);
