/** Numbers, times and events as people read them; the same words as `clusterd status` uses. */

const UNITS = ["B", "KiB", "MiB", "GiB"];
const DAY = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });
const TIME = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const MINUTE = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });

export function size(bytes) {
  if (bytes === null || bytes === undefined) return "–";
  let unit = 0;
  while (bytes >= 1024 && unit < UNITS.length - 1) {
    bytes /= 1024;
    unit += 1;
  }
  return `${unit === 0 || bytes >= 100 ? Math.round(bytes) : bytes.toFixed(1)} ${UNITS[unit]}`;
}

/** A length of time: 55 s, 12 min, 30 h, 9 d. */
export function span(seconds) {
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} d`;
}

/** How long something took, finer than `span`. */
export function took(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 0.0995) return `${Math.round(seconds * 1000)} ms`;
  return seconds < 10 ? `${seconds.toFixed(1)} s` : span(seconds);
}

export function count(number, one, many = `${one}s`) {
  const shown = (number ?? 0).toLocaleString("en");
  return one === undefined ? shown : `${shown} ${number === 1 ? one : many}`;
}

/** A moment in the viewer's time zone; the day only when it is not today. */
export function moment(date) {
  const time = TIME.format(date);
  return date.toDateString() === new Date().toDateString() ? time : `${DAY.format(date)} ${time}`;
}

export function minute(date) {
  return MINUTE.format(date);
}

/** Seconds of the epoch, of a number or of an ISO text; null for neither. */
export function seconds(at) {
  if (typeof at === "number") return at;
  const read = Date.parse(at);
  return Number.isNaN(read) ? null : read / 1000;
}

const BY_NUMBER = new Intl.Collator("en", { numeric: true });

/** w2 before w10. */
export function byName(one, other) {
  return BY_NUMBER.compare(one, other);
}
