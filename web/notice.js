// A word in the corner of the page: that a long run has ended, or that there is nothing to finish.

import { app } from "../../scripts/app.js";
import { duration } from "./live/panel.js";

const LONG_SECONDS = 60;
const ENDS = {
  finished: { severity: "success", life: 15000 },
  failed: { severity: "error" },
};

/** Say that a run has ended, if people may have turned away meanwhile; a cancelled one ended before their eyes. */
export function tellOfEnd(run, before) {
  const end = before?.state === "running" && ENDS[run.state];
  if (!end || !(run.seconds >= LONG_SECONDS)) return;
  const detail = `${run.state} at step ${run.step} of ${run.total}, after ${duration(run.seconds)}`;
  tell({ ...end, detail: run.message ? `${detail}. ${run.message}` : detail });
}

export function tellOfNone() {
  tell({ severity: "info", detail: "There is no run to finish.", life: 5000 });
}

function tell(message) {
  app.extensionManager?.toast?.add({ summary: "ESD Erase Concept", ...message });
}
