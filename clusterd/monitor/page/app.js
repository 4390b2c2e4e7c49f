/** The dashboard of one node: what it knows of itself and of its cluster, as it happens. */

import { byId, mark, say } from "./dom.js";
import { Feed, ask } from "./feed.js";
import { History } from "./history.js";
import { LagMap } from "./lag.js";
import { showProblems } from "./problems.js";
import { showRecentSyncs, showSyncs } from "./syncs.js";
import { showAgents, showProcesses } from "./tables.js";
import { followTheme } from "./themes.js";
import { showTopology } from "./topology.js";
import { showFacts, showVerdict, showWho } from "./verdict.js";
import { span } from "./words.js";

const PARTS = [showWho, showFacts, showTopology, showProblems, showSyncs, showProcesses, showAgents];
const LAG_EVERY_MS = 15000;
const LINKS = {
  connecting: () => "connecting",
  live: () => "live",
  lost: (silent_s) => `connection to the node lost ${span(silent_s)} ago`,
  never: () => "no connection to the node",
};

let status = null;
let link = { state: "connecting", silent_s: 0 };
const lag = new LagMap();
const history = new History(showRecentSyncs);

function show(found) {
  status = found;
  mark(byId("main"), "data-state", found.monitor?.fresh === false ? "old" : "current");
  for (const part of PARTS) part(found);
  lag.live(found);
  history.status(found);
  showVerdict(status, link);
}

function showLink(now) {
  link = now;
  say(byId("link"), LINKS[now.state](now.silent_s));
  mark(byId("link"), "data-state", now.state);
  mark(document.documentElement, "data-cut", now.state === "lost" || now.state === "never");
  showVerdict(status, link);
}

async function askLag() {
  try {
    lag.take(await ask("/lag.json?minutes=60"));
  } catch {
    // The next round asks again; the connection says what is wrong.
  }
}

followTheme(() => lag.draw());
const feed = new Feed({
  status: show,
  event: (event) => history.journal.add(event),
  link: showLink,
  opened: () => {
    history.journal.refresh();
    askLag();
  },
});
feed.start();
setInterval(() => link.state === "live" && askLag(), LAG_EVERY_MS);
