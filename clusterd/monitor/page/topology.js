/** This node, and a line to every node that it is linked with; the line shows the state of the link. */

import { byId, keyed, make, mark, say } from "./dom.js";
import { count } from "./words.js";
import { links } from "./workers.js";

const MANY = 24;
/** From so many on there is room for names and short words only. */
const LONGEST_NAME = 48;
const CUT = new Set(["lost", "expected", "refused"]);

export function showTopology(status) {
  const rows = links(status);
  const { node } = status;
  const isMaster = node?.type === "master";
  say(byId("hub"), node?.name ?? "");
  mark(byId("hub"), "data-role", node?.type);
  const up = rows.filter((row) => !CUT.has(row.state)).length;
  const members = rows.filter((row) => row.state !== "refused").length;
  const shown = up === members ? count(up) : `${count(up)} of ${count(members)}`;
  say(byId("topology-count"), isMaster && members ? shown : "");
  const isMany = rows.length > MANY;
  mark(byId("main"), "data-many", isMany);
  const longest = Math.max(0, ...rows.map((row) => row.name.length));
  byId("tiles").style.setProperty("--name", Math.min(longest, LONGEST_NAME));
  keyed(byId("tiles"), rows, (row) => row.key, tile, (node, row) => update(node, row, isMany));
  const none = byId("tiles-none");
  mark(none, "hidden", rows.length > 0);
  if (status.peers === null) say(none, "The node does not say who is connected.");
  else say(none, isMaster ? "No worker is known yet." : "There is no link to the master.");
}

function tile() {
  const node = make(
    "li", {},
    make("span", { class: "name" }), make("span", { class: "unseen" }, ": "), make("span", { class: "word" }),
    make("span", { class: "about" }), make("progress", { max: 1, hidden: true }),
  );
  node.parts = Object.fromEntries(
    ["name", "word", "about"].map((part) => [part, node.querySelector(`.${part}`)]).concat([["bar", node.lastChild]]),
  );
  return node;
}

function update(node, row, isMany) {
  const { name, word, about, bar } = node.parts;
  mark(node, "data-state", row.state);
  mark(node, "data-link", CUT.has(row.state) ? row.state : "up");
  mark(node, "title", row.title || null);
  say(name, row.name);
  say(word, isMany ? row.short ?? row.word : row.word);
  say(about, row.about);
  const total = row.sync?.total_bytes;
  mark(bar, "hidden", !row.sync);
  mark(bar, "aria-label", row.sync ? `sync of ${row.name}` : null);
  mark(bar, "value", total ? Math.min(1, row.sync.done_bytes / total) : null);
}
