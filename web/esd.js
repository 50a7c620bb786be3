// The live panel of the Erase node: hears of its run over the page's own websocket, and can ask it to finish.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { HEIGHT, Panel } from "./live/panel.js";
import { Runs } from "./live/runs.js";

const NODE = "ESDErase";
const panels = new Map(); // LiteGraph node -> Panel

const runs = new Runs(fetchRuns, showRun);

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

const rootGraph = () => app.rootGraph ?? app.graph;

/** The id under which the server knows a node: the ids of the subgraph nodes around it, and its own. */
function pathsOf(node, graph = rootGraph(), prefix = "") {
  if (node.graph === graph) return [`${prefix}${node.id}`];
  const around = (graph?.nodes ?? []).filter((each) => each.subgraph);
  return around.flatMap((each) => pathsOf(node, each.subgraph, `${prefix}${each.id}:`));
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

app.registerExtension({
  name: "esdconcepterasure.live",
  async setup() {
    api.addEventListener("esd.run", (event) => runs.receive(event.detail));
    api.addEventListener("execution_cached", (event) => showReused(event.detail.nodes.map(String)));
    api.addEventListener("reconnecting", () => runs.away());
    api.addEventListener("reconnected", () => runs.refresh());
    await runs.refresh();
  },
  nodeCreated(node) {
    if (node.comfyClass === NODE) attach(node);
  },
  afterConfigureGraph() {
    const here = new Set([rootGraph(), ...(rootGraph()?.subgraphs?.values() ?? [])]);
    for (const [node, panel] of panels) {
      if (here.has(node.graph)) continue; // nodes inside a subgraph are dropped without a word
      panels.delete(node);
      panel.remove();
    }
    for (const [node, panel] of panels) update(node, panel);
  },
});
