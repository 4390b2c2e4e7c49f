/**
 * The connection to the node: server-sent events, and while those cannot be had, questions every few seconds. Says
 * whether the node is heard of, and what time it is there.
 */

const SILENT_S = 7;
/** A status comes every 2 s; after this time without one the connection counts as lost. */
const REOPEN_S = 20;
const PAUSES_S = [1, 2, 4, 8, 10];
const ASK_TIMEOUT_MS = 8000;

export async function ask(path) {
  const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(ASK_TIMEOUT_MS) });
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

export class Feed {
  #status;
  #event;
  #link;
  #opened;
  #source = null;
  #heardAt = null; // of performance.now(), ms
  #openedAt = 0;
  #failures = 0;
  #retry = null;
  #ahead = 0; // the node's clock minus ours, seconds

  /** `status`, `event`: take what comes; `link`: takes {state, silent_s}; `opened`: the connection is there, again. */
  constructor({ status, event, link, opened }) {
    this.#status = status;
    this.#event = event;
    this.#link = link;
    this.#opened = opened;
  }

  start() {
    this.#open();
    setInterval(() => this.#look(), 1000);
    addEventListener("online", () => this.#open());
    addEventListener("pageshow", (event) => event.persisted && this.#open());
  }

  /** Wall-clock seconds at the node. */
  now() {
    return Date.now() / 1000 + this.#ahead;
  }

  #open() {
    clearTimeout(this.#retry);
    this.#source?.close();
    this.#openedAt = performance.now();
    const source = new EventSource("/events");
    this.#source = source;
    source.addEventListener("open", () => {
      this.#failures = 0;
      this.#opened();
    });
    source.addEventListener("status", (message) => this.#heard(JSON.parse(message.data)));
    source.addEventListener("journal", (message) => this.#event(JSON.parse(message.data)));
    source.addEventListener("error", () => {
      if (source.readyState === EventSource.CLOSED && source === this.#source) this.#again();
      this.#look();
    });
  }

  /** The browser has given up: the server refused (too many viewers), or it is gone. */
  #again() {
    const pause_s = PAUSES_S[Math.min(this.#failures, PAUSES_S.length - 1)];
    this.#failures += 1;
    clearTimeout(this.#retry);
    this.#retry = setTimeout(async () => {
      try {
        this.#heard(await ask("/status.json"));
      } catch {
        // Said by #look.
      }
      this.#open();
    }, pause_s * 1000);
  }

  #heard(status) {
    this.#heardAt = performance.now();
    if (typeof status.at === "number") this.#ahead = status.at - Date.now() / 1000;
    this.#status(status);
    this.#look();
  }

  #look() {
    const now = performance.now();
    const silent_s = (now - (this.#heardAt ?? 0)) / 1000;
    const broken = this.#source?.readyState !== EventSource.OPEN;
    if (this.#heardAt === null) {
      this.#link({ state: now - this.#openedAt < 2000 && !this.#failures ? "connecting" : "never", silent_s });
    } else if (silent_s >= SILENT_S || (broken && silent_s >= 3)) {
      this.#link({ state: "lost", silent_s });
    } else {
      this.#link({ state: "live", silent_s });
    }
    if (silent_s >= REOPEN_S && now - this.#openedAt >= REOPEN_S * 1000) this.#open();
  }
}
