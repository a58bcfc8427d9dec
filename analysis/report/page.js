"use strict";
// The words are on the screen before the library, which is text until now, is read.
requestAnimationFrame(() => setTimeout(() => {
  const root = document.documentElement;
  const nodes = [...document.querySelectorAll(".plot")];
  const isOnScreen = (node) => {
    const box = node.getBoundingClientRect();
    return box.bottom > 0 && box.top < innerHeight;
  };
  const toldScreen = () => {
    root.dataset.screenMs = String(Math.round(performance.now()));
  };
  if (!nodes.some(isOnScreen)) toldScreen();
  const library = document.createElement("script");
  library.textContent = document.getElementById("plotly").textContent;
  document.head.append(library);
  const data = JSON.parse(document.getElementById("report-data").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const still = matchMedia("print");
  let printing = still.matches;
  const scheme = () => (dark.matches && !printing ? data.dark : data.light);

  const isColour = (v) => v !== null && typeof v === "object" && "role" in v && "alpha" in v;
  const colour = (v, palette) => {
    const hex = palette[v.role];
    if (v.alpha >= 1) return hex;
    const part = (i) => parseInt(hex.slice(i, i + 2), 16);
    return `rgba(${part(1)},${part(3)},${part(5)},${v.alpha})`;
  };
  const resolved = (v, palette) => {
    if (isColour(v)) return colour(v, palette);
    if (Array.isArray(v)) return v.map((x) => resolved(x, palette));
    if (v === null || typeof v !== "object") return v;
    return Object.fromEntries(Object.entries(v).map(([k, x]) => [k, resolved(x, palette)]));
  };

  const hidden = new Map();
  const drawn = new Map();
  const config = { displayModeBar: false, responsive: false, showTips: false, doubleClick: false };

  const draw = (node) => {
    const panel = data.figures[node.dataset.figure].panels[Number(node.dataset.panel)];
    const palette = scheme();
    const off = hidden.get(node.dataset.figure) || new Set();
    const traces = resolved(panel.data, palette).map((t, i) => ({ ...t, visible: !off.has(panel.legend[i]) }));
    const layout = {
      ...resolved(panel.layout, palette),
      width: printing ? (node.closest(".one") ? data.paper.one : data.paper.two) : node.clientWidth,
      height: panel.height,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: palette.muted },
      hoverlabel: { bgcolor: palette.card, bordercolor: palette.grid, font: { color: palette.ink, size: 12 }, align: "left" },
    };
    drawn.set(node, node.clientWidth);
    return Plotly.react(node, traces, layout, config).then(() => {
      node.dataset.drawn = "true";
    });
  };

  const redraw = () => nodes.filter((node) => drawn.has(node)).map(draw);

  // The first screen is drawn at once, what is scrolled to when it comes near, and the rest while nothing else happens.
  const waiting = new Set(nodes);
  const drawOnce = (node) => {
    if (!waiting.delete(node)) return;
    near.unobserve(node);
    draw(node);
  };
  const near = new IntersectionObserver(
    (seen) => seen.filter((entry) => entry.isIntersecting).forEach((entry) => drawOnce(entry.target)),
    { rootMargin: "600px 0px" },
  );
  nodes.forEach((node) => near.observe(node));
  nodes.filter(isOnScreen).forEach(drawOnce);
  if (!root.dataset.screenMs) toldScreen();
  const idle = window.requestIdleCallback || ((work) => setTimeout(() => work({ timeRemaining: () => 15 }), 1));
  const step = (deadline) => {
    do {
      const [node] = waiting;
      if (node) drawOnce(node);
    } while (waiting.size && deadline.timeRemaining() > 5);
    if (waiting.size) idle(step, { timeout: 100 });
    else root.dataset.ready = "true";
  };
  idle(step, { timeout: 100 });

  document.querySelectorAll(".legend button").forEach((button) => {
    button.addEventListener("click", () => {
      const key = button.closest("figure").dataset.key;
      const off = hidden.get(key) || new Set();
      const place = Number(button.dataset.place);
      if (!off.delete(place)) off.add(place);
      hidden.set(key, off);
      button.setAttribute("aria-pressed", String(!off.has(place)));
      nodes.filter((node) => node.dataset.figure === key).forEach(draw);
    });
  });

  let timer = 0;
  addEventListener("resize", () => {
    clearTimeout(timer);
    timer = setTimeout(() => nodes.filter((n) => drawn.has(n) && drawn.get(n) !== n.clientWidth).forEach(draw), 120);
  });
  dark.addEventListener("change", redraw);
  // Paper is white, and its columns, which are laid out only after this, have widths of their own.
  const toPaper = (on) => {
    if (printing === on) return;
    printing = on;
    [...waiting].forEach(drawOnce);
    redraw();
  };
  addEventListener("beforeprint", () => toPaper(true));
  addEventListener("afterprint", () => toPaper(false));
  still.addEventListener("change", (event) => toPaper(event.matches));
}, 0));
