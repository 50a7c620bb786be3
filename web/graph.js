// Nodes of the open workflow, those inside subgraphs too, and the ids under which the server and the page know them.

import { app } from "../../scripts/app.js";

export const rootGraph = () => app.rootGraph ?? app.graph;

/** Every node of the workflow, with those inside its subgraphs. */
export function allNodes() {
  const graphs = [rootGraph(), ...(rootGraph()?.subgraphs?.values() ?? [])];
  return graphs.flatMap((graph) => graph?.nodes ?? []);
}

/** The id under which the server knows a node: the ids of the subgraph nodes around it, and its own. */
export function pathsOf(node, graph = rootGraph(), prefix = "") {
  if (node.graph === graph) return [`${prefix}${node.id}`];
  const around = (graph?.nodes ?? []).filter((each) => each.subgraph);
  return around.flatMap((each) => pathsOf(node, each.subgraph, `${prefix}${each.id}:`));
}

/** The id under which the page keeps a node's outputs. */
export function locatorOf(node) {
  return node.graph === rootGraph() ? String(node.id) : `${node.graph?.id}:${node.id}`;
}
