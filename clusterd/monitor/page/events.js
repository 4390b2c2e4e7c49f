/** Events of the journal in words; docs/monitoring.md has their shapes. */

import { count, size, took } from "./words.js";

export const KINDS = [
  "change", "sync", "worker", "problem", "process", "registration", "group", "login", "request", "reload",
];
const BAD = new Set(["failed", "lost", "refused", "died", "killed"]);
const DOUBTFUL = new Set(["partial", "limited", "begins"]);
const GOOD = new Set(["back", "ends"]);
const COUNTS = new Set(["added", "changed", "deleted", "withheld"]);
const NAMES = { seconds: "took", number: "manifest", source: "noticed by" };
const FIELDS_LEFT_OUT = new Set(["seq", "at", "node", "kind", "files", "left_out"]);

/** `bad`, `doubtful`, `good` or empty: the colour of an event. */
export function tone(event) {
  const word = [event.result, event.what].find((one) => BAD.has(one) || DOUBTFUL.has(one) || GOOD.has(one));
  if (word === undefined) return event.kind === "change" && event.withheld ? "doubtful" : "";
  return BAD.has(word) ? "bad" : DOUBTFUL.has(word) ? "doubtful" : "good";
}

/** One line. */
export function summary(event) {
  const say = SAYINGS[event.kind];
  return (say ? say(event) : rest(event)).filter(Boolean).join(" ");
}

const SAYINGS = {
  change: (event) => {
    const parts = ["added", "changed", "deleted", "withheld"]
      .filter((word) => event[word])
      .map((word) => `${count(event[word])} ${word}`);
    const paths = (event.files ?? []).map((file) => file.path);
    const more = parts.length && paths.length > 1 ? `, and ${count(paths.length - 1)} more` : "";
    return [parts.join(", ") || "nothing", paths.length ? `· ${paths[0]}${more}` : ""];
  },
  sync: (event) => [
    event.worker,
    { files: "", ahead: "(ahead of the check)", groups: "agent groups", agents: "agents" }[event.what] ?? event.what,
    event.result === "ok" ? "" : event.result === "partial" ? "has not all" : event.result,
    event.files === null || event.files === undefined ? "" : `· ${count(event.files, "file")}`,
    event.bytes ? `· ${size(event.bytes)}` : "",
    event.seconds === null || event.seconds === undefined ? "" : `· ${took(event.seconds)}`,
    event.left_out?.length ? `· ${count(event.left_out.length)} left out` : "",
    event.why ? `· ${event.why}` : "",
  ],
  registration: (event) => [
    "agent", event.agent, event.name, event.what, event.ip ? `· ${event.ip}` : "", through(event), by(event.who),
  ],
  group: (event) => [
    event.agent ? `agent ${event.agent}` : "", event.what, event.agent ? "group" : "", event.group, by(event.who),
  ],
  login: (event) => [event.user, event.result, event.address ? `· from ${event.address}` : "", through(event)],
  request: (event) => [event.function, `· ${event.result}`, by(event.user), through(event)],
  worker: (event) => [
    event.worker, event.what, event.address ? `· ${event.address}` : "", event.why ? `· ${event.why}` : "",
  ],
  problem: (event) => [event.what === "ends" ? "over:" : "", event.text],
  process: (event) => [
    event.process, event.what, event.pid ? `· pid ${event.pid}` : "", event.why ? `· ${event.why}` : "",
  ],
  reload: (event) => [
    event.changed?.length ? event.changed.join(", ") : "nothing changed",
    needsRestart(event) ? `· waits for a restart: ${needsRestart(event)}` : "",
  ],
};

function through(event) {
  return event.through ? `· through ${event.through}` : "";
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
    .filter(([name, value]) => value !== 0 || !COUNTS.has(name))
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
