// The runs that the server tells of, as this page knows them.

const REMEMBERED = 16;
const LOST = { state: "lost", message: "Queue the graph again to resume from the last snapshot, if there is one." };

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
    this.keep({ ...run, ...message, losses, away: false });
  }

  keep(run) {
    const before = this.byId.get(run.id);
    this.byId.delete(run.id);
    this.byId.set(run.id, run);
    if (this.byId.size > REMEMBERED) this.byId.delete(this.byId.keys().next().value);
    this.onChange(run, before);
  }

  /** Change what is known of a run, where it is known. */
  mark(id, changes) {
    if (this.byId.has(id)) this.keep({ ...this.byId.get(id), ...changes });
  }

  /** The server does not answer: what was running may be running still. */
  away() {
    for (const run of this.running()) this.mark(run.id, { away: true });
  }

  /** Ask the server for all its runs: after a reload, a gap, or a restart.  Asked meanwhile, it asks once more. */
  async refresh() {
    this.again = this.asking;
    if (this.asking) return;
    this.asking = true;
    try {
      this.takeIn(await this.fetchAll());
    } catch {
      // the server is away; it is asked again when the page is connected again
    } finally {
      this.asking = false;
    }
    if (this.again) await this.refresh();
  }

  takeIn(told) {
    const alive = new Set(told.map((run) => run.id));
    for (const run of this.running()) if (!alive.has(run.id)) this.mark(run.id, LOST);
    for (const run of told) this.keep(this.hasMore(run) ? { ...this.byId.get(run.id), away: false } : run);
  }

  /** Whether messages have told more of a run than an answer that was on its way. */
  hasMore(run) {
    const known = this.byId.get(run.id);
    return known && ((known.state !== "running" && known.state !== "lost") || known.losses.length > run.losses.length);
  }

  running() {
    return [...this.byId.values()].filter((run) => run.state === "running");
  }

  /** The newest run of a node, under any of its ids, in a workflow; a run that came without a workflow's id fits all. */
  of(ids, workflow) {
    const fits = (run) => ids.includes(run.node) && (!run.workflow || !workflow || run.workflow === workflow);
    return [...this.byId.values()].filter(fits).at(-1) ?? null;
  }
}
