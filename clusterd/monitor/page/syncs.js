/** Syncs that run, and the latest that have ended. */

import { byId, keyed, make, mark, say } from "./dom.js";
import { tone } from "./events.js";
import { count, moment, size, span, took } from "./words.js";

const MOST_RUNNING = 12;
const MOST_RECENT = 5;
const FILES = new Set(["files", "ahead"]);

export function showSyncs(status) {
  const syncs = (status.syncs ?? []).slice(0, MOST_RUNNING);
  say(byId("syncs-count"), syncs.length ? `${count(status.syncs.length)} running` : "");
  const left = (status.syncs ?? []).length - syncs.length;
  mark(byId("syncs-none"), "hidden", syncs.length > 0 && !left);
  say(byId("syncs-none"), left ? `and ${count(left)} more` : "No sync is running.");
  keyed(
    byId("syncs-running"), syncs, (sync) => `${sync.peer} ${sync.kind} ${sync.started_at}`,
    () => make(
      "li", {},
      make("b"), make("span", { class: "step" }), make("progress", { max: 1 }), make("span", { class: "done" }),
    ),
    (node, sync) => {
      const [name, step, bar, done] = node.children;
      const total = sync.total_bytes;
      const kind = sync.kind === "integrity" ? "" : `${sync.kind}, `;
      say(name, sync.peer);
      say(step, `${kind}${sync.step} · ${span(Math.max(0, status.at - sync.started_at))}`);
      mark(bar, "aria-label", `sync of ${sync.peer}, ${sync.step}`);
      mark(bar, "value", total ? Math.min(1, sync.done_bytes / total) : null);
      say(done, total ? `${size(Math.min(sync.done_bytes, total))} of ${size(total)}` : "");
    },
  );
}

/** `events`: the newest of the journal. */
export function showRecentSyncs(events) {
  const recent = [];
  for (const event of events) {
    if (event.kind === "sync" && FILES.has(event.what) && recent.push(event) === MOST_RECENT) break;
  }
  mark(byId("syncs-recent-title"), "hidden", !recent.length);
  keyed(
    byId("syncs-recent"), recent, (event) => event.seq,
    (event) => make(
      "li", { "data-tone": tone(event) },
      make("b", {}, event.worker), make("span", { class: "what" }, outcome(event)),
      make("time", { datetime: event.at }, moment(new Date(event.at))),
    ),
    () => {},
  );
}

function outcome(event) {
  if (event.result === "failed") return `failed: ${event.why || "see the log"}`;
  const parts = [count(event.files, "file"), event.bytes ? size(event.bytes) : "", took(event.seconds)];
  if (event.result === "partial") parts.push(`${count(event.left_out?.length ?? 0)} left out`);
  return parts.filter(Boolean).join(" · ");
}
