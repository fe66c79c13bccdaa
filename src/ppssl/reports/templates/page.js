"use strict";

/** A map of the embedding: shows the image of the point under the pointer, or that the arrow keys reach. */
function startMap(map) {
  const canvas = map.querySelector(".canvas");
  const drawing = canvas.querySelector("svg");
  const points = [...drawing.querySelectorAll("circle")];
  const places = points.map((p) => [p.cx.baseVal.value, p.cy.baseVal.value]);
  const names = JSON.parse(map.querySelector("script").textContent);
  const bubble = canvas.querySelector(".bubble");
  const tile = bubble.querySelector(".tile");
  const columns = Number(map.dataset.columns);
  const rows = Math.ceil(points.length / columns);
  const shown = 112;
  const width = drawing.viewBox.baseVal.width;
  let current = -1;
  tile.style.backgroundSize = `${columns * shown}px ${rows * shown}px`;

  function isShown(i) { return !points[i].classList.contains("dim"); }

  function nearest(x, y, within, allowed) {
    let best = -1;
    let least = within;
    places.forEach(([px, py], i) => {
      const distance = Math.hypot(px - x, py - y);
      if (distance < least && isShown(i) && allowed(px - x, py - y, i)) { best = i; least = distance; }
    });
    return best;
  }

  function show(i) {
    if (current >= 0) points[current].classList.remove("here");
    current = i;
    bubble.hidden = i < 0;
    if (i < 0) return;
    points[i].classList.add("here");
    tile.style.backgroundPosition = `-${(i % columns) * shown}px -${Math.floor(i / columns) * shown}px`;
    bubble.querySelector("span").textContent = names[i];
    const scale = canvas.clientWidth / width;
    const x = places[i][0] * scale;
    const y = places[i][1] * scale;
    const left = x + 14 + bubble.offsetWidth > canvas.clientWidth ? x - 14 - bubble.offsetWidth : x + 14;
    bubble.style.left = `${Math.max(0, left)}px`;
    bubble.style.top = `${Math.max(0, Math.min(y - 30, canvas.clientHeight - bubble.offsetHeight))}px`;
  }

  function point(event) {
    const box = drawing.getBoundingClientRect();
    const scale = width / box.width;
    show(nearest((event.clientX - box.left) * scale, (event.clientY - box.top) * scale, 24, () => true));
  }

  const steps = {
    ArrowRight: (dx, dy) => dx > Math.abs(dy), ArrowLeft: (dx, dy) => -dx > Math.abs(dy),
    ArrowDown: (dx, dy) => dy > Math.abs(dx), ArrowUp: (dx, dy) => -dy > Math.abs(dx),
  };
  canvas.addEventListener("pointermove", point);
  canvas.addEventListener("pointerdown", point);
  canvas.addEventListener("pointerleave", () => show(-1));
  canvas.addEventListener("blur", () => show(-1));
  canvas.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { show(-1); return; }
    if (!(event.key in steps)) return;
    event.preventDefault();
    const [x, y] = current < 0 ? [width / 2, width / 2] : places[current];
    const start = current < 0;
    const next = nearest(x, y, Infinity, (dx, dy, i) => i !== current && (start || steps[event.key](dx, dy)));
    if (next >= 0) {
      show(next);
      map.querySelector(".spoken").textContent = names[next];
    }
  });
  const choice = document.querySelector(`select[data-map="${map.id}"]`);
  if (choice) {
    choice.addEventListener("change", () => {
      show(-1);
      points.forEach((p) => p.classList.toggle("dim", choice.value !== "" && !p.classList.contains(`g${choice.value}`)));
    });
  }
}

document.querySelectorAll(".map").forEach(startMap);
window.addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((d) => { d.open = true; }));
