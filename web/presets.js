// Choosing a preset in Erase Settings fills in its values, there and on the Erase nodes that take those settings.
// Changing one of them afterwards turns the preset into custom, so that a node always shows what counts.

import { allNodes } from "./graph.js";

const SETTINGS = "ESDEraseSettings";
const ERASE = "ESDErase";
const CUSTOM = "custom";

let presets = {};
let defaults = {};
let filling = false;
const filled = new WeakMap(); // Erase Settings to the preset that filled it last

/** Take the values of the presets, and the defaults, from the description of the node. */
export function learn(nodeData) {
  if (nodeData.name !== SETTINGS) return;
  presets = nodeData.input?.required?.preset?.[1]?.presets ?? {};
  const inputs = Object.entries({ ...nodeData.input?.required, ...nodeData.input?.optional });
  defaults = Object.fromEntries(inputs.map(([name, [, options]]) => [name, options?.default]));
}

/** Watch the widgets of a new node. */
export function listen(node) {
  if (node.comfyClass === SETTINGS) {
    after(widgetOf(node, "preset"), () => fill(node));
    for (const widget of node.widgets ?? []) if (widget.name !== "preset") after(widget, () => changed(node, widget));
  }
  if (node.comfyClass === ERASE) {
    for (const widget of node.widgets ?? []) {
      after(widget, () => allNodes().filter((each) => erasing(each).includes(node)).forEach((each) => changed(each, widget)));
    }
    const before = node.onConnectionsChange;
    node.onConnectionsChange = function (...values) {
      const result = before?.apply(this, values);
      queueMicrotask(fillAll); // when the link is in its place
      return result;
    };
  }
}

/** Show the values of every preset that is chosen. */
export function fillAll() {
  for (const node of allNodes()) if (node.comfyClass === SETTINGS) fill(node);
}

function fill(node) {
  const name = widgetOf(node, "preset")?.value;
  const chosen = presets[name];
  if (!chosen || filling) return;
  filling = true;
  try {
    takeBack(node, presets[filled.get(node)] ?? {}, chosen);
    filled.set(node, name);
    for (const each of [node, ...erasing(node)]) {
      for (const widget of each.widgets ?? []) if (widget.name in chosen) set(widget, chosen[widget.name]);
      each.graph?.setDirtyCanvas?.(true, true);
    }
  } finally {
    filling = false;
  }
}

/** Give back their defaults to widgets that still show what the preset before set and this one leaves open. */
function takeBack(node, before, chosen) {
  for (const widget of node.widgets ?? []) {
    const name = widget.name;
    const left = name in before && !(name in chosen) && name in defaults;
    if (left && same(widget.value, before[name])) set(widget, defaults[name]);
  }
}

function changed(node, widget) {
  const preset = widgetOf(node, "preset");
  const chosen = presets[preset?.value];
  if (filling || !chosen || !(widget.name in chosen) || same(widget.value, chosen[widget.name])) return;
  set(preset, CUSTOM);
  node.graph?.setDirtyCanvas?.(true, true);
}

/** The Erase nodes that take their settings from a node, through reroutes too. */
function erasing(node, seen = new Set()) {
  if (node.comfyClass !== SETTINGS && !seen.size) return [];
  const links = (node.outputs ?? []).flatMap((output) => output.links ?? []);
  return links.flatMap((id) => {
    const link = node.graph?.getLink?.(id) ?? node.graph?.links?.[id];
    const target = link && node.graph.getNodeById(link.target_id);
    if (!target || seen.has(target)) return [];
    if (target.comfyClass === ERASE) return [target];
    return target.type === "Reroute" ? erasing(target, new Set([...seen, target])) : [];
  });
}

const widgetOf = (node, name) => node.widgets?.find((widget) => widget.name === name);

const same = (a, b) => a === b || (typeof a === "number" && Math.abs(a - b) <= 1e-9 * Math.max(1, Math.abs(b)));

function set(widget, value) {
  if (same(widget.value, value)) return;
  widget.value = value;
  widget.callback?.(value);
}

function after(widget, then) {
  if (!widget) return;
  const before = widget.callback;
  widget.callback = function (...values) {
    const result = before?.apply(this, values);
    then();
    return result;
  };
}
