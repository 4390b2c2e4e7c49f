/** The heat map: a row for each worker, a column for each step of time, the newest at the right. */

import { byId, keyed, make, mark, printable, say } from "./dom.js";
import { byName, minute, seconds, span } from "./words.js";

/** Upper bounds in seconds; of each the colour, which the legend has from the style sheet, and the word. */
const STEPS = [
  { below: 0.05, colour: "lag-0", word: "equal" },
  { below: 10, colour: "lag-1", word: "under 10 s" },
  { below: 60, colour: "lag-2", word: "under 1 min" },
  { below: 600, colour: "lag-3", word: "under 10 min" },
  { below: Infinity, colour: "lag-4", word: "more" },
];
const AWAY = { colour: "lag-away", word: "away" };
const MINUTES = 60;
const LEAST_MINUTES = 10;
/** A node that has just started shows less than an hour. */
const AXIS_PX = 18;

export class LagMap {
  #canvas = byId("lag-canvas");
  #table = byId("lag-table").tBodies[0];
  #rows = []; // [name, values]
  #step_s = 15;
  #from = 0; // seconds of the epoch
  #columns = 240;
  #cursor = null; // {row, column}
  #geometry = null;
  #swatches = []; // of STEPS, then of AWAY

  constructor() {
    const legend = byId("lag-legend");
    for (const { colour, word } of [...STEPS, AWAY]) {
      const swatch = make("i", { "data-colour": colour });
      this.#swatches.push(swatch);
      legend.append(make("span", {}, swatch, word));
    }
    new ResizeObserver(() => this.draw()).observe(this.#canvas.parentElement);
    this.#canvas.addEventListener("pointermove", (event) => this.#point(event));
    this.#canvas.addEventListener("pointerleave", () => this.#move(null));
    this.#canvas.addEventListener("blur", () => this.#move(null));
    this.#canvas.addEventListener("keydown", (event) => this.#key(event));
    byId("lag-details").addEventListener("toggle", () => this.#fillTable());
  }

  /** `lag`: as /lag.json tells it. */
  take(lag) {
    const rows = Object.entries(lag.workers).sort(([one], [other]) => byName(one, other));
    // Before the first measurement of anybody there is nothing to be seen.
    const known = rows.map(([, values]) => values.findIndex((value) => value !== null)).filter((index) => index >= 0);
    const first = known.length ? Math.min(...known) : 0;
    this.#step_s = lag.step_s;
    this.#from = (seconds(lag.from) ?? 0) + first * lag.step_s;
    this.#rows = rows.map(([name, values]) => [name, values.slice(first)]);
    const longest = Math.max(0, ...this.#rows.map(([, values]) => values.length));
    const [least, most] = [LEAST_MINUTES, MINUTES].map((minutes) => Math.round((minutes * 60) / lag.step_s));
    this.#columns = Math.max(1, Math.min(most, Math.max(least, longest)));
    this.#changed();
  }

  /** The newest column, until /lag.json is asked again; `status` as it comes. */
  live(status) {
    const isMaster = status.node?.type === "master";
    say(byId("lag-none"), isMaster ? "Nothing measured yet." : "Only a master knows how far behind workers are.");
    if (!this.#from || !isMaster) return;
    const column = Math.floor((status.at - this.#from) / this.#step_s);
    const known = new Map(this.#rows);
    for (const { name, state } of status.workers ?? []) {
      const values = known.get(name) ?? [];
      if (column < 0 || column > this.#columns + 8) return;
      while (values.length < column) values.push(values.length ? values.at(-1) : null);
      const result = status.results?.[name];
      const isKnown = state === "connected" && result?.result;
      values[column] = isKnown ? Math.max(result.lag_s ?? 0, values[column] ?? 0) : null;
      known.set(name, values);
    }
    this.#rows = [...known].sort(([one], [other]) => byName(one, other));
    this.#changed();
  }

  #changed() {
    const minutes = Math.round((this.#columns * this.#step_s) / 60);
    say(byId("lag-count"), this.#rows.length ? `last ${minutes < 60 ? `${minutes} minutes` : "hour"}` : "");
    mark(byId("lag-figure"), "hidden", !this.#rows.length);
    mark(byId("lag-details"), "hidden", !this.#rows.length);
    mark(byId("lag-none"), "hidden", this.#rows.length > 0);
    this.draw();
    this.#fillTable();
  }

  /** Also when colours have changed. */
  draw() {
    if (!this.#rows.length) return;
    const canvas = this.#canvas;
    const width = Math.floor(canvas.parentElement.clientWidth);
    if (width < 50) return;
    const style = getComputedStyle(canvas);
    const font = style.fontSize;
    const row = this.#rows.length > 24 ? 14 : this.#rows.length > 10 ? 18 : 22;
    const draw = canvas.getContext("2d");
    draw.font = `${font} ${style.fontFamily}`;
    const names = Math.ceil(Math.max(...this.#rows.map(([name]) => draw.measureText(printable(name)).width)));
    const left = Math.min(names + 12, Math.floor(width * 0.3));
    // The newest columns stand at the right edge, whatever number there is.
    const last = Math.max(...this.#rows.map(([, values]) => values.length));
    const first = last - this.#columns;
    const height = this.#rows.length * row + AXIS_PX;
    const scale = devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
      canvas.width = Math.round(width * scale);
      canvas.height = Math.round(height * scale);
      canvas.style.height = `${height}px`;
    }
    draw.setTransform(scale, 0, 0, scale, 0, 0);
    draw.clearRect(0, 0, width, height);
    draw.font = `${font} ${style.fontFamily}`;
    draw.textBaseline = "middle";
    const colours = this.#swatches.map((swatch) => getComputedStyle(swatch).color);
    const [ink, quiet] = [style.color, getComputedStyle(byId("lag-legend")).color];
    const step = (width - left) / this.#columns;
    this.#geometry = { left, step, row, first };
    const gap = row > 14 ? 2 : 1;
    this.#rows.forEach(([name, values], index) => {
      const top = index * row;
      draw.fillStyle = this.#cursor?.row === index ? ink : quiet;
      draw.fillText(shortened(draw, printable(name), left - 10), 0, top + (row - gap) / 2 + 0.5);
      // Neighbours of one colour are one rectangle: no seams, fewer calls.
      for (let column = first; column < last; ) {
        const kind = this.#kind(values, column);
        let end = column + 1;
        while (end < last && this.#kind(values, end) === kind) end += 1;
        const [x, right] = [left + (column - first) * step, left + (end - first) * step];
        if (kind === "away") hatch(draw, x, top, right - x, row - gap, colours.at(-1));
        else if (kind !== "none") {
          draw.fillStyle = colours[kind];
          draw.fillRect(x, top, right - x, row - gap);
        }
        column = end;
      }
    });
    this.#axis(draw, { left, step, first, last, top: this.#rows.length * row, quiet, width });
    if (this.#cursor) {
      draw.strokeStyle = ink;
      draw.lineWidth = 1.5;
      const x = left + (this.#cursor.column - first) * step;
      draw.strokeRect(x - 1, this.#cursor.row * row - 0.5, Math.max(3, step + 2), row);
    }
  }

  #axis(draw, { left, step, first, last, top, quiet, width }) {
    draw.fillStyle = quiet;
    const every_s = (width - left < 420 ? 20 : 10) * 60;
    const start = this.#from + first * this.#step_s;
    const end = this.#from + last * this.#step_s;
    for (let at = Math.ceil(start / every_s) * every_s; at < end; at += every_s) {
      const x = left + ((at - start) / this.#step_s) * step;
      const text = minute(new Date(at * 1000));
      const room = draw.measureText(text).width;
      draw.fillRect(Math.round(x), top, 1, 3);
      if (x - room / 2 > left - 4 && x + room / 2 < width) draw.fillText(text, x - room / 2, top + AXIS_PX / 2 + 2);
    }
  }

  /** Index of STEPS, `away`, or `none` for a time before the worker was known. */
  #kind(values, column) {
    const value = values[column];
    if (value === undefined) return "none";
    return value === null ? "away" : STEPS.findIndex((step) => value < step.below);
  }

  #point(event) {
    if (!this.#geometry) return;
    const box = this.#canvas.getBoundingClientRect();
    const { left, step, row, first } = this.#geometry;
    const column = first + Math.floor((event.clientX - box.left - left) / step);
    const index = Math.floor((event.clientY - box.top) / row);
    const isInside = column >= first && column < first + this.#columns && index >= 0 && index < this.#rows.length;
    this.#move(isInside ? { row: index, column } : null);
  }

  #key(event) {
    if (!this.#geometry || !this.#rows.length) return;
    const last = this.#geometry.first + this.#columns - 1;
    const { row, column } = this.#cursor ?? { row: 0, column: last + 1 };
    const to = {
      ArrowLeft: [row, column - 1], ArrowRight: [row, column + 1], Home: [row, this.#geometry.first], End: [row, last],
      ArrowUp: [row - 1, column], ArrowDown: [row + 1, column], Escape: null,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.#move(to && {
      row: Math.max(0, Math.min(to[0], this.#rows.length - 1)),
      column: Math.max(this.#geometry.first, Math.min(to[1], last)),
    });
  }

  #move(cursor) {
    if (cursor === this.#cursor) return;
    this.#cursor = cursor;
    say(byId("lag-readout"), cursor ? this.#readout(cursor) : "");
    this.draw();
  }

  #readout({ row, column }) {
    const [name, values] = this.#rows[row];
    const at = minute(new Date((this.#from + column * this.#step_s) * 1000));
    const value = values[column];
    if (value === undefined) return `${name}, ${at}: not known`;
    return `${name}, ${at}: ${value === null ? "away" : value < 0.05 ? "equal" : `${span(value)} behind`}`;
  }

  #fillTable() {
    if (!byId("lag-details").open) return;
    keyed(
      this.#table, this.#rows, ([name]) => name,
      () => make("tr", {}, make("th", { scope: "row" }), ...[1, 2, 3, 4].map(() => make("td", { class: "number" }))),
      (node, [name, values]) => {
        const recent = values.slice(-this.#columns).filter((value) => value !== undefined);
        const now = recent.at(-1);
        const behind = recent.filter((value) => value >= 0.05).length * this.#step_s;
        const away = recent.filter((value) => value === null).length * this.#step_s;
        const texts = [
          now === null || now === undefined ? "away" : now < 0.05 ? "equal" : span(now),
          span(Math.max(0, ...recent.map((value) => value ?? 0))), span(behind), span(away),
        ];
        say(node.firstChild, name);
        texts.forEach((text, index) => say(node.children[index + 1], text));
      },
    );
  }
}

function shortened(draw, text, room) {
  if (draw.measureText(text).width <= room) return text;
  let kept = text;
  while (kept.length > 1 && draw.measureText(`${kept}…`).width > room) kept = kept.slice(0, -1);
  return `${kept}…`;
}

/** Nothing is known: thin lines instead of a colour. */
function hatch(draw, x, y, width, height, colour) {
  draw.save();
  draw.beginPath();
  draw.rect(x, y, width, height);
  draw.clip();
  draw.strokeStyle = colour;
  draw.lineWidth = 1;
  draw.beginPath();
  for (let at = x - height - ((x - height) % 5); at < x + width; at += 5) {
    draw.moveTo(at, y + height);
    draw.lineTo(at + height, y);
  }
  draw.stroke();
  draw.restore();
}
