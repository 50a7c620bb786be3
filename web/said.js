// The lines that a node says of its work, such as "Saved ...", below its other widgets.  Names and metadata of files
// are in them, so they are put in as text and never as HTML.

import { allNodes, locatorOf, pathsOf, rootGraph } from "./graph.js";

/** The nodes whose results come with a text. */
const SAYING = new Set([
  ...["ESDLoadModel", "ESDLoadErasure", "ESDSaveCheckpoint", "ESDSaveErasure", "ESDErasureInfo"],
  ...["ESDMeasure", "ESDAttack", "ESDPromptSet", "ESDEvaluate", "ESDScore", "ESDCompareReports"],
]);
const LINE = 15;
const EDGE = 8;
const MOST_LINES = 8;
const LETTER = 5.6; // about the mean width of one, to know how many lines a text takes before it is laid out
const STYLE =
  `box-sizing:border-box;width:100%;height:100%;overflow-y:auto;padding:${EDGE / 2}px;margin:0;` +
  `font:11px/${LINE}px sans-serif;color:var(--input-text,#ddd);white-space:pre-wrap;overflow-wrap:anywhere;` +
  "user-select:text;cursor:text;";
const KEY = "esd.said";
const REMEMBERED = 100;

const elements = new WeakMap(); // LiteGraph node -> where its lines stand

/** Show what the node's results say, whenever there are new ones. */
export function listen(node) {
  if (!SAYING.has(node.comfyClass)) return;
  const before = node.onExecuted;
  node.onExecuted = function (output, ...more) {
    before?.call(this, output, ...more);
    const text = textOf(output);
    if (text) remember(node, text);
    show(node, text);
  };
}

/** Show what the page has kept of the nodes' results: after another tab, an undo, or a look into the history. */
export function showKept(outputs) {
  for (const node of saying()) {
    const key = [locatorOf(node), ...pathsOf(node)].find((each) => outputs?.[each]);
    if (key) show(node, textOf(outputs[key]));
  }
}

/** Show what was said before the page was loaded anew. */
export function showRemembered() {
  const all = remembered();
  for (const node of saying()) if (!elements.has(node)) show(node, all[nameOf(node)]);
}

const saying = () => allNodes().filter((node) => SAYING.has(node.comfyClass));

function textOf(output) {
  const text = output?.text;
  return Array.isArray(text) ? text.join("\n") : text;
}

function show(node, text) {
  if (typeof text !== "string" || !text) return;
  const element = elements.get(node) ?? attach(node);
  if (element.textContent === text) return;
  element.textContent = text;
  element.style.minHeight = `${height(node, element)}px`;
  grow(node);
}

/** Only now, so that a node that has said nothing has no gap. */
function attach(node) {
  const element = document.createElement("div");
  element.style.cssText = STYLE;
  element.dataset.esdSaid = "";
  for (const kind of ["pointerdown", "wheel"]) element.addEventListener(kind, (event) => keep(element, event));
  const widget = node.addDOMWidget("said", "esd_said", element, {
    serialize: false,
    hideOnZoom: false,
    margin: 4,
    getMinHeight: () => height(node, element) + 8,
  });
  widget.serialize = false; // neither in the prompt nor in the saved workflow
  elements.set(node, element);
  return element;
}

/** A text that is longer than its place is scrolled, and the canvas stays where it is. */
function keep(element, event) {
  if (event.type === "pointerdown" || element.scrollHeight > element.clientHeight + 1) event.stopPropagation();
}

function height(node, element) {
  const letters = Math.max(10, (node.size[0] - 30) / LETTER);
  const lines = element.textContent.split("\n").map((line) => Math.max(1, Math.ceil(line.length / letters)));
  return LINE * Math.min(MOST_LINES, lines.reduce((a, b) => a + b, 0)) + EDGE;
}

function grow(node) {
  const least = node.computeSize();
  node.setSize([Math.max(node.size[0], least[0]), Math.max(node.size[1], least[1])]);
  node.graph?.setDirtyCanvas?.(true, true);
}

const nameOf = (node) => [rootGraph()?.id, locatorOf(node), node.comfyClass].join(" ");

function remembered() {
  try {
    return JSON.parse(sessionStorage.getItem(KEY)) ?? {};
  } catch {
    return {}; // no storage, or not ours
  }
}

function remember(node, text) {
  const { [nameOf(node)]: _, ...others } = remembered();
  const entries = [...Object.entries(others), [nameOf(node), text]].slice(-REMEMBERED);
  try {
    sessionStorage.setItem(KEY, JSON.stringify(Object.fromEntries(entries)));
  } catch {
    // no storage, or full: the text is gone after a reload
  }
}
