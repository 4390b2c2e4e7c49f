/** The events that the page holds, newest first, and those that a filter leaves. At most 10,000 each. */

import { paths, place } from "./events.js";
import { ask } from "./feed.js";

const AT_ONCE = 500;
export const MOST = 10000;
export const NO_FILTER = Object.freeze({ path: "", kind: "", node: "" });

/** The pattern for the node: a text without wildcards is looked for anywhere in a path. */
export function pattern(text) {
  return text && !/[*?[]/.test(text) ? `*${text}*` : text;
}

/** The same pattern for here; `*` also matches a slash, as in `clusterd history --path`. */
function expression(text) {
  const glob = pattern(text);
  let body = "";
  for (let at = 0; at < glob.length; at += 1) {
    const end = glob[at] === "[" ? glob.indexOf("]", at + 2) : -1;
    if (end > 0) {
      body += `[${glob.slice(at + 1, end).replace(/[\\[\]^]/g, "\\$&").replace(/^!/, "^")}]`;
      at = end;
    } else {
      body += { "*": "[^]*", "?": "[^]" }[glob[at]] ?? glob[at].replace(/[.+^${}()|\\/[\]]/, "\\$&");
    }
  }
  try {
    return new RegExp(`^${body}$`);
  } catch {
    return /$^/; // a range that runs backwards matches nothing
  }
}

export function matcher(filter) {
  const path = filter.path ? expression(filter.path) : null;
  return (event) =>
    (!filter.kind || event.kind === filter.kind) &&
    (!filter.node || place(event) === filter.node) &&
    (!path || paths(event).some((one) => path.test(one)));
}

export class Journal {
  #all = { events: [], whole: false, loading: false, next: null };
  #found = null;
  #filter = NO_FILTER;
  #matches = () => true;
  #changed;

  /** `changed`: is called whenever `events` is another list. */
  constructor(changed) {
    this.#changed = changed;
    this.failure = "";
  }

  get filter() {
    return this.#filter;
  }

  get isFiltered() {
    return this.#found !== null;
  }

  get events() {
    return this.#view.events;
  }

  /** Nothing older is to be had. */
  get isWhole() {
    return this.#view.whole;
  }

  /** The newest ones whatever the filter is. */
  get latest() {
    return this.#all.events;
  }

  get #view() {
    return this.#found ?? this.#all;
  }

  /** One event, as it happens. */
  add(event) {
    put(this.#all, [event]);
    if (this.#found && this.#matches(event)) put(this.#found, [event]);
    this.#changed();
  }

  /** Asks the node for what the filter allows: at once with what is here, then with what the node finds. */
  async choose(filter) {
    this.#filter = filter;
    const none = !filter.path && !filter.kind && !filter.node;
    this.#matches = matcher(filter);
    const found = none ? null : this.#all.events.filter(this.#matches);
    this.#found = found && { events: found, whole: false, loading: false, next: null };
    this.#changed();
    if (!none || !this.#all.events.length) await this.refresh();
  }

  /** The newest events again; after a connection was lost, too. */
  async refresh() {
    await this.#load(this.#view, this.#filter);
    if (this.#found) await this.#load(this.#all, NO_FILTER);
  }

  /** More, older ones. */
  async more() {
    const view = this.#view;
    const from = view.next ?? view.events.at(-1)?.seq;
    if (from === undefined || view.whole || view.loading || view.events.length >= MOST) return;
    await this.#load(view, this.#filter, from);
  }

  /**
   * The newest, or those before an event; what is here already stays. A node that has looked through a part of its
   * journal and found nothing is asked to go on, as long as the filter is the same.
   */
  async #load(view, filter, before = null) {
    const query = new URLSearchParams({ limit: AT_ONCE });
    if (before !== null) query.set("before", before);
    if (filter.kind) query.set("kind", filter.kind);
    if (filter.node) query.set("node", filter.node);
    if (filter.path) query.set("path", pattern(filter.path));
    view.loading = true;
    let looksOn = false;
    try {
      const { events, more, before: next } = await ask(`/history.json?${query}`);
      const isAll = !more && events.length < AT_ONCE; // `more`: the node stopped early, for size or time
      if (before === null && !isAll && events.length && events.at(-1).seq > (view.events[0]?.seq ?? Infinity)) {
        // So much has happened meanwhile that the rows here are not the next ones.
        view.events = [];
        view.whole = false;
      }
      const held = view.events.length;
      put(view, events);
      view.next = next ?? null;
      if (isAll || (!more && before !== null && view.events.length === held)) view.whole = true;
      looksOn = more && !events.length;
      this.failure = "";
    } catch (failure) {
      this.failure = String(failure.message ?? failure);
    }
    view.loading = false;
    this.#changed();
    if (looksOn && view === this.#view) this.more();
  }
}

/** Merges events into a view by `seq`, the highest first. */
function put(view, events) {
  if (!events.length) return;
  const one = events[0];
  if (events.length === 1 && (!view.events.length || one.seq > view.events[0].seq)) {
    view.events = [one, ...view.events].slice(0, MOST);
    return;
  }
  const merged = new Map([...view.events, ...events].map((event) => [event.seq, event]));
  view.events = [...merged.values()].sort((a, b) => b.seq - a.seq).slice(0, MOST);
}
