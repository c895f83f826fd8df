"use strict";
// Sliders: one picture of many is shown, with its caption; without this script all stand in a row.
for (const box of document.querySelectorAll("[data-slides]")) {
  const frames = [...box.querySelectorAll(".frames > figure")];
  const slider = box.querySelector(".slider");
  const range = slider.querySelector("input");
  const button = slider.querySelector("button");
  const said = slider.querySelector("output");
  let playing = 0;
  const show = () => {
    const at = Number(range.value);
    frames.forEach((frame, k) => { frame.hidden = k !== at; });
    said.textContent = frames[at].querySelector("figcaption").textContent;
    range.setAttribute("aria-valuetext", said.textContent);
  };
  const stop = () => {
    clearInterval(playing);
    playing = 0;
    button.textContent = "▶";
    button.setAttribute("aria-label", "Play");
  };
  box.classList.add("slides");
  slider.hidden = false;
  range.addEventListener("input", () => { stop(); show(); });
  button.addEventListener("click", () => {
    if (playing) { stop(); return; }
    if (Number(range.value) === frames.length - 1) range.value = 0;
    button.textContent = "❚❚";
    button.setAttribute("aria-label", "Stop");
    show();
    playing = setInterval(() => {
      range.value = Number(range.value) + 1;
      show();
      if (Number(range.value) === frames.length - 1) stop();
    }, 350);
  });
  show();
}
// Charts: their values at the pointer, or at a place that the arrow keys move.
const written = (value) => {
  const size = Math.abs(value);
  if (size >= 1000) return value.toLocaleString("en", { maximumFractionDigits: size >= 1e5 ? 0 : 1 });
  return String(Number(value.toPrecision(4)));
};
for (const chart of document.querySelectorAll("[data-plot]")) {
  const plot = JSON.parse(chart.dataset.plot);
  const area = chart.querySelector(".area");
  const cursor = chart.querySelector(".cursor");
  const said = chart.querySelector("output");
  const scale = plot.log ? Math.log : Number;
  const place = (x) => (scale(x) - scale(plot.low)) / (scale(plot.high) - scale(plot.low));
  const stops = [...new Set(plot.series.flatMap((one) => one.x))].sort((a, b) => a - b);
  if (!stops.length) continue;
  let at = stops.length - 1;
  const nearest = (xs, x) => {
    let best = 0;
    xs.forEach((other, k) => {
      if (Math.abs(place(other) - place(x)) < Math.abs(place(xs[best]) - place(x))) best = k;
    });
    return best;
  };
  const tell = () => {
    const x = stops[at];
    cursor.hidden = false;
    cursor.style.left = `${100 * place(x)}%`;
    const parts = [document.createTextNode(`${plot.x} ${written(x)}`)];
    for (const one of plot.series) {
      if (!one.x.length) continue;
      const k = nearest(one.x, x);
      if (one.y[k] === null) continue;
      // A value that stands elsewhere is not this place's.
      if (one.low && one.x[k] !== x) continue;
      const name = document.createElement("span");
      const value = document.createElement("b");
      name.textContent = one.name;
      value.textContent = written(one.y[k]);
      if (one.low && one.low[k] !== null) {
        value.textContent += ` (${written(one.low[k])} to ${written(one.high[k])})`;
      }
      parts.push(" ", name, " ", value);
    }
    said.replaceChildren(...parts);
  };
  area.parentElement.addEventListener("pointermove", (event) => {
    const box = area.getBoundingClientRect();
    const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    const low = scale(plot.low);
    const x = low + share * (scale(plot.high) - low);
    at = nearest(stops, plot.log ? Math.exp(x) : x);
    tell();
  });
  area.parentElement.addEventListener("pointerleave", () => { cursor.hidden = true; });
  area.parentElement.addEventListener("keydown", (event) => {
    const far = Math.max(1, Math.round(stops.length / 40));
    const moves = { ArrowLeft: -far, ArrowRight: far, Home: -stops.length, End: stops.length };
    if (!(event.key in moves)) return;
    event.preventDefault();
    at = Math.min(stops.length - 1, Math.max(0, at + moves[event.key]));
    tell();
  });
}
