// What the pack adds to the page: the live panel of the Erase node, which hears of its run over the page's own websocket
// and can ask it to finish, the lines that nodes say, and a word at the end of a long run.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { pathsOf, rootGraph } from "./graph.js";
import { HEIGHT, Panel } from "./live/panel.js";
import { Runs } from "./live/runs.js";
import { tellOfEnd, tellOfNone } from "./notice.js";
import * as presets from "./presets.js";
import * as said from "./said.js";

const NODE = "ESDErase";
const panels = new Map(); // LiteGraph node -> Panel

const runs = new Runs(fetchRuns, (run, before) => {
  showRun(run);
  tellOfEnd(run, before);
});

// At once and not in setup(): a message that comes before its listener is an unknown one to the page.
api.addEventListener("esd.run", (event) => runs.receive(event.detail));
api.addEventListener("execution_cached", (event) => showReused(event.detail.nodes.map(String)));
api.addEventListener("reconnecting", () => runs.away());
api.addEventListener("reconnected", () => runs.refresh());

async function fetchRuns() {
  const answer = await api.fetchApi("/esd/runs");
  if (!answer.ok) throw new Error(`the server answers ${answer.status}`);
  return (await answer.json()).runs;
}

async function finish(run) {
  runs.mark(run.id, { finishing: true });
  try {
    const answer = await api.fetchApi(`/esd/runs/${encodeURIComponent(run.id)}/finish`, { method: "POST" });
    if (!answer.ok) await runs.refresh();
  } catch {
    runs.mark(run.id, { finishing: false });
  }
}

function finishAll() {
  const running = runs.running();
  if (!running.length) return tellOfNone();
  return Promise.all(running.map(finish));
}

function showRun(run) {
  for (const [node, panel] of panels) {
    if (run.node.split(":").at(-1) === String(node.id)) update(node, panel);
  }
}

function update(node, panel) {
  panel.show(runs.of(pathsOf(node), rootGraph()?.id));
}

/** The host took results of these nodes from its cache: they have no run, and need none. */
function showReused(ids) {
  if (!ids.every((id) => rootGraph()?.getNodeById(id.split(":")[0]))) return; // a prompt of another workflow
  for (const [node, panel] of panels) {
    if (pathsOf(node).some((path) => ids.includes(path))) panel.showReused();
  }
}

function attach(node) {
  const panel = new Panel(finish);
  panels.set(node, panel);
  const widget = node.addDOMWidget("live", "esd_live", panel.root, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => HEIGHT,
  });
  widget.serialize = false; // neither in the prompt nor in the saved workflow
  const removed = node.onRemoved;
  node.onRemoved = function (...values) {
    panels.delete(node);
    panel.remove();
    return removed?.apply(this, values);
  };
}

/** Nodes inside a subgraph are dropped without a word. */
function forgetDropped() {
  const here = new Set([rootGraph(), ...(rootGraph()?.subgraphs?.values() ?? [])]);
  for (const [node, panel] of panels) {
    if (here.has(node.graph)) continue;
    panels.delete(node);
    panel.remove();
  }
}

app.registerExtension({
  name: "esdconcepterasure.live",
  commands: [{ id: "ESD.FinishNow", label: "ESD: finish now", icon: "pi pi-check", function: finishAll }],
  setup: () => runs.refresh(),
  beforeRegisterNodeDef: (nodeType, nodeData) => presets.learn(nodeData),
  nodeCreated(node) {
    if (node.comfyClass === NODE) attach(node);
    said.listen(node);
    presets.listen(node);
  },
  onNodeOutputsUpdated: (outputs) => said.showKept(outputs),
  afterConfigureGraph() {
    forgetDropped();
    for (const [node, panel] of panels) update(node, panel);
    said.showRemembered();
    presets.fillAll();
  },
});
