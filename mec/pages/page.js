// Joins the map, the slider and the panel of a run: what is chosen in one is shown in all.
"use strict";

function sourceNamed(name) {
  for (const document of Bokeh.documents) {
    const found = document.get_model_by_name(name);
    if (found) return found;
  }
  return null;
}

function picture(source, index) {
  const figure = document.createElement("figure");
  const image = document.createElement("img");
  image.src = source.data.image[index];
  image.alt = source.data.name[index];
  const words = document.createElement("figcaption");
  words.textContent = source.data.label[index] || source.data.name[index];
  figure.append(image, words);
  return figure;
}

function join(panel, source) {
  const slider = panel.querySelector("input[type=range]");
  const shade = panel.querySelector("select");
  const chosen = panel.querySelector(".chosen");
  const rows = panel.querySelectorAll(".near");
  slider.max = source.data.name.length - 1;

  function show(index) {
    slider.value = index;
    slider.setAttribute("aria-valuetext", source.data.name[index]);
    chosen.replaceChildren(picture(source, index));
    const words = document.createElement("p");
    words.textContent = source.data.name[index];
    chosen.append(words);
    for (const row of rows) {
      const near = source.data[row.dataset.near][index];
      row.replaceChildren(...Array.from(near, (other) => picture(source, other)));
    }
  }

  slider.addEventListener("input", () => { source.selected.indices = [Number(slider.value)]; });
  source.selected.properties.indices.change.connect(() => {
    if (source.selected.indices.length) show(source.selected.indices[0]);
  });
  shade.addEventListener("change", () => {
    source.data.colour = source.data["by_" + shade.value];
    source.change.emit();
    for (const legend of panel.querySelectorAll("[data-legend]")) legend.hidden = legend.dataset.legend !== shade.value;
  });
  show(0);
  panel.dataset.ready = "yes";
}

function start() {
  const waiting = Array.from(document.querySelectorAll("[data-map]"));
  const timer = setInterval(() => {
    for (const panel of waiting.filter((one) => !one.dataset.ready)) {
      const source = window.Bokeh && sourceNamed(panel.dataset.map);
      if (source) join(panel, source);
    }
    if (waiting.every((one) => one.dataset.ready)) clearInterval(timer);
  }, 50);
}

if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
else start();
