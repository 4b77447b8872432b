// Draws the figure of the page, in the page's own colours, with its legend beside it or, where there is no room, below.
(() => {
  const plot = document.getElementById("plot");
  const drawn = JSON.parse(document.getElementById("plot-data").textContent);
  const narrow = matchMedia("(max-width: 820px)");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const axes = Object.keys(drawn.layout).filter((key) => /^[xy]axis\d*$/.test(key));

  const look = () => {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const layout = structuredClone(drawn.layout);
    layout.font = { color: colour("--ink"), family: "system-ui, sans-serif", size: 12 };
    layout.hoverlabel = { namelength: -1, bgcolor: colour("--page"), font: { color: colour("--ink") } };
    for (const axis of axes) {
      Object.assign(layout[axis], {
        gridcolor: colour("--line"), zerolinecolor: colour("--line"), linecolor: colour("--line"), automargin: false,
      });
    }
    for (const shape of layout.shapes ?? []) shape.label.font.color = colour("--quiet");
    if (narrow.matches) {
      const inside = layout.height - layout.margin.t - layout.margin.b;
      const below = 30 * new Set(drawn.data.map((trace) => trace.legendgroup)).size + 16 * drawn.data.length;
      layout.height += below;
      layout.margin.b += below;
      layout.margin.l = 44;
      Object.assign(layout.legend, { orientation: "h", x: 0, xanchor: "left", y: -52 / inside, yanchor: "top" });
    }
    return layout;
  };
  const draw = () => Plotly.react(plot, drawn.data, look(), { responsive: true, displaylogo: false, displayModeBar: false });

  draw().then(() => { document.documentElement.dataset.drawn = String(document.querySelectorAll(".plot .trace").length); });
  narrow.addEventListener("change", draw);
  dark.addEventListener("change", draw);
})();
