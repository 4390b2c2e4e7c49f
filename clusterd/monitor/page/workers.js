/** What a status says of each node at the other end of a link, in one shape for the whole page. */

import { byName, span } from "./words.js";

const BEHIND = new Set(["failed", "unknown", "partly"]);

/**
 * Rows {key, name, state, word, short, about, title, sync}, by name. `state`: `equal`, `behind`, `syncing`, `partly`,
 * `failed`, `unknown`, `waiting` (nothing known of its files yet), `lost`, `expected`, `refused`; `word`: the same for
 * people, `short` where there is little room, if it is another one.
 */
export function links(status) {
  if (status.node?.type !== "master") return ownLink(status);
  const syncs = new Map((status.syncs ?? []).filter(isTransfer).map((sync) => [sync.peer, sync]));
  const rows = (status.workers ?? []).map((row) => worker(row, status, syncs.get(row.name)));
  const refused = (status.refused ?? []).map((row) => ({
    key: `refused ${row.name} ${row.address}`,
    name: row.name || row.address,
    state: "refused",
    word: "REFUSED",
    about: row.reason,
    title: `${row.address}: ${row.reason} (${row.attempts} attempts)`,
    sync: null,
  }));
  return [...rows.sort((one, other) => byName(one.name, other.name)), ...refused];
}

/** A check moves no bytes; only what does counts as a sync. */
export function isTransfer(sync) {
  return sync.kind !== "integrity check";
}

function worker(row, status, sync) {
  const result = status.results?.[row.name] ?? {};
  const about = [row.address];
  if (row.program && row.program !== "clusterd") about.push(row.program);
  if (row.version && row.version !== status.node.version) about.push(row.version);
  const shown = { key: row.name, name: row.name, sync: null };
  if (row.state === "lost") {
    const why = row.why || "hung up";
    return {
      ...shown, state: "lost", word: `LOST ${span(row.lost_s ?? 0)}`, about: why,
      title: `${row.name} (${row.address}) is LOST for ${span(row.lost_s ?? 0)}: ${why}`,
    };
  }
  if (row.state === "expected") {
    return { ...shown, state: "expected", word: "expected", about: about.join(" · "), title: "" };
  }
  about.push(`up ${span(Math.max(0, status.at - row.connected_at))}`);
  const { state, word, short } = files(result, sync);
  const heard = `last heard of ${span(Math.max(0, status.at - row.seen_at))} ago`;
  return {
    ...shown, state, word, short, about: about.join(" · "), sync: sync ?? null,
    title: [heard, `version ${row.version}`, row.program, result.detail].filter(Boolean).join(", "),
  };
}

function files(result, sync) {
  if (sync) return { state: "syncing", word: sync.step };
  if (BEHIND.has(result.result)) return { state: result.result, word: result.result };
  if (result.lag_s) return { state: "behind", word: `${span(result.lag_s)} behind`, short: span(result.lag_s) };
  if (result.result) return { state: "equal", word: "equal" };
  return { state: "waiting", word: "not checked yet" };
}

/** A worker has one link, to its master. */
function ownLink(status) {
  const peer = (status.peers ?? []).find((row) => row.kind === "master") ?? status.peers?.[0];
  if (!peer) return [];
  const own = status.results?.self ?? {};
  const sync = (status.syncs ?? []).find(isTransfer);
  const { state, word } = files(own, sync);
  return [{
    key: peer.name, name: peer.name, state, word, sync: sync ?? null,
    about: `${peer.address} · master · up ${span(Math.max(0, status.at - peer.connected_at))}`,
    title: `version ${peer.version}, ${peer.program}`,
  }];
}
