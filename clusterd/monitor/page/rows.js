/**
 * A long list of which only the rows in view exist. All rows are of one height but those that are unfolded, whose
 * heights are measured. The row that has the focus exists wherever it is.
 */

import { mark } from "./dom.js";

const BEYOND = 6;
/** Rows above and below the view that exist already. */

export class Rows {
  #scroller;
  #list;
  #create;
  #items = [];
  #places = new Map(); // key to index
  #shown = new Map(); // key to element
  #extra = new Map(); // key to height beyond a row's
  #unfolded = []; // [index, that height] of those in the list
  #whole = 0; // height of the list
  #height = 28;
  #due = false;
  #near;
  #sizes;

  /**
   * `create`: makes the element of an item, whose key is `seq`; its `detail` is what is unfolded, if anything is.
   * `near`: is called when the last rows are in view.
   */
  constructor(scroller, list, create, near) {
    this.#scroller = scroller;
    this.#list = list;
    this.#create = create;
    this.#near = near;
    this.#sizes = new ResizeObserver(() => {
      this.#height = parseFloat(getComputedStyle(list).getPropertyValue("--row-px")) || this.#height;
      this.#later();
    });
    this.#sizes.observe(scroller);
    scroller.addEventListener("scroll", () => this.#later(), { passive: true });
    list.addEventListener("focusout", () => this.#later());
  }

  show(items, { keepsPlace = true } = {}) {
    const before = this.#items;
    const top = this.#scroller.scrollTop;
    const anchor = keepsPlace && top > this.#height ? before[this.#at(top)] : undefined;
    const shift = anchor ? top - this.#top(this.#places.get(anchor.seq)) : 0;
    this.#items = items;
    this.#places = new Map(items.map((item, index) => [item.seq, index]));
    this.#measure();
    const place = anchor && this.#places.get(anchor.seq);
    if (place !== undefined) this.#scroller.scrollTop = this.#top(place) + shift;
    else if (!keepsPlace) this.#scroller.scrollTop = 0;
    this.#draw();
  }

  /** The heights of rows have changed: of one that was unfolded, or of all. */
  resized() {
    this.#later();
  }

  indexOf(key) {
    return this.#places.get(key) ?? -1;
  }

  /** Scrolls as little as possible and returns the element; null if there is none. */
  reveal(index) {
    const item = this.#items[index];
    if (!item) return null;
    const [top, bottom] = [this.#top(index), this.#top(index + 1)];
    const view = this.#scroller;
    if (top < view.scrollTop) view.scrollTop = top;
    else if (bottom > view.scrollTop + view.clientHeight) view.scrollTop = Math.min(top, bottom - view.clientHeight);
    this.#draw();
    return this.#shown.get(item.seq);
  }

  get length() {
    return this.#items.length;
  }

  #later() {
    if (this.#due) return;
    this.#due = true;
    requestAnimationFrame(() => {
      this.#due = false;
      this.#draw();
    });
  }

  #measure() {
    for (const [key, node] of this.#shown) {
      if (node.detail) this.#extra.set(key, node.detail.offsetHeight);
      else this.#extra.delete(key);
    }
    this.#unfolded = [...this.#extra]
      .filter(([key]) => this.#places.has(key))
      .map(([key, height]) => [this.#places.get(key), height]);
  }

  #top(index) {
    let top = index * this.#height;
    for (const [place, height] of this.#unfolded) if (place < index) top += height;
    return top;
  }

  /** The row at a height. */
  #at(y) {
    let [low, high] = [0, Math.max(0, this.#items.length - 1)];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.#top(middle) <= y) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  #draw() {
    this.#measure();
    const { scrollTop, clientHeight } = this.#scroller;
    const first = Math.max(0, this.#at(scrollTop) - BEYOND);
    const last = Math.min(this.#items.length, this.#at(scrollTop + clientHeight) + 1 + BEYOND);
    const wanted = [];
    for (let index = first; index < last; index += 1) wanted.push(index);
    const focused = this.#places.get(Number(document.activeElement?.closest?.("[data-seq]")?.dataset.seq));
    if (focused !== undefined && this.#list.contains(document.activeElement)) {
      if (focused < first) wanted.unshift(focused);
      else if (focused >= last) wanted.push(focused);
    }
    const keys = new Set(wanted.map((index) => this.#items[index].seq));
    for (const [key, node] of this.#shown) {
      if (!keys.has(key)) {
        node.remove();
        this.#shown.delete(key);
      }
    }
    let cursor = this.#list.firstElementChild;
    let isNew = false;
    for (const index of wanted) {
      const item = this.#items[index];
      let node = this.#shown.get(item.seq);
      if (!node) {
        node = this.#create(item);
        isNew ||= Boolean(node.detail);
        this.#shown.set(item.seq, node);
      }
      mark(node, "aria-posinset", index + 1);
      mark(node, "aria-setsize", this.#items.length);
      const top = this.#top(index);
      if (node.top !== top) {
        node.top = top;
        node.style.transform = `translateY(${top}px)`;
      }
      if (node === cursor) cursor = cursor.nextElementSibling;
      else this.#list.insertBefore(node, cursor);
    }
    const whole = this.#top(this.#items.length);
    if (whole !== this.#whole) {
      this.#whole = whole;
      this.#list.style.height = `${whole}px`;
    }
    if (isNew) this.#later(); // unfolded rows that came back into view have a height only now
    if (this.#items.length && last >= this.#items.length) this.#near();
  }
}
