// The runs that the server tells of, as this page knows them.

const REMEMBERED = 16;

export class Runs {
  constructor(fetchAll, onChange) {
    this.fetchAll = fetchAll;
    this.onChange = onChange;
    this.byId = new Map();
  }

  /** Take in a message; a gap (a page that missed some) is closed by asking for everything. */
  receive(message) {
    const run = this.byId.get(message.id) ?? { losses: [], previews: [] };
    if (message.first > run.losses.length) return this.refresh();
    const losses = run.losses.slice(0, message.first).concat(message.losses);
    this.keep({ ...run, ...message, losses });
  }

  keep(run) {
    this.byId.delete(run.id);
    this.byId.set(run.id, run);
    if (this.byId.size > REMEMBERED) this.byId.delete(this.byId.keys().next().value);
    this.onChange(run);
  }

  /** Ask the server for all its runs: after a reload, a gap, or a restart. */
  async refresh() {
    if (this.asking) return;
    this.asking = true;
    try {
      const told = await this.fetchAll();
      const alive = new Set(told.map((run) => run.id));
      for (const run of this.byId.values()) {
        if (run.state === "running" && !alive.has(run.id)) this.keep({ ...run, state: "lost" });
      }
      told.forEach((run) => this.keep(run));
    } catch {
      // the server is away; it is asked again when the page is connected again
    } finally {
      this.asking = false;
    }
  }

  /** The newest run of a node in a workflow; a run that came without a workflow's id fits every one. */
  of(node, workflow) {
    const fits = (run) => run.node === node && (!run.workflow || !workflow || run.workflow === workflow);
    return [...this.byId.values()].filter(fits).at(-1) ?? null;
  }
}
