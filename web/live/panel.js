// What an Erase node shows of its run: chart, figures, previews and a button.  Styles are its own elements' alone.

import { Chart } from "./chart.js";

export const HEIGHT = 280;

const STYLE = {
  root: "display:flex;flex-direction:column;gap:4px;width:100%;height:100%;min-height:0;overflow:hidden;" +
    "font:11px sans-serif;color:var(--input-text,#ddd);box-sizing:border-box;",
  line: "white-space:nowrap;overflow:hidden;text-overflow:ellipsis;min-height:14px;",
  words: "overflow:hidden;max-height:42px;overflow-wrap:anywhere;color:var(--descrip-text,#999);",
  previews: "display:none;gap:6px;flex:0 0 auto;",
  figure: "margin:0;flex:0 1 auto;min-width:0;",
  image: "height:84px;max-width:100%;object-fit:contain;display:block;",
  button: "flex:0 0 auto;padding:3px;cursor:pointer;border-radius:4px;border:1px solid var(--border-color,#555);" +
    "background:var(--comfy-input-bg,#222);color:inherit;font:inherit;",
};

const STATES = {
  finished: "finished",
  stopped: "stopped",
  failed: "failed",
  lost: "interrupted: the server was restarted",
};

export class Panel {
  constructor(onFinish) {
    this.root = made("div", STYLE.root);
    this.chart = new Chart();
    this.line = made("div", STYLE.line);
    this.line.dataset.esdLine = "";
    this.left = made("div", STYLE.line);
    this.left.dataset.esdLeft = "";
    this.words = made("div", STYLE.words);
    this.previews = made("div", STYLE.previews);
    this.button = made("button", STYLE.button);
    this.button.type = "button";
    this.button.textContent = "Finish now";
    this.button.title = "End the training after this step and go on with what has been learnt.";
    this.button.addEventListener("click", () => this.run && onFinish(this.run));
    this.root.append(this.chart.root, this.line, this.left, this.words, this.previews, this.button);
    this.root.dataset.esdLive = "";
    this.visible = false;
    this.nothing = "not trained yet";
    this.observer = new IntersectionObserver((entries) => {
      this.visible = entries.at(-1).isIntersecting;
      if (this.visible) this.draw();
    });
    this.observer.observe(this.root);
    this.resizing = new ResizeObserver(() => this.draw());
    this.resizing.observe(this.chart.root);
    this.show(null);
  }

  /** Show a run, or that there is none yet. */
  show(run) {
    this.run = run;
    this.draw();
  }

  /** Say that the result came from the host's cache, where there is no run to show. */
  showReused() {
    this.nothing = "nothing to train: this result was made before";
    this.draw();
  }

  /** Draw at the next frame, once however often it is asked for, and not at all while nobody can see it. */
  draw() {
    if (this.frame || !this.visible) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = null;
      this.drawNow();
    });
  }

  drawNow() {
    const run = this.run;
    this.button.disabled = run?.state !== "running" || Boolean(run.finishing || run.away);
    this.button.style.opacity = this.button.disabled ? "0.4" : "1";
    this.line.textContent = run ? figures(run) : this.nothing;
    this.left.textContent = this.left.title = left(run);
    this.left.style.display = this.left.textContent ? "" : "none";
    this.words.textContent = this.words.title = run?.message ?? "";
    this.showPreviews(run?.previews ?? []);
    this.chart.show(run?.losses ?? [], run?.total ?? 1);
  }

  showPreviews(previews) {
    if (this.shown === previews) return;
    this.shown = previews;
    this.previews.style.display = previews.length ? "flex" : "none";
    this.previews.replaceChildren(...previews.map(figure));
  }

  remove() {
    this.observer.disconnect();
    this.resizing.disconnect();
    if (this.frame) cancelAnimationFrame(this.frame);
    this.root.remove();
  }
}

function made(tag, style) {
  const element = document.createElement(tag);
  element.style.cssText = style;
  return element;
}

function figure(preview) {
  const holder = made("figure", STYLE.figure);
  const image = made("img", STYLE.image);
  image.src = `data:image/jpeg;base64,${preview.jpeg}`;
  image.alt = `${preview.label}: ${preview.prompt}`;
  const caption = made("figcaption", STYLE.line);
  caption.textContent = image.alt;
  holder.append(image, caption);
  return holder;
}

/** Step, loss, time left and speed in one line. */
export function figures(run) {
  const parts = [`step ${run.step} / ${run.total}`];
  if (run.losses.length) parts.push(`loss ${run.losses.at(-1).toExponential(1)}`);
  if (run.state !== "running") parts.push(STATES[run.state] ?? "");
  else if (run.away) parts.push("server disconnected");
  else if (run.finishing) parts.push("finishing");
  else {
    if (run.seconds_left != null) parts.push(`${duration(run.seconds_left)} left`);
    if (run.passes_per_second) parts.push(`${rate(run.passes_per_second)} passes/s`);
  }
  return parts.join(" \u00b7 ");
}

/** How much of each concept the student still has, and the keep that has moved most. */
export function left(run) {
  const parts = (run?.left ?? []).map((each) => `${each.prompt}: ${each.percent} % left`);
  if (run?.moved) parts.push(`keeps: "${run.moved.prompt}" moved most, by ${run.moved.percent} %`);
  return parts.join(" \u00b7 ");
}

function rate(passes) {
  return passes < 10 ? passes.toPrecision(2) : String(Math.round(passes));
}

export function duration(seconds) {
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}
