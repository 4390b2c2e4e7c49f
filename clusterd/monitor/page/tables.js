/** Processes of the node, and agents by the node that reports them. */

import { byId, keyed, make, mark, say } from "./dom.js";
import { byName, count, size, span } from "./words.js";

const WELL = new Set(["ready"]);
const ON_THEIR_WAY = new Set(["starting", "stopping"]);
const SILENT_S = 10;

export function showProcesses(status) {
  const rows = status.processes ?? [];
  say(byId("processes-count"), rows.length ? count(rows.length) : "");
  keyed(
    byId("processes-rows"), rows, (row) => row.name,
    () => make(
      "tr", {}, make("th", { scope: "row" }), make("td", { class: "state" }),
      make("td", { class: "number" }), make("td", { class: "number" }), make("td", { class: "number" }),
    ),
    (node, row) => {
      const [name, state, cpu, memory, restarts] = node.children;
      const isSilent = (row.silent_s ?? 0) >= SILENT_S;
      const tone = isSilent || ON_THEIR_WAY.has(row.state) ? "doubtful" : WELL.has(row.state) ? "" : "bad";
      mark(node, "data-tone", tone || null);
      mark(node, "title", row.pid ? `pid ${row.pid}, ${row.class}, life ${row.incarnation}` : null);
      say(name, row.name);
      say(state, isSilent ? `silent ${span(row.silent_s)}` : row.state);
      say(cpu, row.cpu_percent === null ? "–" : `${row.cpu_percent.toFixed(1)} %`);
      say(memory, size(row.uss_bytes));
      say(restarts, row.restarts ? count(row.restarts) : "–");
    },
  );
}

const STATES = ["active", "pending", "disconnected", "never_connected"];

export function showAgents(status) {
  const agents = status.agents;
  const nodes = Object.entries(agents?.nodes ?? {}).sort(([one], [other]) => byName(one, other));
  const sum = (states) => Object.values(states).reduce((whole, one) => whole + one, 0);
  const whole = nodes.reduce((all, [, states]) => all + sum(states), 0);
  say(byId("agents-count"), whole ? count(whole) : "");
  mark(byId("agents-table"), "hidden", !nodes.length);
  const none = byId("agents-none");
  mark(none, "hidden", nodes.length > 0 && !agents?.problem);
  if (agents?.problem) say(none, `The agent database does not answer: ${agents.problem}`);
  else say(none, agents ? "No agent is registered." : "Nothing is known of the agents.");
  keyed(
    byId("agents-rows"), nodes, ([name]) => name,
    () => {
      const cells = STATES.map((state) => make("td", { class: "number", "data-agents": state }));
      return make("tr", {}, make("th", { scope: "row" }), ...cells);
    },
    (node, [name, states]) => {
      const [title, ...cells] = node.children;
      say(title, name);
      cells.forEach((cell, index) => say(cell, states[STATES[index]] ? count(states[STATES[index]]) : "–"));
    },
  );
}
