/** The verdict, and the facts below it. */

import { byId, keyed, make, mark, say } from "./dom.js";
import { count, size, span } from "./words.js";
import { links } from "./workers.js";

const ICONS = { OK: "ok", DEGRADED: "degraded", DOWN: "down" };
let spoken = "";
let traffic = null;

/** `link`: {state, silent_s} of the connection to the node; `status`: null before the first one. */
export function showVerdict(status, link) {
  const section = byId("verdict");
  const said = status?.verdict;
  const isCut = link.state === "lost" || link.state === "never";
  const level = isCut ? "NO CONTACT" : said?.level ?? "…";
  const reason = isCut ? "the node does not answer this page" : said?.reason ?? "waiting for the node";
  mark(section, "data-level", isCut || !said ? "unknown" : ICONS[said.level] ?? "unknown");
  say(byId("verdict-level"), level);
  say(byId("verdict-reason"), reason);
  const note = byId("verdict-note");
  const text = noteOf(status, link, isCut);
  mark(note, "hidden", !text);
  say(note, text);
  mark(byId("icon"), "href", `/page/icon-${isCut || !said ? "unknown" : ICONS[said.level] ?? "unknown"}.svg`);
  say(document.querySelector("title"), [level, status?.node?.name, "clusterd"].filter(Boolean).join(" · "));
  speak(`${level}: ${reason}`);
}

function noteOf(status, link, isCut) {
  if (isCut) {
    const said = status?.verdict;
    return said ? `Known until ${span(link.silent_s)} ago: ${said.level}, ${said.reason}` : "";
  }
  if (status?.monitor && status.monitor.fresh === false) {
    const age = status.monitor.answer_age_s;
    if (typeof age !== "number") return "The sync process has not answered yet; processes are current.";
    return `The sync process does not answer: workers, syncs and files are from ${span(age)} ago, processes current.`;
  }
  return "";
}

/** To screen readers only what is new: a reason whose numbers count on is not said again and again. */
function speak(text) {
  const gist = text.replace(/\d[\d.,]*/g, "#");
  if (gist === spoken) return;
  spoken = gist;
  say(byId("verdict-spoken"), text);
}

export function showFacts(status) {
  keyed(
    byId("facts"), [...facts(status)], ([name]) => name,
    ([name]) => make("div", {}, make("dt", {}, name), make("dd", {}, make("b"), " ", make("span"))),
    (node, [, value, more, tone]) => {
      say(node.querySelector("b"), value);
      say(node.querySelector("span"), more ?? "");
      mark(node, "data-tone", tone || null);
    },
  );
}

/** Yields [name, value, more, tone]. */
function* facts(status) {
  const { node, manifest, results, processes, agents } = status;
  const rows = links(status);
  if (node?.type === "master") {
    const members = rows.filter((row) => row.state !== "refused");
    const up = members.filter((row) => row.state !== "lost" && row.state !== "expected").length;
    const isLost = members.some((row) => row.state === "lost");
    yield ["workers", count(up), `of ${count(members.length)}`, isLost ? "bad" : ""];
    const behind = Object.entries(results ?? {}).filter(([, row]) => row.lag_s);
    const [name, row] = behind.sort(([, one], [, other]) => other.lag_s - one.lag_s)[0] ?? [];
    yield ["furthest behind", row ? span(row.lag_s) : "nobody", name ?? "", row?.lag_s >= 60 ? "doubtful" : ""];
  }
  if (manifest?.files !== undefined) yield ["files", count(manifest.files), size(manifest.total_bytes)];
  if (agents && !agents.problem) {
    const states = Object.values(agents.nodes ?? {});
    const all = states.flatMap((one) => Object.values(one)).reduce((sum, one) => sum + one, 0);
    const active = states.reduce((sum, one) => sum + (one.active ?? 0), 0);
    yield ["agents", count(all), all ? `${count(active)} active` : ""];
  }
  if (status.net) {
    const { bytes_in, bytes_out } = status.net;
    yield ["traffic", `${size(rate(status))}/s`, `${size(bytes_in + bytes_out)} in all`];
  }
  if (processes?.length) {
    const cpu = processes.reduce((sum, row) => sum + (row.cpu_percent ?? 0), 0);
    yield ["CPU", `${cpu.toFixed(cpu < 10 ? 1 : 0)} %`, "of a core"];
    yield ["memory", size(processes.reduce((sum, row) => sum + (row.uss_bytes ?? 0), 0)), ""];
  }
  if (status.started_at) yield ["up", span(status.at - status.started_at), ""];
}

/** Bytes a second, both ways, since the status before this one. */
function rate(status) {
  const now = { at: status.at, bytes: status.net.bytes_in + status.net.bytes_out };
  const before = traffic?.now.at === now.at ? traffic.before : traffic?.now;
  traffic = { before, now };
  if (!before || now.at <= before.at || now.bytes < before.bytes) return 0;
  return (now.bytes - before.bytes) / (now.at - before.at);
}

export function showWho(status) {
  const { node } = status;
  say(byId("who-name"), node?.name ?? "clusterd");
  const role = node?.type ? `${node.type} of ${node.cluster}` : "";
  say(byId("who-role"), [role, node?.version].filter(Boolean).join(" · "));
  say(byId("about"), [status.root, node?.version && `clusterd ${node.version}`].filter(Boolean).join(" · "));
}

