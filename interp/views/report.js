"use strict";
// plotly.js 4 offers to upload a chart to its maker's server unless told not to.
const config = {
  responsive: true,
  displaylogo: false,
  showSendToCloud: false,
  plotlyServerURL: "",
  modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
};
const plots = [];

async function drawAll() {
  for (const data of document.querySelectorAll("script[data-figure]")) {
    const place = document.getElementById(data.dataset.figure);
    try {
      const figure = JSON.parse(data.textContent);
      config.toImageButtonOptions = { filename: place.id, scale: 2 };
      await Plotly.newPlot(place, figure.data, figure.layout, { ...config });
      plots.push(place);
    } catch (error) {
      place.textContent = `This figure could not be drawn: ${error.message}`;
      console.error(error);
    }
  }
  document.documentElement.dataset.figures = "drawn";
}

function addCopyButtons() {
  for (const block of document.querySelectorAll("pre.command")) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Copy";
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(block.querySelector("code").textContent);
      button.textContent = "Copied";
      setTimeout(() => (button.textContent = "Copy"), 1500);
    });
    block.append(button);
  }
}

// Plotly draws for the screen's width; paper is narrower.
addEventListener("beforeprint", () => plots.forEach((plot) => Plotly.relayout(plot, { width: 660 })));
addEventListener("afterprint", () => plots.forEach((plot) => Plotly.relayout(plot, { width: null, autosize: true })));
addCopyButtons();
drawAll();
