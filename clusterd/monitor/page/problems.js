/** All that hinders the node or one of its workers, the worst first. */

import { byId, keyed, make, mark, say } from "./dom.js";
import { count, span } from "./words.js";

const MOST_PATHS = 5;
const MOST = 30;
const WELL = new Set(["ready", "starting", "stopping"]);
const ADVICE = new Set(["rights", "monitor", "build"]); // as in verdict.py
const CLOCKS_APART_S = 2;
const SILENT_S = 10;

const bad = (where, text) => ({ tone: "bad", where, text });
const doubtful = (where, text) => ({ tone: "doubtful", where, text });
const note = (where, text) => ({ tone: "note", where, text });

/** Yields {tone, where, text}; a note needs no hurry. */
function* problems(status) {
  const { manifest, results = {}, agents, node, processes = [], workers = [], refused = [] } = status;
  if (status.problem) yield bad(node?.name ?? "node", status.problem);
  for (const row of processes) {
    if (!WELL.has(row.state)) yield bad(row.name, `the process is ${row.state}`);
    else if ((row.silent_s ?? 0) >= SILENT_S) {
      yield doubtful(row.name, `the process is silent for ${span(row.silent_s)}`);
    }
  }
  if (manifest?.withheld) {
    const cure = "put them back, or run clusterd sync --allow-delete";
    yield bad("files", `${count(manifest.withheld, "file")} lost at once, kept on the workers: ${cure}`);
  }
  if (manifest?.failure) yield bad("files", `the last scan failed: ${manifest.failure}`);
  for (const [subject, text] of Object.entries(status.problems ?? {})) {
    if (text !== status.problem) yield (ADVICE.has(subject) ? note : bad)(subject, text);
  }
  for (const row of workers) {
    if (row.state === "lost") {
      yield bad(row.name, `lost for ${span(row.lost_s ?? 0)}: ${row.why || "it hung up"} (${row.address})`);
    }
  }
  for (const row of refused) {
    const text = `refused: ${row.reason} (${row.address}, ${count(row.attempts, "attempt")})`;
    yield bad(row.name || row.address, text);
  }
  const away = new Set(workers.filter((row) => row.state !== "connected").map((row) => row.name));
  for (const [name, row] of Object.entries(results)) {
    if (away.has(name)) continue;
    const where = name === "self" ? node?.name ?? "this node" : name;
    if (row.result === "failed" || row.result === "unknown") {
      yield bad(where, `last sync ${row.result}: ${row.detail || "see the log"}`);
    }
    yield* ofPaths(where, row.problems);
    if (row.lag_s >= 60) yield doubtful(where, `behind for ${span(row.lag_s)}`);
  }
  yield* leftOut(status);
  for (const one of status.left_behind ?? []) yield doubtful("left behind", one.text);
  for (const [name, row] of Object.entries(status.clocks ?? {})) {
    if (Math.abs(row.offset_s) - row.off_by_s < CLOCKS_APART_S) continue;
    const way = row.offset_s > 0 ? "ahead of" : "behind";
    yield doubtful(name, `its clock is ${span(Math.abs(row.offset_s))} ${way} this node's`);
  }
  if (agents?.problem) yield bad("agents", `the agent database does not answer: ${agents.problem}`);
  for (const [name, row] of Object.entries(agents?.syncs ?? {})) {
    if (row.groups_problem) yield doubtful(name === "self" ? node?.name : name, row.groups_problem);
  }
  yield* ofPaths("files", manifest?.last_scan?.problems);
  if (manifest?.unwatched) yield note("files", `not watched: ${manifest.unwatched}`);
  if (manifest?.settling) yield note("files", `${count(manifest.settling)} have just vanished; that is looked into`);
  if (node?.needs_restart?.length) {
    yield note("settings", `wait for a restart: ${node.needs_restart.join(", ")}`);
  }
  if (status.log_level) {
    yield note("log", `at ${status.log_level.level} for ${span(status.log_level.left_s)} more`);
  }
}

/** Files that nodes leave out. What a worker's results name already is not said again; a worker does not answer for its
 * master. */
function* leftOut({ node, left_out: told = {}, results = {}, manifest }) {
  if (node?.type !== "master") return;
  for (const [name, row] of Object.entries(told)) {
    const said = name === node.name ? manifest?.last_scan?.problems ?? {} : results[name]?.problems ?? {};
    const rest = Object.entries(row.files).filter(([path]) => !(path in said));
    const hidden = row.count - Object.keys(row.files).length;
    yield* ofPaths(name, Object.fromEntries(rest.map(([path, why]) => [path, `left out: ${why}`])), hidden);
  }
}

/** `hidden`: how many more there are, of which nobody told the names. */
function* ofPaths(where, found, hidden = 0) {
  const paths = Object.entries(found ?? {});
  for (const [path, why] of paths.slice(0, MOST_PATHS)) yield doubtful(where, `${path}: ${why}`);
  const left = Math.max(0, paths.length - MOST_PATHS) + hidden;
  if (left > 0) yield doubtful(where, `and ${count(left, "more file")}`);
}

export function showProblems(status) {
  const all = [...problems(status)];
  const found = all.slice(0, MOST);
  if (all.length > MOST) found.push(note("", `and ${count(all.length - MOST)} more`));
  const serious = all.filter((one) => one.tone !== "note").length;
  say(byId("problems-count"), serious ? count(serious) : "");
  mark(byId("problems-none"), "hidden", found.length > 0);
  keyed(
    byId("problems-list"), found, (one) => `${one.where}\n${one.text.replace(/\d[\d.,]*/g, "#")}`,
    () => make("li", {}, make("b"), " ", make("span")),
    (node, one) => {
      mark(node, "data-tone", one.tone);
      say(node.firstChild, one.where);
      say(node.lastChild, one.text);
    },
  );
}
