// The loss of a run as a picture: every step a point, their running mean a line, and the present step.
// It is SVG, so that it is sharp at every zoom of the canvas without being drawn again.

const SVG = "http://www.w3.org/2000/svg";
const EDGE = { left: 44, right: 8, top: 8, bottom: 16 };
const GREY = "rgba(128,128,128,0.6)";
const STYLE = {
  root: "flex:1 1 130px;min-height:60px;width:100%;position:relative;overflow:hidden;",
  svg: "position:absolute;left:0;top:0;width:100%;height:100%;",
};

/** Exponential running mean over about `span` values, without a bias towards the first one. */
export function smoothed(values, span) {
  const keep = 1 - 1 / Math.max(1, span);
  let sum = 0;
  let weight = 0;
  return values.map((value) => {
    sum = keep * sum + value;
    weight = keep * weight + 1;
    return sum / weight;
  });
}

/** The top of the axis: all but the highest two in a hundred points fit under it. */
export function ceiling(values) {
  if (!values.length) return 1;
  const sorted = [...values].sort((a, b) => a - b);
  return 1.1 * (sorted[Math.floor(0.98 * (sorted.length - 1))] || sorted.at(-1)) || 1;
}

export class Chart {
  constructor() {
    this.root = document.createElement("div");
    this.root.style.cssText = STYLE.root;
    this.svg = element("svg", { style: STYLE.svg, role: "img", "aria-label": "loss of every step" });
    this.frame = this.add("rect", { fill: "none", stroke: GREY });
    this.points = this.add("path", { fill: "rgba(110,160,230,0.55)" });
    this.line = this.add("path", { fill: "none", stroke: "rgb(240,150,60)", "stroke-width": 1.5 });
    this.now = this.add("path", { stroke: GREY });
    const text = { fill: "currentColor", style: "font:10px sans-serif" };
    [this.top, this.zero, this.last] = [0, 1, 2].map(() => this.add("text", { ...text, "text-anchor": "end" }));
    this.name = this.add("text", { ...text, x: 4 });
    this.name.textContent = "loss";
    this.zero.textContent = "0";
    this.root.append(this.svg);
  }

  add(tag, attributes) {
    const made = element(tag, attributes);
    this.svg.append(made);
    return made;
  }

  /** Show the losses of a run of `total` steps. */
  show(losses, total) {
    const [width, height] = [this.root.clientWidth, this.root.clientHeight];
    const [right, bottom] = [width - EDGE.right, height - EDGE.bottom];
    if (right <= EDGE.left || bottom <= EDGE.top) return;
    const most = ceiling(losses);
    const x = (step) => (EDGE.left + ((right - EDGE.left) * step) / Math.max(1, total)).toFixed(1);
    const y = (loss) => (bottom - (bottom - EDGE.top) * Math.min(1, loss / most)).toFixed(1);
    this.axes(right, bottom, most, total);
    const stride = Math.max(1, Math.ceil(losses.length / (2 * width))); // more points than that are not seen
    const seen = (values, mark) => values.map(mark).filter((_, i) => i % stride === 0).join("");
    this.points.setAttribute("d", seen(losses, (loss, i) => `M${x(i + 1) - 1} ${y(loss) - 1}h2v2h-2z`));
    const mean = smoothed(losses, Math.min(50, total / 10));
    this.line.setAttribute("d", seen(mean, (loss, i) => `${i ? "L" : "M"}${x(i + 1)} ${y(loss)}`));
    const under = losses.length && losses.length < total;
    this.now.setAttribute("d", under ? `M${x(losses.length)} ${EDGE.top}V${bottom}` : "");
  }

  axes(right, bottom, most, total) {
    set(this.frame, { x: EDGE.left, y: EDGE.top, width: right - EDGE.left, height: bottom - EDGE.top });
    set(this.top, { x: EDGE.left - 4, y: EDGE.top + 8 });
    set(this.zero, { x: EDGE.left - 4, y: bottom });
    set(this.last, { x: right, y: bottom + 12 });
    set(this.name, { y: (bottom + EDGE.bottom) / 2 });
    this.top.textContent = most.toPrecision(2);
    this.last.textContent = String(total);
  }
}

function element(tag, attributes) {
  return set(document.createElementNS(SVG, tag), attributes);
}

function set(made, attributes) {
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}
