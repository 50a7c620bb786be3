// The loss of a run as a picture: every step a point, their running mean a line, and the present step.

const EDGE = { left: 44, right: 8, top: 8, bottom: 16 };

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

/** Draw losses of a run of `total` steps onto a canvas, sharp at any zoom of the screen. */
export function drawChart(canvas, losses, total, colours) {
  const scale = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  if (!width || !height) return;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  const top = ceiling(losses);
  const x = (step) => EDGE.left + ((width - EDGE.left - EDGE.right) * step) / Math.max(1, total);
  const y = (loss) => height - EDGE.bottom - (height - EDGE.top - EDGE.bottom) * Math.min(1, loss / top);
  drawAxes(pen, width, height, top, total, colours);
  const stride = Math.max(1, Math.ceil(losses.length / (2 * width))); // more points than that are not seen
  pen.fillStyle = colours.point;
  for (let i = 0; i < losses.length; i += stride) pen.fillRect(x(i + 1) - 1, y(losses[i]) - 1, 2, 2);
  drawLine(pen, smoothed(losses, Math.min(50, total / 10)), stride, x, y, colours.line);
  if (losses.length && losses.length < total) {
    pen.fillStyle = colours.axis;
    pen.fillRect(x(losses.length), EDGE.top, 1, height - EDGE.top - EDGE.bottom);
  }
}

function drawAxes(pen, width, height, top, total, colours) {
  pen.strokeStyle = colours.axis;
  pen.strokeRect(EDGE.left, EDGE.top, width - EDGE.left - EDGE.right, height - EDGE.top - EDGE.bottom);
  pen.fillStyle = colours.text;
  pen.font = "10px sans-serif";
  pen.textAlign = "right";
  pen.fillText(top.toPrecision(2), EDGE.left - 4, EDGE.top + 8);
  pen.fillText("0", EDGE.left - 4, height - EDGE.bottom);
  pen.fillText(String(total), width - EDGE.right, height - 4);
  pen.textAlign = "left";
  pen.fillText("loss", 4, height / 2);
}

function drawLine(pen, values, stride, x, y, colour) {
  pen.strokeStyle = colour;
  pen.lineWidth = 1.5;
  pen.beginPath();
  for (let i = 0; i < values.length; i += stride) pen.lineTo(x(i + 1), y(values[i]));
  pen.stroke();
}
