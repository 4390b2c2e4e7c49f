/** The history of changes and of everything else that the journal holds. */

import { byId, keyed, make, mark, say } from "./dom.js";
import { KINDS, fields, place, summary, tone } from "./events.js";
import { Journal, MOST, NO_FILTER } from "./journal.js";
import { Rows } from "./rows.js";
import { byName, count, moment, size } from "./words.js";

const TYPING_MS = 250;
const FILES_AT_ONCE = 200;

export class History {
  #rows;
  #open = new Set(); // seq of the unfolded
  #nodes = new Set();
  #isOff = false;
  #noteLost = 0;
  #typing = null;
  #keeps = true; // the place in the list, when it is another one

  /** `changed`: is called when there are other events. */
  constructor(changed) {
    this.journal = new Journal(() => {
      this.#show();
      changed(this.journal.latest);
    });
    this.#rows = new Rows(byId("history-scroller"), byId("history-list"), (event) => this.#row(event), () => {
      if (!this.journal.isWhole && !this.journal.failure) this.journal.more();
    });
    byId("history-list").addEventListener("keydown", (event) => this.#key(event));
    for (const kind of KINDS) byId("filter-kind").append(make("option", { value: kind }, kind));
    const form = byId("history-filter");
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#choose();
    });
    form.addEventListener("reset", () => {
      setTimeout(() => {
        this.#choose();
        byId("filter-path").focus();
      });
    });
    form.addEventListener("input", (event) => {
      clearTimeout(this.#typing);
      this.#typing = setTimeout(() => this.#choose(), event.target.tagName === "SELECT" ? 0 : TYPING_MS);
    });
  }

  /** Learns from a status which nodes there are, and whether there is a journal at all. */
  status(status) {
    for (const name of [status.node?.name, ...(status.workers ?? []).map((row) => row.name)]) {
      if (name) this.#nodes.add(name);
    }
    this.#isOff = status.monitor !== undefined && !status.monitor.journal;
    this.#noteLost = status.monitor?.events_lost ?? 0;
    this.#offerNodes();
    this.#count();
  }

  #choose() {
    clearTimeout(this.#typing);
    const filter = {
      path: byId("filter-path").value.trim(), kind: byId("filter-kind").value, node: byId("filter-node").value,
    };
    const now = this.journal.filter;
    if (Object.keys(NO_FILTER).every((key) => filter[key] === now[key])) return;
    this.#open.clear();
    mark(byId("filter-clear"), "hidden", !filter.path && !filter.kind && !filter.node);
    this.#keeps = false;
    this.journal.choose(filter);
  }

  #show() {
    for (const event of this.journal.latest) if (place(event)) this.#nodes.add(place(event));
    this.#offerNodes();
    this.#count(); // unhides the list: it draws what its height has room for
    this.#rows.show(this.journal.events, { keepsPlace: this.#keeps });
    this.#keeps = true;
  }

  #offerNodes() {
    const names = [...this.#nodes].sort(byName).slice(0, 1000);
    const longest = Math.max(4, ...names.map((name) => name.length));
    byId("history-list").style.setProperty("--node-width", `${Math.min(16, longest) + 1}ch`);
    const offered = byId("filter-node");
    if (offered.options.length === names.length + 1) return;
    keyed(offered, ["", ...names], (name) => name, (name) => make("option", { value: name }, name || "all"), () => {});
  }

  #count() {
    const { events, isFiltered, isWhole, failure } = this.journal;
    const more = isWhole ? "" : events.length >= MOST ? ", the newest" : " and more";
    const lost = this.#noteLost ? `, ${count(this.#noteLost)} not recorded` : "";
    say(byId("history-count"), events.length ? `${count(events.length, "event")}${more}${lost}` : "");
    const none = byId("history-none");
    mark(none, "hidden", events.length > 0);
    mark(byId("history-scroller"), "hidden", events.length === 0);
    if (events.length) return;
    if (failure) say(none, `The history cannot be had: ${failure}.`);
    else if (this.#isOff) say(none, "The journal of this node is off (clusterd.journal in etc/cluster.json).");
    else if (isFiltered) say(none, isWhole ? "No event is like that." : "Looking further back ...");
    else say(none, "Nothing has happened yet.");
  }

  #key(event) {
    const row = event.target.closest("[data-seq]");
    if (!row || event.target.closest("[data-detail]")) return;
    const here = this.#rows.indexOf(Number(row.dataset.seq));
    const to = {
      ArrowDown: here + 1, ArrowUp: here - 1, PageDown: here + 10, PageUp: here - 10, Home: 0, End: Infinity,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const next = this.#rows.reveal(Math.max(0, Math.min(to, this.#rows.length - 1)));
    next?.querySelector("button").focus({ preventScroll: true });
  }

  #row(event) {
    const at = new Date(event.at);
    const id = `event-${event.seq}`;
    const isOpen = this.#open.has(event.seq);
    const button = make(
      "button", { type: "button", "aria-expanded": String(isOpen), "aria-controls": isOpen ? id : null },
      make("time", { datetime: event.at }, Number.isNaN(at.getTime()) ? event.at : moment(at)),
      make("span", { class: "node" }, place(event)),
      make("span", { class: "kind" }, event.kind),
      make("span", { class: "what" }, summary(event)),
    );
    const row = make("li", { "data-seq": event.seq, "data-tone": tone(event) || null }, button);
    const unfold = () => {
      row.detail = make("div", { class: "detail", id, "data-detail": true });
      this.#fill(row.detail, event);
      row.append(row.detail);
    };
    if (isOpen) unfold();
    button.addEventListener("click", () => {
      if (row.detail) {
        this.#open.delete(event.seq);
        row.detail.remove();
        row.detail = null;
      } else {
        this.#open.add(event.seq);
        unfold();
      }
      mark(button, "aria-expanded", String(row.detail !== null));
      mark(button, "aria-controls", row.detail && id);
      this.#rows.resized();
    });
    return row;
  }

  #fill(detail, event) {
    const facts = make("dl", {});
    for (const [name, value] of fields(event)) {
      facts.append(make("div", {}, make("dt", {}, name), make("dd", {}, value)));
    }
    detail.replaceChildren(facts);
    const files = Array.isArray(event.files) ? event.files : [];
    if (files.length) detail.append(this.#files(files, fileColumns, "Files of this change"));
    if (event.left_out?.length) detail.append(this.#files(event.left_out, leftOutColumns, "Files left out"));
  }

  /** A table of files, so many at once. */
  #files(files, columns, caption) {
    const body = make("tbody");
    const head = columns.map(({ name, type }) => make("th", { scope: "col", class: type }, name));
    const table = make(
      "table", {}, make("caption", { class: "unseen" }, caption), make("thead", {}, make("tr", {}, ...head)), body,
    );
    const box = make("div", { class: "files", tabindex: 0, role: "group", "aria-label": caption }, table);
    let shown = 0;
    const more = () => {
      const some = files.slice(shown, shown + FILES_AT_ONCE);
      shown += some.length;
      for (const file of some) {
        const cells = columns.map(({ cell, type }) => make("td", { class: type }, cell(file)));
        body.append(make("tr", { "data-what": file.what }, ...cells));
      }
      if (shown < files.length) {
        const button = make("button", { type: "button", class: "more" }, `${count(files.length - shown)} more files`);
        button.addEventListener("click", () => {
          button.remove();
          more();
          this.#rows.resized();
        });
        box.append(button);
      }
    };
    more();
    return box;
  }
}

const fileColumns = [
  { name: "what", type: "what", cell: (file) => file.what },
  { name: "path", type: "path", cell: (file) => file.path },
  { name: "size", type: "number", cell: (file) => pair(file.size_before, file.size, size) },
  { name: "digest", type: "digest", cell: (file) => pair(file.digest_before, file.digest, short) },
];
const leftOutColumns = [
  { name: "path", type: "path", cell: (file) => file.path },
  { name: "why", type: "why", cell: (file) => file.why },
];

function short(digest) {
  return digest.slice(0, 12);
}

/** Before and after; one of both where they are equal or one is missing. */
function pair(before, after, shown) {
  const [one, other] = [before, after].map((value) => (value === null || value === undefined ? "" : shown(value)));
  if (!one || !other || one === other) return other || one;
  return `${one} → ${other}`;
}
