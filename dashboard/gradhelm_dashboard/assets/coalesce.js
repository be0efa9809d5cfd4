// Draw once per animation frame, however many messages came. A hidden tab draws nothing and
// catches up with one draw when it is looked at again.

export class Painter {
  #dirty = false;
  #asked = false;
  drawn = 0;

  constructor(draw, { frame = (act) => requestAnimationFrame(act), hidden = () => document.hidden } = {}) {
    this.draw = draw;
    this.frame = frame;
    this.hidden = hidden;
  }

  /** Something changed. */
  touch() {
    this.#dirty = true;
    if (this.#asked || this.hidden()) return;
    this.#asked = true;
    this.frame(() => {
      this.#asked = false;
      if (!this.#dirty || this.hidden()) return;
      this.#dirty = false;
      this.drawn++;
      this.draw();
    });
  }
}

/** Does something at most once in `ms` milliseconds, at once or as soon as it may; not in a hidden tab. */
export class Calm {
  #at = -Infinity;
  #timer = 0;

  constructor(ms, act, { now = () => performance.now(), later = (act, wait) => setTimeout(act, wait), hidden = () => document.hidden } = {}) {
    Object.assign(this, { ms, act, now, later, hidden });
  }

  /** It should be done. */
  touch() {
    const wait = this.#at + this.ms - this.now();
    if (wait <= 0) this.do();
    else if (!this.#timer) {
      this.#timer = this.later(() => {
        this.#timer = 0;
        if (!this.hidden()) this.do();
      }, wait);
    }
  }

  /** It is something else now: the next touch need not wait. */
  hurry() {
    this.#at = -Infinity;
  }

  /** It is done now. */
  do() {
    this.#at = this.now();
    this.act();
  }
}

/** Milliseconds until attempt n (from 0): doubling, at most 10 s, spread so that many pages do not
 * come back in the same moment. */
export function backOff(attempt, random = Math.random) {
  const full = Math.min(10_000, 250 * 2 ** attempt);
  return Math.round(full * (0.5 + random() / 2));
}
