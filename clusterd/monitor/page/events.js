/** Events of the journal in words; docs/monitoring.md has their shapes. */

import { count, size, took } from "./words.js";

export const KINDS = [
  "change", "sync", "worker", "master", "problem", "process", "registration", "group", "login", "request", "reload", "election",
  "lost",
];
const BAD = new Set(["failed", "lost", "refused", "died", "killed", "gave_up"]);
const DOUBTFUL = new Set(["partial", "limited", "begins", "stepped_down", "etcd_lost", "paused"]);
const GOOD = new Set(["back", "connected", "ends", "etcd_back", "resumed"]);
const COUNTS = new Set(["added", "changed", "deleted", "withheld", "unlisted"]);
const PARTS = new Set(["part", "parts"]);
const NAMES = { seconds: "took", source: "noticed by" };
const FIELDS_LEFT_OUT = new Set(["seq", "at", "kind", "left_out"]);

/** The same as the colours of `clusterd history`: `bad`, `doubtful`, `good` or empty: the colour of an event. */
export function tone(event) {
  const word = [event.result, event.what].find((one) => BAD.has(one) || DOUBTFUL.has(one) || GOOD.has(one));
  if (event.kind === "lost") return "doubtful";
  if (word === undefined) return event.kind === "change" && event.withheld ? "doubtful" : "";
  return BAD.has(word) ? "bad" : DOUBTFUL.has(word) ? "doubtful" : "good";
}

/** The node that an event is about: where it happened, or through which it came. */
export function place(event) {
  return event.worker || event.through || event.node;
}

/** One line, without the place. */
export function summary(event) {
  const say = SAYINGS[event.kind];
  return (say ? say(event) : rest(event)).filter(Boolean).join(" ");
}

const SAYINGS = {
  change: (event) => {
    const parts = ["added", "changed", "deleted", "withheld"]
      .filter((word) => event[word])
      .map((word) => `${count(event[word])} ${word}`);
    const all = event.added + event.changed + event.deleted + event.withheld;
    const first = event.files?.[0]?.path;
    const part = event.parts > 1 ? ` (part ${event.part} of ${event.parts})` : "";
    const more = all > 1 ? `, and ${count(all - 1)} more` : "";
    return [(parts.join(", ") || "nothing") + part, first ? `· ${first}${more}` : ""];
  },
  sync: (event) => [
    { files: "", ahead: "sent ahead,", groups: "groups of agents,", agents: "reports of agents," }[event.what] ?? event.what,
    event.result === "ok" ? "" : `${event.result}:`,
    ["files", "ahead"].includes(event.what) ? count(event.files, "file") : count(event.files),
    event.bytes ? behind(size(event.bytes)) : "",
    event.seconds === null || event.seconds === undefined ? "" : `· ${took(event.seconds)}`,
    event.left_out?.length ? `· ${count(event.left_out.length)} left out` : "",
    behind(event.why),
  ],
  registration: (event) => [
    "agent", event.agent, event.name, event.what, behind(event.ip), by(event.who), behind(event.why),
  ],
  group: (event) => [
    event.group, event.what, event.agents > 1 ? `· ${count(event.agents, "agent")}:` : event.agent ? "· agent" : "",
    event.agent, by(event.who),
  ],
  login: (event) => [event.user, event.result, event.address ? `· from ${event.address}` : ""],
  request: (event) => [event.function, event.about, behind(event.result), by(event.user), behind(event.why)],
  worker: (event) => [event.what, behind(event.address), behind(event.why)],
  master: (event) => [event.what, behind(event.master), behind(event.why)],
  problem: (event) => [event.what === "ends" ? `over: ${event.subject}` : event.text || event.subject],
  process: (event) => [event.process, event.what, event.pid ? `· pid ${event.pid}` : "", behind(event.why)],
  lost: (event) => [`${count(event.count, "event")} of ${event.process} could not be told`],
  reload: (event) => [
    event.changed?.length ? event.changed.join(", ") : "nothing changed",
    needsRestart(event) ? `· waits for a restart: ${needsRestart(event)}` : "",
  ],
};

function behind(text) {
  return text ? `· ${text}` : "";
}

function by(who) {
  return who ? `· by ${who}` : "";
}

function needsRestart(event) {
  return Array.isArray(event.needs_restart) ? event.needs_restart.join(", ") : event.needs_restart || "";
}

/** A kind that this page does not know. */
function rest(event) {
  return fields(event).map(([name, value]) => `${name} ${value}`);
}

/** Names and values of everything an event says but its files. */
export function fields(event) {
  return Object.entries(event)
    .filter(([name, value]) => !FIELDS_LEFT_OUT.has(name) && value !== null && value !== "" && value?.length !== 0)
    .filter(([name, value]) => (value !== 0 || !COUNTS.has(name)) && !(name === "files" && Array.isArray(value)))
    .filter(([name]) => event.parts !== 1 || !PARTS.has(name))
    .map(([name, value]) => [NAMES[name] ?? name.replaceAll("_", " "), shown(name, value)]);
}

function shown(name, value) {
  if (name === "bytes") return `${size(value)} (${count(value)})`;
  if (name === "seconds" && typeof value === "number") return took(value);
  if (Array.isArray(value)) return value.join(", ");
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** Paths that an event names. */
export function paths(event) {
  return [...(event.files && Array.isArray(event.files) ? event.files : []), ...(event.left_out ?? [])].map(
    (file) => file.path,
  );
}
